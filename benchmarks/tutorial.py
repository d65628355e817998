"""``make bench-tutorial``: the EasyDeL tutorial's job (Qwen3-14B, v4-64) ahead of time, by EasyDeL's own step and by ours.

Compiles few layers for the slice, without a TPU and without weights, and extrapolates to all 40, as ``dpojob plan`` does.
Writes benchmarks/results/tutorial.json and the table in docs/benchmarks.md after each case. What was compiled is kept, so a
run that was broken off goes on.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dpojob_trainer.plan import topology

topology.prepare()

import numpy as np  # noqa: E402
import yaml  # noqa: E402

from benchmarks import document  # noqa: E402
from benchmarks.trainers.stock_step import stock_step  # noqa: E402
from dpojob_api.accelerator import chips  # noqa: E402
from dpojob_api.spec import GradientCheckpointing  # noqa: E402
from dpojob_api.trainer_config import TrainerConfig, trainer_config  # noqa: E402
from dpojob_api.v1alpha1 import DPOJob  # noqa: E402
from dpojob_trainer import easydel_compat  # noqa: E402
from dpojob_trainer.data.lengths import PairLengths  # noqa: E402
from dpojob_trainer.plan import lowering, measure  # noqa: E402
from dpojob_trainer.plan.extrapolate import Sample, extrapolate, line_through  # noqa: E402
from dpojob_trainer.plan.lengths import Epoch, epoch_of  # noqa: E402
from dpojob_trainer.plan.measured import Measured, TooLarge  # noqa: E402
from dpojob_trainer.plan.probing import CUTS  # noqa: E402
from dpojob_trainer.plan.timing import mean_step, step_time  # noqa: E402
from dpojob_trainer.training.plan import total_steps  # noqa: E402
from dpojob_trainer.training.utilisation import flops_per_token, share_of_peak  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "qwen3-14b-orpo-dpo-mix.yaml"
MODEL = ROOT / "examples" / "qwen3-14b"
RESULTS = ROOT / "benchmarks" / "results" / "tutorial.json"
PAIRS = 20_000
LIMIT = 2048


@dataclass(frozen=True)
class Case:
    """One row: whose step, and what the backward pass keeps."""

    name: str
    ours: bool
    keeps: GradientCheckpointing

    @property
    def words(self) -> str:
        """How the table says it."""
        return f"fsdp 32, {self.keeps.value}"


CASES = (
    Case("stock, the tutorial's text", False, GradientCheckpointing.NONE),
    Case("stock, layers computed again", False, GradientCheckpointing.NOTHING_SAVEABLE),
    Case("ours", True, GradientCheckpointing.NOTHING_SAVEABLE),
)


def histogram() -> PairLengths:
    """Return lengths as docs/adr/0016 assumes them of orpo-dpo-mix-40k, in tokens and at most the job's limits.

    Log-normal: prompts of median 220 and sigma 1.1, completions of median 330 and sigma 0.75 whose sides correlate by 0.7.
    """
    generator = np.random.default_rng(0)
    prompt = 220 * np.exp(1.1 * generator.standard_normal(PAIRS))
    sides = generator.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], PAIRS)
    chosen, rejected = (330 * np.exp(0.75 * side) for side in sides.T)
    return PairLengths(*(np.clip(np.rint(n), 1, LIMIT).astype(np.int64) for n in (prompt, chosen, rejected)))


def job(case: Case) -> TrainerConfig:
    """Return the tutorial's job in a case's setting; the reference is live in EasyDeL's own step, which takes the file's order."""
    body = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    spec = body["spec"]
    spec["mesh"] |= {"sp": 1, "fsdp": -1}
    spec["dpo"]["referenceLogProbs"] = "precomputed" if case.ours else "live"
    spec["training"]["shuffle"] = case.ours
    spec["gradientCheckpointing"] = case.keeps.value
    body["metadata"] |= {"namespace": "bench", "uid": "bench"}
    return trainer_config(DPOJob.from_wire(body), attempt=1)


@dataclass(frozen=True)
class Cut:
    """A model of few layers: what its step takes, and how many weights a token is multiplied with."""

    layers: int
    step: Measured | TooLarge
    multiplied: int


def cut_of(case: Case, config: TrainerConfig, epoch: Epoch, layers: int) -> Cut:
    """Compile a case's step with so many layers for the longest length."""
    devices = topology.devices_of(config.plan, config.generation)
    step: Callable[..., Any] = lowering.train_step if case.ours else stock_step
    with topology.seen(devices), lowering.cut_model(MODEL, layers) as folder:
        found = step(config, folder, epoch.longest, total_steps(config.training, epoch.pairs))
        print(f"{case.name}: compiling {layers} layers", flush=True)
        taken = measure.measure(found.traced, found.traced.lower(), devices, dict(config.xla_flags))
    return Cut(layers, taken, found.sizes.multiplied)


