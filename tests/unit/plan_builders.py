"""The configuration that tests of plans change."""

from typing import Any

from dpojob_api.trainer_config import TrainerConfig, trainer_config
from dpojob_api.v1alpha1 import DPOJob

META = {"name": "job", "namespace": "test", "uid": "uid"}


def config(**spec: Any) -> TrainerConfig:
    """Return the configuration of a job on v4-64 with changes."""
    base: dict[str, Any] = {
        "model": {"uri": "hf://org/model"},
        "dataset": {"uri": "hf://org/pairs"},
        "accelerator": {"type": "v4-64"},
        "output": {"uri": "gs://bucket/out"},
    }
    return trainer_config(DPOJob.from_wire({"metadata": META, "spec": base | spec}), attempt=1)
