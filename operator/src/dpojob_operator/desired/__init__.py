"""Builders of the objects that an attempt consists of: pure functions from a DPOJob to a manifest."""
