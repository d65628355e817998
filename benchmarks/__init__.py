"""Measurements; each writes benchmarks/results/*.json, from which docs/benchmarks.md is rendered."""
