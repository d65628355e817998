"""Jobs for tests of the trainer: configuration, preference data, and running the command."""

import json
import random
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpojob_api.constants import PVC_MOUNT_ROOT
from dpojob_api.result import TrainerResult, find_result
from dpojob_api.trainer_config import TrainerConfig, trainer_config
from dpojob_api.v1alpha1 import DPOJob

WORDS = ["time", "clarity", "respect", "answer", "device", "mesh", "short", "prompt", "good", "bad"]
TRAINING: dict[str, Any] = {
    "globalBatchSize": 8,
    "maxSteps": 12,
    "learningRate": 1e-3,
    "evalSteps": 6,
    "checkpointSteps": 5,
}


@dataclass(frozen=True)
class Claim:
    """A folder that stands for a mounted PersistentVolumeClaim."""

    name: str
    path: Path

    def config(self, output: str, /, *, attempt: int = 1, **spec: Any) -> TrainerConfig:
        """Return the configuration of a job of 12 steps on one host of 4 chips; `spec` replaces parts of its spec."""
        base: dict[str, Any] = {
            "model": {"uri": f"pvc://{self.name}/model"},
            "dataset": {
                "uri": f"pvc://{self.name}/pairs.jsonl",
                "evalFraction": 0.2,
                "columns": {"prompt": "prompt"},
            },
            "dpo": {"maxPromptLength": 32, "maxCompletionLength": 32},
            "training": TRAINING,
            "precision": {"params": "float32", "compute": "float32"},
            "accelerator": {"type": "v4-8"},
            "output": {"uri": f"pvc://{self.name}/{output}", "sampleCompletions": 0},
            "runtime": {"platform": "cpu"},
            "gradientCheckpointing": "none",
        }
        meta = {"name": output, "namespace": "test", "uid": f"uid-{output}"}
        return trainer_config(DPOJob.from_wire({"metadata": meta, "spec": base | spec}), attempt)

    def write_config(self, config: TrainerConfig) -> Path:
        """Write the file that the operator would mount."""
        path = self.path / f"{config.job.name}-{config.job.attempt}.json"
        path.write_text(config.to_json())
        return path

    def metrics(self, output: str) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl."""
        return [json.loads(line) for line in (self.path / output / "metrics.jsonl").read_text().splitlines()]

    def summary(self, output: str) -> dict[str, Any]:
        """Return summary.json."""
        found: dict[str, Any] = json.loads((self.path / output / "summary.json").read_text())
        return found


@contextmanager
def mounted(folder: Path) -> Iterator[Claim]:
    """Make `folder` a claim at the place where the operator would mount it.

    Raises:
        OSError: that place cannot be written.
    """
    link = Path(PVC_MOUNT_ROOT) / f"test-{uuid.uuid4().hex[:12]}"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(folder)
    try:
        yield Claim(link.name, folder)
    finally:
        link.unlink()


def write_pairs(path: Path, count: int) -> None:
    """Write pairs whose chosen answers begin with "yes" and whose rejected ones begin with "no"."""
    generator = random.Random(0)
    with path.open("w") as file:
        for _ in range(count):
            pair = {
                "prompt": " ".join(generator.choices(WORDS, k=generator.randint(2, 8))),
                "chosen": "yes " + " ".join(generator.choices(WORDS[:5], k=generator.randint(1, 6))),
                "rejected": "no " + " ".join(generator.choices(WORDS[5:], k=generator.randint(1, 6))),
            }
            file.write(json.dumps(pair) + "\n")


def write_ragged_pairs(path: Path, count: int) -> None:
    """Write pairs whose completions have one word, or many."""
    generator = random.Random(1)
    with path.open("w") as file:
        for number in range(count):
            words = generator.choices(WORDS, k=1 if number // 8 % 2 else 24)
            pair = {"prompt": f"pair {number}", "chosen": f"yes {' '.join(words)}", "rejected": "no"}
            file.write(json.dumps(pair) + "\n")


def command_of(arguments: list[str], env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    """Start the trainer's command; its output is one stream of text."""
    return subprocess.Popen(
        [sys.executable, "-m", "dpojob_trainer", *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_trainer(
    arguments: list[str], *, env: dict[str, str] | None = None, seconds: float = 300
) -> tuple[int, TrainerResult | None, str]:
    """Run the trainer's command; return its exit code, its result line and its whole output."""
    with command_of(arguments, env) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, find_result(output), output
