"""Jobs that are only planned or lowered: what a benchmark does not name is the spec's default."""

from typing import Any

from dpojob_api.trainer_config import TrainerConfig, trainer_config
from dpojob_api.v1alpha1 import DPOJob


def job_on(slice_type: str, **spec: Any) -> TrainerConfig:
    """Return a job's first attempt on a slice; `spec` adds to the fields that every job must have, or replaces them."""
    required = {
        "model": {"uri": "pvc://inputs/model"},
        "dataset": {"uri": "pvc://inputs/pairs.jsonl"},
        "training": {"globalBatchSize": 16},
        "accelerator": {"type": slice_type},
        "output": {"uri": "pvc://outputs/out"},
    }
    meta = {"name": "bench", "namespace": "bench", "uid": "bench"}
    return trainer_config(DPOJob.from_wire({"metadata": meta, "spec": required | spec}), attempt=1)
