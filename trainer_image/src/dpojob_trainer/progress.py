"""What flows from host 0 to the driver while a run goes on, and what every host returns at its end.

Plain data without JAX or Ray, so that it crosses process boundaries and the driver can be tested alone.
"""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Numbers = dict[str, float]


@dataclass(frozen=True)
class Phase:
    """A phase of `dpojob_api.metrics.PHASES` begins."""

    name: str


@dataclass(frozen=True)
class Data:
    """The pairs have been examined; `numbers` are counts by the kinds of `dpojob_api.metrics.DATA_KINDS`."""

    numbers: Numbers


@dataclass(frozen=True)
class Begun:
    """The loop begins after `step` of `total` optimizer steps, of which `per_epoch` make up one pass over the pairs."""

    step: int
    total: int
    per_epoch: int


@dataclass(frozen=True)
class Step:
    """`step` of `total` optimizer steps are done; `numbers` are the step's, by their names in metrics.jsonl.

    `device_bytes` is the memory in use on each device of host 0, empty where JAX does not tell.
    """

    step: int
    total: int
    numbers: Numbers
    device_bytes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """The held-out pairs were evaluated after `step` steps."""

    step: int
    numbers: Numbers


@dataclass(frozen=True)
class Saved:
    """A checkpoint was begun after `step` steps; `time` is in seconds since 1970."""

    step: int
    time: float


@dataclass(frozen=True)
class Planned:
    """Whether the step that was lowered is the one that was planned."""

    matches: bool


Event = Phase | Data | Begun | Step | Evaluation | Saved | Planned
Emit = Callable[[Event], None]


@dataclass(frozen=True)
class HostReport:
    """What a host returns when its part of the run is over.

    Attributes:
        rank: number of the host, 0 is the first.
        host: its name or address.
        step: optimizer steps done, read back from the state.
        total: optimizer steps of the whole run.
        resumed_from: step of the checkpoint it started from, 0 without one.
        last: metrics of the last step; None if a resumed run had no step left.
        evaluations: metrics by the step after which they were taken.
        seconds: duration of each phase.
        peak_rss_bytes: largest resident memory of the process.
        data: the data report in JSON's form.
        lineage: where the model comes from.
        samples: completions before and after training, None without.
        matches_plan: whether the step is the planned one, None without a plan.
    """

    rank: int
    host: str
    step: int
    total: int
    resumed_from: int = 0
    last: Numbers | None = None
    evaluations: dict[int, Numbers] = field(default_factory=dict)
    seconds: Numbers = field(default_factory=dict)
    peak_rss_bytes: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, str] = field(default_factory=dict)
    samples: dict[str, Any] | None = None
    matches_plan: bool | None = None


class Stopwatch:
    """Adds up the seconds of named phases."""

    def __init__(self) -> None:
        self.seconds: Numbers = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def peak_rss_bytes() -> int:
    """Return the largest resident memory of this process so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def eta_seconds(remaining: int, durations: list[float]) -> float:
    """Return the seconds that `remaining` steps take at the median of the newest durations.

    The median leaves out the first step, which compiles.
    """
    if not durations:
        return 0.0
    newest = sorted(durations[-20:])
    return remaining * newest[len(newest) // 2]
