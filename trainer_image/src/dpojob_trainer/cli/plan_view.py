"""A plan for a human: what takes how much, how long it takes, and what would make it fit."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpojob_trainer.cli.planning import Planned
from dpojob_trainer.cli.tables import table
from dpojob_trainer.plan.fixes import words_of

if TYPE_CHECKING:
    from dpojob_trainer.plan.answer import Answer, FixAnswer, TrialAnswer, TuneAnswer

GIB = 2**30


def show(planned: Planned, out: Console, err: Console) -> None:
    """Print the plan on `out`; on `err` what went wrong."""
    answer = planned.answer
    if answer is None:
        err.print(
            Text.assemble(("error: ", "bold red"), f"{planned.reason}: {planned.problem}"), soft_wrap=True
        )
        return
    out.print(headline(answer), markup=False, highlight=False)
    if answer.bytes:
        out.print(bytes_table(answer))
    out.print(stages_table(answer))
    for line in [*time_lines(answer), *answer.remarks]:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    if answer.tried:
        out.print(tried_table(answer.tried))
    style = "bold green" if answer.fits else "bold red"
    out.print(Text(verdict(answer), style=style), soft_wrap=True)
    if answer.tuning:
        out.print(trials_table(answer.tuning.trials))
        out.print(Text(fastest(answer.tuning), style="bold green"), soft_wrap=True)


def headline(answer: "Answer") -> str:
    """Name job, slice, mesh and model in one line."""
    plan = answer.plan
    mesh = " ".join(f"{axis}={size}" for axis, size in plan.mesh.model_dump().items())
    return (
        f"{answer.job}: {answer.parameters / 1e9:.3g} B parameters in {answer.layers} layers on "
        f"{plan.accelerator_type} {plan.topology} ({plan.chips} chips on {plan.hosts} host{'s'[: plan.hosts > 1]}), mesh {mesh}, "
        f"sequences of {answer.sequence} tokens"
    )


def bytes_table(answer: "Answer") -> Table:
    """Return the step's bytes by kind."""
    found = table("training step, per chip", "", "GiB", numbers=slice(1, None))
    for name, size in answer.bytes.items():
        found.add_row(name, gib(size))
    found.add_row("sum", gib(sum(answer.bytes.values())), style="bold")
    return found


def stages_table(answer: "Answer") -> Table:
    """Return the stages of the run."""
    found = table("stages", "", "GiB per chip", "GiB of host RAM", "", numbers=slice(1, 3))
    for stage in answer.stages:
        host = "" if stage.host_bytes is None else gib(stage.host_bytes)
        over = "red" if stage.device_bytes > answer.usable_bytes else None
        how = "compiled" if stage.compiled else "modelled"
        found.add_row(stage.name, gib(stage.device_bytes), host, how, style=over)
    found.add_row("usable", gib(answer.usable_bytes), "", "", style="bold")
    return found


def tried_table(fixes: "list[FixAnswer]") -> Table:
    """Return the changes that were compiled."""
    found = table("changes", "change", "GiB per chip", "s per step", "", numbers=slice(1, 3))
    for fix in fixes:
        seconds = "" if fix.step_seconds is None else f"{fix.step_seconds:.3g}"
        least = "≥ " if fix.at_least else "~ " if fix.guessed else ""
        fits = "fits" if fix.fits else "does not fit"
        found.add_row(words_of(fix.changes), least + gib(fix.needed_bytes), seconds, fits)
    return found


def trials_table(trials: "list[TrialAnswer]") -> Table:
    """Return what a search for a faster job compiled; each row names what it has beyond the one it is built on."""
    found = table("search", "", "change", "GiB per chip", "s per step", "MFU", "", numbers=slice(2, 5))
    known: dict[str, str | int] = {}
    for trial in trials:
        new = {field: value for field, value in trial.changes.items() if known.get(field) != value}
        seconds = "" if trial.step_seconds is None else f"{trial.step_seconds:.3g}"
        share = "" if trial.utilisation is None else f"{trial.utilisation:.1%}"
        outcome = "kept" if trial.kept else "not faster" if trial.fits else "does not fit"
        found.add_row(trial.axis, words_of(new), gib(trial.needed_bytes), seconds, share, outcome)
        known = trial.changes if trial.kept else known
    return found


def fastest(tuning: "TuneAnswer") -> str:
    """Name the fastest job's changed fields."""
    if not tuning.changes:
        return "nothing that was tried is faster than the job as it is"
    return f"fastest job tried that fits: {words_of(tuning.changes)}"


def time_lines(answer: "Answer") -> Iterator[str]:
    """Yield what the job takes in time."""
    time = answer.time
    if time is None:
        return
    yield (
        f"{time.step_seconds:.3g} s per step (arithmetic {time.compute_seconds:.3g} s, waiting for other chips "
        f"{time.waiting_seconds:.3g} s; floor {time.floor_seconds:.3g} s), MFU {time.utilisation:.1%} on "
        f"{time.tokens_per_step:.0f} tokens"
    )
    if time.steps is not None and time.hours is not None and time.chip_hours is not None:
        cost = "" if time.cost is None else f", cost {time.cost:.2f}"
        yield f"{time.steps} steps: {time.hours:.3g} hours, {time.chip_hours:.4g} chip-hours{cost}"


def verdict(answer: "Answer") -> str:
    """Say whether it fits, by how much, and what would make it fit."""
    left = answer.usable_bytes - answer.needed_bytes
    least = "at least " if answer.at_least else "about " if answer.guessed else ""
    if answer.fits:
        tight = "; that is less than the error allowed for" if answer.tight else ""
        return f"fits: {gib(left)} GiB of {gib(answer.usable_bytes)} stay free in stage {answer.stage}{tight}"
    words = (
        f"does not fit: stage {answer.stage} needs {least}{gib(answer.needed_bytes)} GiB of "
        f"{gib(answer.usable_bytes)} GiB per chip"
    )
    if answer.ends_in not in (None, answer.stage):
        words += f"; the run would end in stage {answer.ends_in} already"
    if answer.fix is None:
        return f"{words}; none of the {len(answer.tried)} changes tried is enough"
    return f"{words}. Smallest change tried that fits: {words_of(answer.fix.changes)}"


def gib(size: float) -> str:
    """Write bytes in GiB."""
    return f"{size / GIB:.2f}"
