"""Models, data and manifests of the end-to-end jobs: real files, small enough for two cores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.trainer.tiny_models import QWEN3, write_model

Object = dict[str, Any]
PAIRS = 64


def write_inputs(folder: Path) -> None:
    """Write a tiny random Qwen3-shaped model, the same with a NaN in it, and preference pairs."""
    write_model(folder / "model", QWEN3)
    broken = write_model(folder / "broken-model", QWEN3)
    tensors = load_file(broken / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name] = np.full_like(tensors[name], np.nan)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    rows = [json.dumps(pair(number)) for number in range(PAIRS)]
    (folder / "pairs.jsonl").write_text("\n".join(rows) + "\n")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)


def pair(number: int) -> Object:
    """Return a pair whose preference any model can learn: the answer is a yes, never a no."""
    return {
        "prompt": [{"role": "user", "content": f"question {number} of {PAIRS}"}],
        "chosen": [{"role": "assistant", "content": "yes yes yes"}],
        "rejected": [{"role": "assistant", "content": "no no no"}],
    }


def job(name: str, **spec: Any) -> Object:
    """Return a small DPOJob; keyword arguments replace whole parts of its spec."""
    small = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "4Gi"}}
    base: Object = {
        "model": {"uri": "pvc://dpo-inputs/model"},
        "dataset": {
            "uri": "pvc://dpo-inputs/pairs.jsonl",
            "evalFraction": 0.25,
            "columns": {"prompt": "prompt"},
        },
        "dpo": {"maxPromptLength": 32, "maxCompletionLength": 32},
        "training": {"maxSteps": 12, "globalBatchSize": 8, "learningRate": 1e-3, "checkpointSteps": 6},
        "precision": {"params": "float32", "compute": "float32"},
        "gradientCheckpointing": "none",
        "plan": {"enforce": "Off"},
        "accelerator": {"type": "v4-16"},
        "output": {"uri": f"pvc://dpo-outputs/{name}", "sampleCompletions": 1, "sampleTokens": 4},
        "runtime": {"platform": "cpu", "head": {"resources": small}, "host": {"resources": small}},
    }
    return {
        "apiVersion": "dpojob.io/v1alpha1",
        "kind": "DPOJob",
        "metadata": {"name": name},
        "spec": base | spec,
    }


def single_host_job(name: str, **spec: Any) -> Object:
    """Return a small DPOJob for a slice of one host, half the work of :func:`job`'s for the machine that runs it."""
    return job(name, accelerator={"type": "v4-8"}, **spec)
