"""The demo: one DPOJob on the local cluster, followed to its end."""
