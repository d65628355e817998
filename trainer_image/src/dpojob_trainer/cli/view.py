"""The check's outcome for a human: two tables, then the verdict."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpojob_api.input_spec import GateSpec
from dpojob_api.spec import DPOSpec
from dpojob_trainer.cli.checking import Outcome
from dpojob_trainer.cli.tables import table
from dpojob_trainer.exit_codes import ExitCode

if TYPE_CHECKING:
    from dpojob_trainer.data.report import DataReport, LengthStats

BARS = " ▁▂▃▄▅▆▇█"
Row = tuple[str, str, str, str]


def show(outcome: Outcome, out: Console, err: Console) -> None:
    """Print the report on `out` and what is wrong on `err`."""
    if outcome.report and outcome.gate and outcome.dpo:
        out.print(counts_table(outcome.report, outcome.gate))
        out.print(lengths_table(outcome.report, outcome.dpo))
        for line in remarks(outcome.report):
            out.print(line, markup=False, highlight=False)
    word, style = ("warning", "yellow") if outcome.code is ExitCode.OK else ("error", "red")
    for problem in outcome.problems:
        err.print(Text.assemble((f"{word}: ", f"bold {style}"), problem), soft_wrap=True)
    if outcome.code is ExitCode.OK:
        out.print("ok: the data can be trained on", style="bold green")
    else:
        err.print(f"refused: {outcome.reason}", style="bold red")


def counts_table(report: "DataReport", gate: GateSpec) -> Table:
    """Return what became of the rows, beside the gate's bounds."""
    found = table("pairs", "", "count", "share", "bound", numbers=slice(1, None))
    for row in count_rows(report, gate):
        found.add_row(*row, style="red" if row[3].endswith("!") else None)
    return found


def count_rows(report: "DataReport", gate: GateSpec) -> Iterator[Row]:
    """Yield the table's rows: what, how many, which share, and the bound, with ``!`` if it is not kept."""
    pairs = report.train_pairs + report.eval_pairs
    for split, rows in report.splits.items():
        yield f"rows of split {split}", str(rows), "", ""
    yield counted("empty completion", report.dropped_empty, report.rows)
    yield counted("equal sides", report.dropped_equal, report.rows)
    dropped = report.dropped_empty + report.dropped_equal
    yield counted("dropped", dropped, report.rows, gate.max_dropped_fraction)
    few = " !" if report.train_pairs < gate.min_pairs else ""
    yield "training pairs", str(report.train_pairs), "", f"≥ {gate.min_pairs}{few}"
    yield "evaluation pairs", str(report.eval_pairs), "", ""
    yield counted("truncated prompts", report.truncated_prompts, pairs)
    yield counted("truncated completions", report.truncated_completions, 2 * pairs)
    yield counted("truncated pairs", report.truncated_pairs, pairs, gate.max_truncated_fraction)
    yield counted("duplicates", report.duplicate_pairs, report.train_pairs, gate.max_duplicate_fraction)
    yield counted("evaluation pairs trained on", report.overlap_pairs, report.eval_pairs, gate.max_overlap)
    yield counted("evaluation prompts trained on", report.overlap_prompts, report.eval_pairs)
    yield counted("chosen is the longer", report.longer_chosen, pairs)


def counted(name: str, count: int, total: int, bound: float | None = None) -> Row:
    """Return one row with its share and, if there is one, its bound."""
    share = count / total if total else 0.0
    limit = "" if bound is None else f"≤ {bound:.1%}" + (" !" if share > bound else "")
    return name, str(count), f"{share:.1%}", limit


def lengths_table(report: "DataReport", dpo: DPOSpec) -> Table:
    """Return percentiles and a histogram of the lengths."""
    columns = ("", "p50", "p90", "p99", "max", "kept", "histogram")
    found = table("tokens before truncation", *columns, numbers=slice(1, 6))
    for name, stats in report.lengths.items():
        limit = dpo.max_prompt_length if name == "prompt" else dpo.max_completion_length
        numbers = (str(number) for number in (stats.p50, stats.p90, stats.p99, stats.max, limit))
        found.add_row(name, *numbers, histogram(stats))
    return found


def histogram(stats: "LengthStats") -> str:
    """Draw the bins: one bar each, with the bounds of the first and the last."""
    highest = max(bin_.count for bin_ in stats.bins)
    bars = "".join(BARS[-(-bin_.count * (len(BARS) - 1) // highest)] for bin_ in stats.bins)
    return f"≤{stats.bins[0].up_to} {bars} ≤{stats.bins[-1].up_to}"


def remarks(report: "DataReport") -> Iterator[str]:
    """Yield what does not fit into a table: columns, roles, the longest prompt."""
    yield "columns: " + ", ".join(f"{part}={name}" for part, name in report.columns.items())
    yield "roles: " + ", ".join(f"{roles} ({count})" for roles, count in report.roles.items())
    if report.longest_prompt:
        place = report.longest_prompt
        yield f"longest prompt: row {place.row} of split {place.split}, {place.tokens} tokens"
