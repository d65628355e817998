"""Runs both sides of the comparison, each in a process of its own, so that only one framework is in memory."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.parity import cases
from tests.trainer import tiny_models
from tests.trainer.jobs import write_pairs

ROOT = Path(__file__).resolve().parents[2]
TRL_PYTHON = ROOT / ".tools" / "trl" / "bin" / "python"
REAL_PAIRS = ROOT / "examples" / "data" / "preferences.jsonl"


@dataclass(frozen=True)
class Outcome:
    """How far the sides are apart in each metric, and TRL's first and last loss."""

    deviations: dict[str, float]
    first: float
    last: float

    @property
    def largest(self) -> float:
        """The largest deviation of all metrics."""
        return max(self.deviations.values())


Results = dict[str, Outcome]


def compare(
    chosen: Iterable[cases.Case],
    steps: int,
    folder: Path,
    *,
    real: Path | None = None,
    seconds: float = 3600,
) -> Results:
    """Return the outcome of each case by its name; models, data and curves are left in `folder`.

    `real` is the model of the cases with real weights. A case whose curves are in `folder` already is not run again.

    Raises:
        RuntimeError: a side ended with an error, or TRL is not installed.
    """
    wanted = list(chosen)
    if not TRL_PYTHON.exists():
        raise RuntimeError(f"{TRL_PYTHON} does not exist; `make .tools/trl/.stamp` installs TRL")
    for name, family in cases.FAMILIES.items():
        tiny_models.write_model(folder / name, family)
        write_pairs(folder / f"{name}.jsonl", cases.PAIRS)
    if real is not None and not (folder / "smollm2").exists():
        (folder / "smollm2").symlink_to(real.resolve())
        (folder / "smollm2.jsonl").symlink_to(REAL_PAIRS)
    if missing := [case for case in wanted if not (folder / f"{case.name}.trl.json").exists()]:
        run_both(missing, steps, folder, seconds)
    return {case.name: outcome(folder, case) for case in wanted}


def run_both(missing: list[cases.Case], steps: int, folder: Path, seconds: float) -> None:
    """Run the cases on our side, which also writes the rows, then on TRL's.

    Raises:
        RuntimeError: a side ended with an error.
    """
    ours = [sys.executable, "-m", "tests.parity.ours", str(folder), str(steps)]
    run([*ours, *(case.name for case in missing)], {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}, seconds)
    (folder / "trl.json").write_text(json.dumps([trl_case(case, steps, folder) for case in missing]))
    run_trl(folder, seconds)


def run_trl(folder: Path, seconds: float) -> None:
    """Run the cases of the folder's trl.json.

    Raises:
        RuntimeError: it ended with an error.
    """
    script = Path(__file__).with_name("trl_side.py")
    run([str(TRL_PYTHON), str(script), str(folder)], {"HF_HUB_OFFLINE": "1"}, seconds)


def outcome(folder: Path, case: cases.Case) -> Outcome:
    """Compare the curves of both sides."""
    ours, theirs = (json.loads((folder / f"{case.name}.{side}.json").read_text()) for side in ("ours", "trl"))
    return Outcome(cases.deviations(ours, theirs), theirs[0]["loss"], theirs[-1]["loss"])


def trl_case(case: cases.Case, steps: int, folder: Path) -> dict[str, Any]:
    """Return the case as `trl_side.py` reads it."""
    arguments = {
        "per_device_train_batch_size": case.setting.batch,
        "max_steps": steps,
        "learning_rate": case.setting.learning_rate,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "train_sampling_strategy": "sequential",
        "max_length": None,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    model = str(folder / case.family)
    return {
        "name": case.name,
        "model": model,
        "arguments": arguments | case.trl,
        "zero_reference": case.zero_reference,
    }


def versions() -> dict[str, str]:
    """Return the versions of what is compared."""
    ours = "from importlib.metadata import version as v; print(*[f'{n} {v(n)}' for n in %r], sep='\\n')"
    lines = _output([sys.executable, "-c", ours % (["easydel", "jax", "flax", "optax"],)])
    lines += _output([str(TRL_PYTHON), "-c", ours % (["trl", "torch", "transformers", "accelerate"],)])
    return dict(line.split(" ", 1) for line in lines)


def _output(command: list[str]) -> list[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def run(command: list[str], extra: dict[str, str], seconds: float) -> None:
    """Run a command with the project's packages at hand.

    Raises:
        RuntimeError: it ended with an error; the message has the end of its output.
        subprocess.TimeoutExpired: it takes longer.
    """
    env = {key: value for key, value in os.environ.items() if key not in ("USE_TORCH", "PYTHONPATH")} | extra
    if "-m" in command:
        paths = [ROOT, ROOT / "operator/src", ROOT / "trainer_image/src"]
        env["PYTHONPATH"] = os.pathsep.join(map(str, paths))
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} ended with {done.returncode}:\n{done.stdout[-4000:]}")
