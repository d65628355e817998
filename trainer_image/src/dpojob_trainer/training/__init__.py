"""DPO on one host: batches, steps, loop, checkpoints, export. Everything here imports JAX."""
