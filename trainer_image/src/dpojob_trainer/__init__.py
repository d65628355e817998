"""The trainer image: one driver on the Ray head, one JAX process per TPU host, EasyDeL's DPO."""
