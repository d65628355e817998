"""``make bench-trainer MODEL=FOLDER DATA=FILE``: our trainer, TRL's and stock EasyDeL on the same pairs, one after the other.

Each run is a process of its own, repetitions of the contenders alternate, and the machine's float32 matrix product rate is
measured before each round. Pairs of similar length lie side by side in the batches of all but the stock contenders, which
take the same pairs in the file's order. Writes benchmarks/results/trainer.json and the table in docs/benchmarks.md.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from tests.trainer import tiny_models
from tests.trainer.jobs import write_pairs

from benchmarks import document
from benchmarks.trainers.job import Job
from dpojob_api.slice_spec import Platform
from dpojob_trainer.host import launch_environment

ROOT = Path(__file__).resolve().parents[1]
CONTENDERS = Path(__file__).with_name("trainers")
RESULTS = ROOT / "benchmarks" / "results" / "trainer.json"
TRL_PYTHON = ROOT / ".tools" / "trl" / "bin" / "python"
SECONDS = 3600
# Fields of a job that differ from contender to contender.
UNSET = {"name", "folder", "result", "order", "dtype", "options"}


@dataclass(frozen=True)
class Contender:
    """Who takes part, and how it is started.

    Attributes:
        name: in the table.
        program: file or module below benchmarks/trainers.
        dtype: what it computes in.
        order: of the pairs, see `Job`.
        tuned: whether it has the allocator that our hosts have.
        rival: whose losses its own are compared with.
        options: its own settings.
    """

    name: str
    program: str
    dtype: str
    order: str
    tuned: bool
    rival: str
    options: dict[str, Any] = field(default_factory=dict)


STOCK = {"precompute": False, "attention": "eager"}
BEST = {"precompute": True, "attention": "sdpa"}
LIST = (
    Contender("trl-f32-stock", "trl_side.py", "float32", "file", False, "trl-f32-stock", STOCK),
    Contender("trl-f32-best", "trl_side.py", "float32", "gathered", True, "trl-f32-best", BEST),
    Contender("trl-bf16-best", "trl_side.py", "bfloat16", "gathered", True, "trl-f32-best", BEST),
    Contender("easydel-f32-tuned", "easydel_side", "float32", "gathered", True, "trl-f32-best"),
    Contender("ours-f32", "ours", "float32", "gathered", True, "trl-f32-best"),
    Contender("ours-bf16", "ours", "bfloat16", "gathered", True, "trl-f32-best"),
)


@dataclass(frozen=True)
class Run:
    """What one process has measured; `first` and `whole` are seconds from its start to the first step's end and to its own."""

    answer: dict[str, Any]
    first: float
    whole: float


@dataclass(frozen=True)
class Bench:
    """One call of the command."""

    folder: Path
    base: Job
    suffix: str
    column: str
    only: tuple[str, ...]

    def job(self, contender: Contender, tag: str) -> Job:
        """Return what a contender is told."""
        told = {"suffix": self.suffix, "column": self.column} | contender.options
        result = str(self.folder / f"{contender.name}-{tag}.json")
        return replace(
            self.base,
            name=contender.name,
            result=result,
            order=contender.order,
            dtype=contender.dtype,
            options=told,
        )

    def contenders(self) -> list[Contender]:
        """Return those that were asked for."""
        return [one for one in LIST if not self.only or one.name in self.only]


def command(contender: Contender, file: Path) -> list[str]:
    """Return the command line of a contender."""
    if contender.program.endswith(".py"):
        return [str(TRL_PYTHON), str(CONTENDERS / contender.program), str(file)]
    return [sys.executable, "-m", f"benchmarks.trainers.{contender.program}", str(file)]


def environment(tuned: bool) -> dict[str, str]:
    """Return a contender's environment: one CPU device, offline, and our hosts' allocator if it is tuned."""
    dropped = ("USE_TORCH", "PYTHONPATH", "XLA_FLAGS", "LD_PRELOAD", "MALLOC_CONF")
    base = {name: value for name, value in os.environ.items() if name not in dropped}
    base |= {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    config = tiny_models.configuration({"dp": 1, "fsdp": 1, "ep": 1, "tp": 1, "sp": 1})
    assert config.platform is Platform.CPU
    ours = launch_environment(config)
    return base | (
        {name: ours[name] for name in ("LD_PRELOAD", "MALLOC_CONF") if name in ours} if tuned else {}
    )


def started(arguments: list[str], env: dict[str, str]) -> str:
    """Run a process and return what it prints.

    Raises:
        SystemExit: it failed, with the end of what it said.
        subprocess.TimeoutExpired: it takes longer than an hour.
    """
    done = subprocess.run(
        arguments, cwd=ROOT, env=env, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments[:3])} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def run(contender: Contender, job: Job) -> Run:
    """Run one contender once."""
    file = Path(job.folder) / f"{contender.name}.job.json"
    job.write(file)
    began = time.time()
    started(command(contender, file), environment(contender.tuned))
    whole = time.time() - began
    answer = json.loads(Path(job.result).read_text())
    return Run(answer, answer["times"][0] - began, whole)


