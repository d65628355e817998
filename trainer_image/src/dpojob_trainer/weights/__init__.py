"""Weights in and out: Hugging Face safetensors to a sharded EasyDeL module and back, without torch, bit for bit."""

from dpojob_trainer.weights.exporter import export_model
from dpojob_trainer.weights.loader import load_model

__all__ = ["export_model", "load_model"]
