"""The DPOJob contract: the one seam between the operator and the trainer.

Everything here is data and pure functions over it. The CRD, the API reference and the trainer's configuration
schema are generated from these models; neither kopf, a Kubernetes client nor JAX is imported.
"""