def gemm_peak() -> float:
    """Return the machine's float32 matrix product rate now, in FLOP/s."""
    return float(started([sys.executable, "-m", "benchmarks.trainers.gemm"], environment(False)))


def forget(bench: Bench, contender: Contender, *parts: str) -> None:
    """Remove parts of one of our outputs."""
    for part in parts:
        shutil.rmtree(bench.folder / contender.name / part, ignore_errors=True)


def rounds(bench: Bench, count: int) -> tuple[dict[str, list[Run]], list[float]]:
    """Run all contenders `count` times in turn; our compiled programs and reference stay from round to round."""
    found: dict[str, list[Run]] = {one.name: [] for one in bench.contenders()}
    peaks = []
    for number in range(count):
        peaks.append(gemm_peak())
        for contender in bench.contenders():
            forget(bench, contender, "checkpoints")
            found[contender.name].append(run(contender, bench.job(contender, str(number))))
            print(f"round {number + 1}: {contender.name} {found[contender.name][-1].whole:.0f} s", flush=True)
    return found, peaks


def restarts(bench: Bench, contender: Contender) -> dict[str, float]:
    """Return the seconds from a process's start to the end of the step after a checkpoint, with and without what is kept."""
    steps, found = bench.base.steps, {}
    for tag, lost in (("warm", ()), ("cold", ("compile-cache", "reference"))):
        forget(bench, contender, f"checkpoints/step_{steps + 1}", *lost)
        job = replace(bench.job(contender, tag), steps=steps + 1)
        found[tag] = round(run(contender, job).first, 1)
    return found


def tokens(rows: list[dict[str, list[int]]]) -> int:
    """Return the tokens of both sequences of each pair, without padding."""
    return sum(2 * len(r["prompt_ids"]) + len(r["chosen_ids"]) + len(r["rejected_ids"]) for r in rows)


def figures(bench: Bench, found: dict[str, list[Run]], peak: float, parameters: int) -> list[dict[str, Any]]:
    """Return one object per contender. The first step of a run is left out of its rate, since it compiles.

    The share of the peak counts 6 FLOP per parameter and token that is no padding, which leaves attention out.
    """
    rows = {
        order: json.loads((bench.folder / "rows.json").read_text())[order] for order in ("gathered", "file")
    }
    losses = {name: runs[0].answer["losses"] for name, runs in found.items()}
    listed = []
    for contender in bench.contenders():
        runs = found[contender.name]
        rate = median(rated(one, bench.base.batch) for one in runs)
        measured = rows[contender.order][bench.base.batch :]
        per_pair = tokens(measured) / len(measured)
        rival = losses.get(contender.rival)
        apart = (
            None
            if rival is None
            else max(abs(a - b) for a, b in zip(losses[contender.name], rival, strict=True))
        )
        listed.append(
            {
                "name": contender.name,
                "dtype": contender.dtype,
                "pairs_per_s": round(rate, 4),
                "tokens_per_s": round(rate * per_pair, 1),
                "peak_rss_bytes": max(one.answer["peak_rss_bytes"] for one in runs),
                "gemm_share": round(rate * per_pair * 6 * parameters / peak, 4),
                "max_loss_deviation": apart,
                "deviation_from": contender.rival,
                "first_step_seconds": {"cold": round(runs[0].first, 1), "warm": round(runs[-1].first, 1)},
                "compile_seconds": compiling(runs[0]),
            }
        )
    return listed


def rated(one: Run, batch: int) -> float:
    """Return a run's pairs per second over all steps but the first."""
    later: list[float] = one.answer["seconds"][1:]
    return batch * len(later) / sum(later)


def compiling(one: Run) -> float:
    """Return the seconds of compilation: what the contender tells, or what its first step takes longer."""
    told = one.answer["compile_seconds"]
    seconds: list[float] = one.answer["seconds"]
    return round(max(seconds[0] - median(seconds[1:]), 0.0) if told is None else told, 1)


