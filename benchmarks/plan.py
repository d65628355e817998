"""``make bench-plan``: what a plan extrapolates from few layers against the whole model's compilation.

Prints a table, writes benchmarks/results/plan.json and its section of docs/benchmarks.md, row by row. What was compiled is
kept, so a run that was broken off goes on; with --seconds it stops in time.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import document
from dpojob_trainer.plan import topology

topology.prepare()

from benchmarks.jobs import job_on  # noqa: E402
from dpojob_api.spec import GradientCheckpointing  # noqa: E402
from dpojob_api.trainer_config import TrainerConfig  # noqa: E402
from dpojob_trainer import easydel_compat  # noqa: E402

easydel_compat.prepare()

from dpojob_trainer.plan.cuts import Task, compile_cut  # noqa: E402
from dpojob_trainer.plan.extrapolate import Sample, extrapolate  # noqa: E402
from dpojob_trainer.plan.lengths import epoch_of  # noqa: E402
from dpojob_trainer.plan.measured import Measured, TooLarge  # noqa: E402
from dpojob_trainer.plan.probing import CUTS  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results" / "plan.json"
LAYERS = 12
COMMON: dict[str, Any] = {
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
# The widths of published models.
MODELS: dict[str, dict[str, Any]] = {
    "Qwen3-0.6B": {"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "head_dim": 128}
    | {"num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151936},
    "Llama-3.2-1B": {"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "head_dim": 64}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256},
    "Qwen2.5-0.5B": {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "head_dim": 64}
    | {"num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936},
    "Mistral-7B": {"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 32768}
    | {"tie_word_embeddings": False, "sliding_window": None},
    "gemma-2b": {"model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "head_dim": 256}
    | {"num_attention_heads": 8, "num_key_value_heads": 1, "vocab_size": 256000}
    | {"hidden_act": "gelu_pytorch_tanh"},
}
SLICES = ("v4-16", "v5litepod-16", "v6e-8")
# The first for all models on all slices, the others for so many models on the first slice.
POLICIES = (
    GradientCheckpointing.NOTHING_SAVEABLE,
    GradientCheckpointing.CHECKPOINT_DOTS,
    GradientCheckpointing.NONE,
)
FEW_MODELS = 2
HEAD = (
    "| model | slice | gradientCheckpointing | layers | GiB per chip: extrapolated / whole | error | heap | operations | cycles |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
INTRODUCTION = (
    f"`make bench-plan`: what a plan extrapolates from {CUTS[0]} and {CUTS[1]} layers against a whole compilation; the widths of published models with "
    f"{LAYERS} layers, jobs of 16 pairs of up to 1024 tokens, float32 parameters."
)
Row = dict[str, Any]
Case = tuple[str, str, GradientCheckpointing]


def main() -> int:
    """Compare what is asked for; return 0 when all is done, 75 when it must be called again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--slices", nargs="+", default=list(SLICES))
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="start nothing new after this time"
    )
    args = parser.parse_args()
    deadline = time.monotonic() + args.seconds
    rows = kept()
    for case in cases(args.models, args.slices):
        if time.monotonic() > deadline:
            print("out of time; call again to go on")
            return 75
        rows[case] = compare(*case)
        print(line(rows[case]), flush=True)
        keep_rows(list(rows.values()))
    print(table(list(rows.values())))
    return 0


def cases(models: list[str], slices: list[str]) -> list[Case]:
    """Return what is compared: every model on every slice, and some on the first slice under every policy."""
    first, *others = POLICIES
    return [*product(models, slices, [first]), *product(models[:FEW_MODELS], slices[:1], others)]


def kept() -> dict[Case, Row]:
    """Return the rows of earlier runs."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    return {(row["model"], row["slice"], GradientCheckpointing(row["policy"])): row for row in rows}


def keep_rows(rows: list[Row]) -> None:
    """Write the results and their section of the document."""
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    document.keep("plan", f"## Extrapolated plans\n\n{INTRODUCTION}\n\n{table(rows)}\n")


def table(rows: list[Row]) -> str:
    """Return all rows as a table."""
    return "\n".join([HEAD, *map(line, rows)])


def config_of(slice_type: str, policy: GradientCheckpointing) -> TrainerConfig:
    """Return a job of 16 pairs of up to 1024 tokens."""
    return job_on(
        slice_type,
        gradientCheckpointing=policy.value,
        dpo={"maxPromptLength": 512, "maxCompletionLength": 512},
        training={"globalBatchSize": 16, "maxSteps": 100},
    )


def compare(name: str, slice_type: str, policy: GradientCheckpointing) -> Row:
    """Compile the cuts and the whole model for a slice and return both results."""
    config = config_of(slice_type, policy)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(COMMON | MODELS[name]), encoding="utf-8")
        few, more, whole = (measured(config, Path(folder), count) for count in (*CUTS, LAYERS))
    line_ends = [Sample(count, one) for count, one in zip(CUTS, (few, more), strict=True)]
    guess = extrapolate(line_ends[0], line_ends[1], LAYERS)
    return {
        "model": name,
        "slice": slice_type,
        "policy": policy.value,
        "layers": LAYERS,
        "extrapolated": asdict(guess) | {"total": guess.total},
        "whole": asdict(whole) | {"total": whole.total},
        "errors": {
            "total": error(guess.total, whole.total),
            "temporaries": error(guess.temporaries, whole.temporaries),
            "flops": error(guess.flops, whole.flops),
            "cycles": error(guess.cycles, whole.cycles),
        },
    }


def measured(config: TrainerConfig, folder: Path, layers: int) -> Measured:
    """Compile so many layers.

    Raises:
        ValueError: they do not fit the chip.
    """
    found = compile_cut(Task(config, folder, epoch_of(config, None).longest, 100, layers)).step
    if isinstance(found, TooLarge):
        raise ValueError(found.words)
    return found


def error(guess: float, truth: float) -> float:
    """Return the relative error."""
    return guess / truth - 1


def line(row: Row) -> str:
    """Return a row of the table."""
    gib = " / ".join(f"{row[key]['total'] / 2**30:.4f}" for key in ("extrapolated", "whole"))
    parts = [f"{row['errors'][key]:+.2%}" for key in ("total", "temporaries", "flops", "cycles")]
    return f"| {row['model']} | {row['slice']} | {row['policy']} | {row['layers']} | {gib} | {' | '.join(parts)} |"


if __name__ == "__main__":
    raise SystemExit(main())
