"""``make bench-trainer MODEL=FOLDER DATA=FILE``: our trainer, TRL's and stock EasyDeL on the same pairs, one after the other.

Each run is a process of its own, repetitions of the contenders alternate, and the machine's float32 matrix product rate is
measured before each round. Pairs of similar length lie side by side in the batches of all but the stock contenders, which
take the same pairs in the file's order. Writes benchmarks/results/trainer.json and the table in docs/benchmarks.md.

``--folder`` keeps every run's answer, and the same command on the same folder does only the runs that are missing.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from tests.trainer import tiny_models
from tests.trainer.jobs import write_pairs

from benchmarks import document
from benchmarks.trainers.figures import Contender, Measured, Run, figures, table
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


def timed(contender: Contender, job: Job) -> Run:
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


def kept(file: Path, measure: Callable[[], Any]) -> Any:
    """Return what a file of the folder says; if it is not there, measure and write it."""
    if not file.exists():
        found = measure()
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(found))
        partial.rename(file)
    return json.loads(file.read_text())


def run(bench: Bench, contender: Contender, tag: str, steps: int, *lost: str) -> Run:
    """Return a run of a contender, whose output first loses parts; a run that the folder has is not repeated."""
    job = replace(bench.job(contender, tag), steps=steps)

    def measure() -> dict[str, Any]:
        for part in lost:
            shutil.rmtree(bench.folder / contender.name / part, ignore_errors=True)
        found = timed(contender, job)
        print(f"{tag}: {contender.name} {found.whole:.0f} s", flush=True)
        return asdict(found)

    return Run(**kept(Path(job.result).with_suffix(".run.json"), measure))


def rounds(bench: Bench, count: int) -> Iterator[tuple[dict[str, list[Run]], list[float]]]:
    """Run all contenders `count` times in turn and yield what is there after each run.

    Our compiled programs and reference stay from round to round.
    """
    found: dict[str, list[Run]] = {one.name: [] for one in bench.contenders()}
    peaks: list[float] = []
    for number in range(count):
        peaks.append(kept(bench.folder / f"gemm-{number}.json", gemm_peak))
        for contender in bench.contenders():
            found[contender.name].append(run(bench, contender, str(number), bench.base.steps, "checkpoints"))
            yield found, peaks


def restarts(bench: Bench, contender: Contender) -> dict[str, float]:
    """Return the seconds from a process's start to the end of the step after a checkpoint, with and without what is kept.

    A first restart, which is not counted, leaves the new step's programs and reference behind.
    """
    steps, lost = bench.base.steps, {"first": (), "warm": (), "cold": ("compile-cache", "reference")}
    found = {
        tag: round(run(bench, contender, tag, steps + 1, f"checkpoints/step_{steps + 1}", *parts).first, 1)
        for tag, parts in lost.items()
    }
    return {tag: found[tag] for tag in ("cold", "warm")}


def prepared(args: argparse.Namespace, folder: Path) -> Bench:
    """Put model and pairs into the folder, unless they are there, and have our side write the rows.

    Raises:
        SystemExit: the folder is of another setting.
    """
    lengths = {"prompt": args.prompt, "completion": args.completion, "learning_rate": args.learning_rate}
    base = Job("", str(folder), "", "", "", steps=args.steps, batch=args.batch, **lengths)
    suffix = ".jsonl" if args.model is None else args.data.suffix
    bench = Bench(folder, base, suffix, "prompt" if args.model is None else args.column, tuple(args.only))
    told = {"base": asdict(base), "model": str(args.model), "data": str(args.data), "column": args.column}
    if kept(folder / "setting.json", lambda: told) != told:
        raise SystemExit(f"{folder} holds runs of another setting; name another --folder")
    if not (folder / "rows.json").exists():
        provide(args, folder)
        ours = next(one for one in LIST if one.program == "ours")
        file = folder / "rows.job.json"
        bench.job(ours, "rows").write(file)
        started([*command(ours, file), "--rows"], environment(False))
    return bench


def provide(args: argparse.Namespace, folder: Path) -> None:
    """Put model and pairs into the folder."""
    if args.model is None:
        tiny_models.write_model(folder / "model", tiny_models.LLAMA)
        write_pairs(folder / "pairs.jsonl", args.steps * args.batch * 2)
        return
    for name, target in {"model": args.model, f"pairs{args.data.suffix}": args.data}.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target.resolve())


def parameter_count(folder: Path) -> int:
    """Return the parameters of the model, a tied head counted once."""
    from safetensors import safe_open

    total = 0
    for file in sorted((folder / "model").glob("*.safetensors")):
        with safe_open(file, "np") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
        total += sum(prod(shape) for shape in shapes)
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
    parser.add_argument(
        "--folder", type=Path, help="keeps every run's answer; a second call does what is missing"
    )
    parser.add_argument("--write", action="store_true", help="write results and document, after each run")
    return parser.parse_args()


@contextmanager
def folder_of(args: argparse.Namespace) -> Iterator[Path]:
    """Yield the folder that keeps the runs, or one that is removed at the end."""
    if args.folder is not None:
        args.folder.mkdir(parents=True, exist_ok=True)
        yield args.folder.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="dpojob-bench-") as scratch:
        yield Path(scratch)


def results(args: argparse.Namespace, bench: Bench) -> Iterator[dict[str, Any]]:
    """Yield what is measured so far, after each run."""
    setting = asdict(bench.base) | {
        "model": args.model.name if args.model else "tiny",
        "data": args.data.name if args.data else "made up",
        "rounds": args.rounds,
        "pairs": args.steps * args.batch,
    }
    rows, parameters = json.loads((bench.folder / "rows.json").read_text()), parameter_count(bench.folder)
    result: dict[str, Any] = {}
    for found, peaks in rounds(bench, args.rounds):
        measured = Measured(found, rows, bench.base.batch, max(peaks), parameters)
        result = {
            "setting": {key: setting[key] for key in sorted(setting) if key not in UNSET},
            "gemm_flops": max(peaks),
            "contenders": figures(LIST, measured),
            "restart_seconds": {},
        }
        yield result
    again = [one for one in bench.contenders() if one.name == "ours-f32"]
    yield result | {"restart_seconds": {one.name: restarts(bench, one) for one in again}}


def main() -> None:
    """Measure and write."""
    args = arguments()
    if not TRL_PYTHON.exists():
        raise SystemExit(f"{TRL_PYTHON} does not exist; `make .tools/trl/.stamp` installs TRL")
    with folder_of(args) as folder:
        for result in results(args, prepared(args, folder)):
            text = table(result)
            if args.write:
                RESULTS.write_text(json.dumps(result, indent=2) + "\n")
                document.keep("trainer", text)
    print(text)


if __name__ == "__main__":
    main()
