"""``make bench-scaling``: the same steps on one process, on two, and on eight virtual devices of one, in turn.

Processes and devices of one machine share its cores, so nothing gets faster: what the table shows is what dividing the
work costs. Writes benchmarks/results/scaling.json and the table in docs/benchmarks.md.
"""

import argparse
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.trainer import tiny_models
from tests.trainer.jobs import Claim, write_pairs

from benchmarks import document
from dpojob_api.reasons import TrainerReason
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import machine

RESULTS = Path(__file__).resolve().parent / "results" / "scaling.json"
BATCH, CLAIM = 8, "bench"


@dataclass(frozen=True)
class Layout:
    """How many processes there are, and how many devices they have together, over which parameters are divided."""

    processes: int
    devices: int

    @property
    def name(self) -> str:
        """How the table and the output folder call it."""
        return f"{self.processes} x {self.devices // self.processes}"


LAYOUTS = (Layout(1, 1), Layout(2, 2), Layout(1, 8))


def job(folder: Path, layout: Layout, steps: int, tokens: int) -> TrainerConfig:
    """Return a job of equal steps on a layout's devices."""
    config = Claim(CLAIM, folder).config(
        layout.name.replace(" ", ""),
        dataset={"uri": f"pvc://{CLAIM}/pairs.jsonl", "columns": {"prompt": "prompt"}},
        dpo={"maxPromptLength": tokens, "maxCompletionLength": tokens},
        training={
            "globalBatchSize": BATCH,
            "maxSteps": steps,
            "learningRate": 1e-5,
            "checkpointSteps": 10**6,
            "lengthBuckets": 1,
        },
        output={
            "uri": f"pvc://{CLAIM}/{layout.name.replace(' ', '')}",
            "sampleCompletions": 0,
            "exportFormat": "none",
        },
    )
    mesh = config.plan.mesh.model_copy(update={"fsdp": layout.devices})
    plan = {"chips": layout.devices, "hosts": 1, "chips_per_host": layout.devices, "mesh": mesh}
    return config.model_copy(update={"plan": config.plan.model_copy(update=plan)})


def seconds(folder: Path, layout: Layout, steps: int, tokens: int) -> float:
    """Train on a layout and return a step's seconds, the median of all but the first.

    Raises:
        SystemExit: the run failed.
    """
    config = job(folder, layout, steps, tokens)
    output = folder / config.output.uri.rsplit("/", 1)[1]
    shutil.rmtree(output / "checkpoints", ignore_errors=True)
    (output / "metrics.jsonl").unlink(missing_ok=True)
    settings = machine.Machine({CLAIM: folder}, layout.processes, False, None)
    result = machine.run(config, settings, lambda event: None)
    if result.reason is not TrainerReason.SUCCEEDED:
        raise SystemExit(f"{layout.name}: {result.reason.value}: {result.message}")
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    taken: list[float] = [line["seconds"] for line in lines if "loss" in line]
    return median(taken[1:])


def table(result: dict[str, Any]) -> str:
    """Return the Markdown of the results."""
    lines = [
        "## Processes and devices",
        "",
        f"`make bench-scaling`: {result['model']}, {BATCH} pairs of {result['tokens']} + {result['tokens']} positions a step, "
        f"{result['steps']} steps, {result['rounds']} rounds in turn, parameters divided over all devices, on the same cores: "
        "the ratio is what dividing costs.",
        "",
        "| processes x devices of each | s per step | against 1 x 1 |",
        "|---|---|---|",
    ]
    whole = result["seconds"][LAYOUTS[0].name]
    lines += [f"| {name} | {one:.2f} | {one / whole:.2f} |" for name, one in result["seconds"].items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of the model; a tiny one without")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64, help="positions of prompts, and of completions")
    args = parser.parse_args()
    found: dict[str, list[float]] = {layout.name: [] for layout in LAYOUTS}
    with tempfile.TemporaryDirectory(prefix="dpojob-scaling-") as scratch:
        folder = Path(scratch)
        if args.model is None:
            tiny_models.write_model(folder / "model", tiny_models.LLAMA)
        else:
            (folder / "model").symlink_to(args.model.resolve())
        write_pairs(folder / "pairs.jsonl", BATCH * args.steps)
        for _ in range(args.rounds):
            for layout in LAYOUTS:
                found[layout.name].append(seconds(folder, layout, args.steps, args.tokens))
                print(layout.name, f"{found[layout.name][-1]:.2f} s per step", flush=True)
    result = {
        "model": args.model.name if args.model else "a tiny Llama",
        "steps": args.steps,
        "rounds": args.rounds,
        "tokens": args.tokens,
        "seconds": {name: median(runs) for name, runs in found.items()},
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    document.keep("scaling", table(result))
    print(table(result))


if __name__ == "__main__":
    main()