def row_of(case: Case) -> dict[str, Any]:
    """Return a case's estimates; EasyDeL's own step pads every pair to the limits and sets no option of the compiler."""
    config = job(case)
    if not case.ours:
        training = config.training.model_copy(update={"length_buckets": 1})
        config = config.model_copy(update={"training": training, "xla_flags": {}})
    epoch, layers = epoch_of(config, histogram()), lowering.layers_of(MODEL)
    cuts = [cut_of(case, config, epoch, count) for count in CUTS]
    found: dict[str, Any] = {
        "name": case.name,
        "setting": case.words,
        "lengths": {load.sequence: load.batches for load in epoch.loads},
        "tokens_per_step": epoch.tokens,
        "usable_bytes": chips()[config.generation].usable_hbm_bytes,
    }
    samples = [Sample(cut.layers, cut.step) for cut in cuts if isinstance(cut.step, Measured)]
    if len(samples) < len(cuts):
        return found | {"bytes_per_chip": None}
    few, more = samples
    whole = extrapolate(few, more, layers)
    weights = line_through(few.layers, more.layers, layers)(cuts[0].multiplied, cuts[-1].multiplied)
    estimates = timed(config, epoch, whole, weights)
    return found | {"bytes_per_chip": whole.total, "step": asdict(whole)} | estimates


def timed(config: TrainerConfig, epoch: Epoch, whole: Measured, weights: float) -> dict[str, float]:
    """Return the seconds of a step on average over the histogram, and the share of the peak on real tokens.

    Useful are 6 FLOP per weight and token: a reference that is computed again in every step is not.
    """
    chip, devices = chips()[config.generation], config.plan.chips
    longest = step_time(whole, chip, devices)
    seconds = mean_step({epoch.longest.sequence: longest}, epoch.loads)
    useful = flops_per_token(weights, reference=False) * epoch.tokens
    return {
        "longest_step_seconds": longest.seconds,
        "step_seconds": seconds,
        "mfu": share_of_peak(useful, seconds, chip, devices),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown of the results."""
    lengths = histogram()
    mean = np.mean([2 * lengths.prompt + lengths.chosen + lengths.rejected])
    lines = [
        "## The tutorial's job, estimated",
        "",
        "`make bench-tutorial`: Qwen3-14B, 32 pairs of at most 2048 + 2048 tokens a step, bfloat16, AdamW, v4-64 (32 chips, "
        f"2x4x4). *Estimates*, no TPU has run them: bytes by the compiler with {CUTS[0]} and {CUTS[1]} layers, extrapolated to 40; seconds by its "
        "cycles and the collectives' bytes, as `dpojob plan` models them. Assumed lengths (ADR 16): log-normal, prompts of "
        f"median 220 and sigma 1.1, completions of median 330 and sigma 0.75; {mean:.0f} tokens a pair on average.",
        "",
        "| step | mesh, kept | GiB per chip | fits | s per step, longest | s per step, mean | MFU on real tokens |",
        "|---|---|---|---|---|---|---|",
        *map(_line, rows),
    ]
    timed_rows = {row["name"]: row["step_seconds"] for row in rows if row.get("step_seconds")}
    if len(timed_rows) > 1:
        *others, best = timed_rows
        told = [f"{timed_rows[name] / timed_rows[best]:.1f} × {name}" for name in others]
        lines += ["", f"Steps per second of {best}: {', '.join(told)}."]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    size = row["bytes_per_chip"]
    if size is None:
        return f"| {row['name']} | {row['setting']} | refused with few layers | no | | | |"
    fits = "yes" if size <= row["usable_bytes"] else "no"
    return (
        f"| {row['name']} | {row['setting']} | {size / 2**30:.1f} of {row['usable_bytes'] / 2**30:.1f} | {fits} "
        f"| {row['longest_step_seconds']:.1f} | {row['step_seconds']:.1f} | {row['mfu']:.1%} |"
    )


def main() -> None:
    """Compile, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], choices=[case.name for case in CASES])
    args = parser.parse_args()
    easydel_compat.prepare()
    rows: list[dict[str, Any]] = []
    for case in CASES:
        if args.only and case.name not in args.only:
            continue
        rows.append(row_of(case))
        RESULTS.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        document.keep("tutorial", table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
