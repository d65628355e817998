"""`make parity-accuracy MODEL=FOLDER DATA=FILE`: does a job end with the held-out reward accuracy that TRL reaches?

`dpojob run` trains one epoch as any user's job would: its own tokenisation, split, shuffled order, static shapes. TRL's DPOTrainer gets the same pairs in the same order and the same held-out pairs. Writes
tests/parity/accuracy.json, which docs/parity.md shows; fails if the accuracies are more than a percentage point apart.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.parity import cases, harness, page
from tests.trainer.jobs import Claim, mounted

from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import data
from dpojob_trainer.cli import manifest
from dpojob_trainer.training.batches import TrainBatches
from dpojob_trainer.training.shapes import padding_of

TOLERANCE = 0.01
# The lengths of `make demo DATA=FILE`.
SETTING = cases.Setting(batch=4, prompt=96, completion=64, learning_rate=2e-5)
CASE = cases.Case("accuracy", "smollm2", trl={"per_device_eval_batch_size": SETTING.batch}, setting=SETTING)
# Each side; a machine that does nothing else needs a quarter of it.
SECONDS = 3 * 3600
# Ray would run the host at a lower priority than TRL has.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "RAY_worker_niceness": "0"}


@dataclass(frozen=True)
class Held:
    """One side's evaluation of the held-out pairs after the last step; margin in units of reward."""

    accuracy: float
    margin: float
    loss: float


def job(claim: Claim) -> dict[str, Any]:
    """Return the manifest of the job: every default that costs no precision or time stays."""
    pvc = f"pvc://{claim.name}"
    spec = {
        "model": {"uri": f"{pvc}/{CASE.family}"},
        "dataset": {
            "uri": f"{pvc}/pairs.json",
            "columns": {"prompt": "conversations"},
            "evalFraction": 0.2,
            "gate": {"maxTruncatedFraction": 1},
        },
        "dpo": {"maxPromptLength": SETTING.prompt, "maxCompletionLength": SETTING.completion},
        "training": {
            "epochs": 1,
            "globalBatchSize": SETTING.batch,
            "learningRate": SETTING.learning_rate,
            "scheduler": "constant",
            "checkpointSteps": 1000,
        },
        "precision": {"params": "float32", "compute": "float32"},
        "gradientCheckpointing": "none",
        "accelerator": {"type": "v5litepod-1"},
        "output": {"uri": f"{pvc}/ours", "sampleCompletions": 0, "exportFormat": "none"},
        "runtime": {"platform": "cpu"},
    }
    meta = {"name": "accuracy", "namespace": "default"}
    return {"apiVersion": "dpojob.io/v1alpha1", "kind": "DPOJob", "metadata": meta, "spec": spec}


def run_ours(claim: Claim, file: Path) -> None:
    """Run the job as a user does.

    Raises:
        RuntimeError: it fails.
    """
    command = [
        "-m",
        "dpojob_trainer.cli",
        "run",
        str(file),
        "--pvc",
        f"{claim.name}={claim.path}",
    ]
    harness.run([sys.executable, *command], ENVIRONMENT, SECONDS)


def evaluated(claim: Claim) -> Held:
    """Return the job's last evaluation."""
    last = [line for line in claim.metrics("ours") if "eval/loss" in line][-1]
    return Held(last["eval/rewards/accuracies"], last["eval/rewards/margins"], last["eval/loss"])


def write_rows(claim: Claim, file: Path) -> tuple[int, int]:
    """Write both sets of pairs as the job trains and evaluates on them; return how many there are."""
    config = manifest.load(file)
    prepared = data.prepare(config, claim.path / CASE.family)
    assert prepared.evaluation is not None
    sets = {"rows": prepared.train.select(first_epoch(config, prepared)), "held": prepared.evaluation}
    for name, rows in sets.items():
        listed = list(rows.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"]))
        (claim.path / f"{CASE.name}.{name}.json").write_text(json.dumps(listed))
    return len(sets["rows"]), len(sets["held"])


def first_epoch(config: TrainerConfig, prepared: data.PreparedData) -> list[int]:
    """Return the pairs in the order in which the job trains on them."""
    training = config.training
    padding = padding_of(config, prepared.train, prepared.evaluation, pad_id=0)
    made = TrainBatches(prepared.train, training.global_batch_size, padding, training.seed, training.shuffle)
    steps = len(prepared.train) // training.global_batch_size
    return [int(row) for step in range(steps) for row in made.indices(step)]


def run_trl(claim: Claim, steps: int) -> Held:
    """Train TRL's side; return its evaluation after the last step."""
    (claim.path / "trl.json").write_text(json.dumps([harness.trl_case(CASE, steps, claim.path)]))
    harness.run_trl(claim.path, SECONDS)
    found = json.loads((claim.path / f"{CASE.name}.held.trl.json").read_text())
    return Held(found["eval_rewards/accuracies"], found["eval_rewards/margins"], found["eval_loss"])


def compare(model: Path, pairs: Path, folder: Path) -> dict[str, Any]:
    """Run both sides in `folder`; return the figures. Our side is not run again if `folder` has its summary."""
    with mounted(folder) as claim:
        for name, target in {CASE.family: model, "pairs.json": pairs}.items():
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(target.resolve())
        file = folder / "job.yaml"
        file.write_text(yaml.safe_dump(job(claim)))
        trained, held = write_rows(claim, file)
        if not (folder / "ours" / "summary.json").exists():
            run_ours(claim, file)
        ours = evaluated(claim)
        theirs = run_trl(claim, trained // SETTING.batch)
    figures = {"pairs": trained, "held_out": held, "file": pairs.name} | asdict(SETTING)
    return figures | {"dpojob": asdict(ours), "trl": asdict(theirs)}


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of SmolLM2-135M")
    parser.add_argument("--data", type=Path, required=True, help="ShareGPT pairs, as dpo_en_demo.json")
    parser.add_argument("--folder", type=Path, help="keep what both sides write here; ours is not run again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            found = compare(options.model, options.data, options.folder or Path(scratch))
        except subprocess.TimeoutExpired as error:
            print(f"not done within {error.timeout:.0f} s: {error.cmd}", file=sys.stderr)
            return 1
    page.ACCURACY.write_text(json.dumps(found, indent=1) + "\n")
    page.write()
    print(json.dumps(found))
    apart = abs(found["dpojob"]["accuracy"] - found["trl"]["accuracy"])
    if apart > TOLERANCE:
        print(f"the accuracies are {apart:.4f} apart, more than {TOLERANCE}", file=sys.stderr)
    return int(apart > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
