"""DPOJob manifests for tests of the data: a small valid one, and parts of it replaced."""

import json
from pathlib import Path
from typing import Any

import yaml

from dpojob_api.trainer_config import TrainerConfig, trainer_config
from dpojob_api.v1alpha1 import DPOJob

Row = dict[str, Any]


def manifest(**spec: Any) -> Row:
    """Return a manifest; `spec` is merged into its spec, one level deep."""
    base: Row = {
        "model": {"uri": "pvc://inputs/model"},
        "dataset": {"uri": "pvc://inputs/pairs.jsonl"},
        "dpo": {"maxPromptLength": 64, "maxCompletionLength": 32},
        "training": {"globalBatchSize": 2},
        "mesh": {"fsdp": 2, "tp": -1},
        "accelerator": {"type": "v4-8"},
        "output": {"uri": "pvc://outputs/job"},
    }
    merged = base | {name: base.get(name, {}) | part for name, part in spec.items()}
    return {"apiVersion": "dpojob.io/v1alpha1", "kind": "DPOJob", "metadata": {"name": "job"}, "spec": merged}


def config(**spec: Any) -> TrainerConfig:
    """Return the configuration of a job on this manifest."""
    body = manifest(**spec)
    body["metadata"] |= {"namespace": "default", "uid": "u"}
    return trainer_config(DPOJob.from_wire(body), attempt=1)


def write(folder: Path, rows: list[Row], body: Row) -> tuple[Path, Path]:
    """Write a manifest and its pairs; return both paths."""
    job, pairs = folder / "job.yaml", folder / "pairs.jsonl"
    job.write_text(yaml.safe_dump(body))
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return job, pairs


def chat(question: str, chosen: str, rejected: str) -> Row:
    """Return a pair of whole conversations with one turn."""
    return {
        side: [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for side, answer in (("chosen", chosen), ("rejected", rejected))
    }


def chats(count: int) -> list[Row]:
    """Return different pairs."""
    return [chat(f"What is {number}?", f"It is {number}.", "no") for number in range(count)]
