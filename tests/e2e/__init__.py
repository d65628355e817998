"""Whole path on real pods of the local cluster; only the TPU chips are virtual CPU devices."""
