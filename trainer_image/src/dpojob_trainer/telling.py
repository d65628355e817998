"""What a run tells on stdout while it goes on: a JSON line per event, or a live bar where a person looks on."""

import json
import time
from dataclasses import asdict
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dpojob_trainer.progress import Begun, Data, Emit, Evaluation, Event, Numbers, Phase, Step

SHOWN = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}


def line_of(event: Event) -> dict[str, Any]:
    """Return an event as an object of one level: its kind as `event`, its fields, its numbers."""
    fields: dict[str, Any] = asdict(event)
    kind: dict[str, Any] = {"event": type(event).__name__.lower()}
    numbers: Numbers = fields.pop("numbers", {})
    return {**kind, **fields, **numbers}


def print_line(event: Event, file: TextIO | None = None) -> None:
    """Print an event as a line of JSON, to stdout if `file` is unset."""
    print(json.dumps(line_of(event) | {"time": time.time()}), file=file, flush=True)


def every(steps: int, tell: Emit) -> Emit:
    """Return a listener that leaves out all steps but the first, the last and every so many."""

    def listen(event: Event) -> None:
        if not isinstance(event, Step) or event.step in (1, event.total) or event.step % steps == 0:
            tell(event)

    return listen


class Bar:
    """A live bar with the newest numbers; evaluations stay above it."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description:<13}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(compact=True),
        )
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("starting", total=None, numbers="")

    def tell(self, event: Event) -> None:
        """Show an event."""
        match event:
            case Phase(name):
                self._progress.update(self._task, description=name)
            case Data(numbers):
                counts = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in numbers.items())
                self._progress.console.print(f"pairs: {counts}")
            case Begun(step, total, _):
                self._progress.update(self._task, completed=step, total=total)
            case Step(step, total, numbers):
                self._progress.update(self._task, completed=step, total=total, numbers=words_of(numbers))
            case Evaluation(step, numbers):
                self._progress.console.print(f"evaluation after step {step}: {words_of(numbers)}")

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def words_of(numbers: Numbers) -> str:
    """Return the numbers that a bar has room for."""
    return "  ".join(f"{word} {numbers[name]:.4f}" for name, word in SHOWN.items() if name in numbers)