def table(result: dict[str, Any]) -> str:
    """Return the Markdown of the results."""
    setting = result["setting"]
    lines = [
        "## Trainer",
        "",
        f"`make bench-trainer`: {setting['model']}, {setting['pairs']} pairs of {setting['data']} at most "
        f"{setting['prompt']} + {setting['completion']} tokens, {setting['batch']} a step, {setting['rounds']} rounds; "
        f"float32 matrix products run at {result['gemm_flops'] / 1e9:.0f} GFLOP/s. Ratios compare, times inform.",
        "",
        "| contender | pairs/s | tokens/s | peak memory, GB | share of the peak | largest loss deviation (from) "
        "| first step cold / warm, s | compile, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in result["contenders"]:
        first = one["first_step_seconds"]
        apart = "" if one["max_loss_deviation"] is None else f"{one['max_loss_deviation']:.1e}"
        lines.append(
            f"| {one['name']} | {one['pairs_per_s']} | {one['tokens_per_s']} | {one['peak_rss_bytes'] / 1e9:.1f} "
            f"| {one['gemm_share']} | {apart} ({one['deviation_from']}) | {first['cold']} / {first['warm']} "
            f"| {one['compile_seconds']} |"
        )
    for name, both in result["restart_seconds"].items():
        lines += ["", f"Restart of {name} to its next step: {both['cold']} s cold, {both['warm']} s warm."]
    return "\n".join(lines) + "\n"


def prepared(args: argparse.Namespace, folder: Path) -> Bench:
    """Put model and pairs into the folder and have our side write the rows."""
    if args.model is None:
        tiny_models.write_model(folder / "model", tiny_models.LLAMA)
        write_pairs(folder / "pairs.jsonl", args.steps * args.batch * 2)
    else:
        (folder / "model").symlink_to(args.model.resolve())
        (folder / f"pairs{args.data.suffix}").symlink_to(args.data.resolve())
    lengths = {"prompt": args.prompt, "completion": args.completion, "learning_rate": args.learning_rate}
    base = Job("", str(folder), "", "", "", steps=args.steps, batch=args.batch, **lengths)
    suffix = ".jsonl" if args.model is None else args.data.suffix
    bench = Bench(folder, base, suffix, "prompt" if args.model is None else args.column, tuple(args.only))
    ours = next(one for one in LIST if one.program == "ours")
    file = folder / "rows.job.json"
    bench.job(ours, "rows").write(file)
    started([*command(ours, file), "--rows"], environment(False))
    return bench


def parameter_count(folder: Path) -> int:
    """Return the parameters of the model, a tied head counted once."""
    from safetensors import safe_open

    total = 0
    for file in sorted((folder / "model").glob("*.safetensors")):
        with safe_open(file, "np") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
        for shape in shapes:
            size = 1
            for side in shape:
                size *= side
            total += size
    return total


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", type=Path, help="folder of the model; a tiny one and made-up pairs without"
    )
    parser.add_argument("--data", type=Path, help="file of pairs")
    parser.add_argument("--column", default="conversations", help="the data's prompt column")
    parser.add_argument("--steps", type=int, default=8, help="steps of a run; the first one is not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4, help="pairs per step")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--completion", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--only", nargs="*", default=[], choices=[one.name for one in LIST])
    parser.add_argument("--write", action="store_true", help="write results and document")
    return parser.parse_args()


def main() -> None:
    """Measure and write."""
    args = arguments()
    if not TRL_PYTHON.exists():
        raise SystemExit(f"{TRL_PYTHON} does not exist; `make .tools/trl/.stamp` installs TRL")
    with tempfile.TemporaryDirectory(prefix="dpojob-bench-") as scratch:
        bench = prepared(args, Path(scratch))
        found, peaks = rounds(bench, args.rounds)
        again = [one for one in bench.contenders() if one.name == "ours-f32"]
        setting = asdict(bench.base) | {
            "model": args.model.name if args.model else "tiny",
            "data": args.data.name if args.data else "made up",
            "rounds": args.rounds,
            "pairs": args.steps * args.batch,
        }
        result = {
            "setting": {key: setting[key] for key in sorted(setting) if key not in UNSET},
            "gemm_flops": max(peaks),
            "contenders": figures(bench, found, max(peaks), parameter_count(bench.folder)),
            "restart_seconds": {one.name: restarts(bench, one) for one in again},
        }
    print(table(result))
    if args.write:
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
        document.keep("trainer", table(result))


if __name__ == "__main__":
    main()
