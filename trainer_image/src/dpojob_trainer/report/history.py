"""Reads a run's history from the lines of metrics.jsonl. Pure."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean, median
from typing import Any

Numbers = dict[str, float]
Points = list[tuple[float, float]]

EVAL = "eval/"
ACCURACY, MARGIN, DRIFT = "rewards/accuracies", "rewards/margins", "lengths/correlation"
# Where all pairs are tied, these are rounding's.
ROUNDED = frozenset({ACCURACY, DRIFT})
# Log-probabilities that were computed in batches of another shape differ by so much, as a mean reward.
ROUNDING = 1e-4


@dataclass(frozen=True)
class History:
    """Numbers by optimizer step: of the training batches, and of the held-out pairs (0 is before training)."""

    train: dict[int, Numbers]
    held_out: dict[int, Numbers]

    def curve(self, name: str) -> Points:
        """Return a metric of the training batches over the steps, finite values only."""
        return _points(self.train, name)

    def held_out_curve(self, name: str) -> Points:
        """Return a metric of the held-out pairs over the steps, finite values only."""
        return _points(self.held_out, name)

    def tokens_per_second(self) -> float | None:
        """Return the median over the steps, padding left out."""
        rates = [
            step["tokens"] / step["seconds"]
            for step in self._warm().values()
            if step.get("tokens") and step.get("seconds")
        ]
        return median(rates) if rates else None

    def mean_seconds(self) -> float | None:
        """Return the mean duration of the steps."""
        found = [seconds for _, seconds in self.durations()]
        return fmean(found) if found else None

    def durations(self) -> Points:
        """Return the steps' seconds."""
        return _points(self._warm(), "seconds")

    def _warm(self) -> dict[int, Numbers]:
        """Return the steps without the first of every attempt, which compiles."""
        attempts = groupby(self.train.items(), key=lambda item: item[1].get("attempt", 1))
        return dict(item for _, group in attempts for item in list(group)[1:])


def parse_lines(text: str) -> History:
    """Read metrics.jsonl; of a step that was repeated after a restart the last line counts, half a line is left out."""
    train: dict[int, Numbers] = {}
    held_out: dict[int, Numbers] = {}
    for line in text.splitlines():
        entry = _entry(line)
        if entry is None:
            continue
        step = int(entry["step"])
        evaluation = {
            name.removeprefix(EVAL): value for name, value in entry.items() if name.startswith(EVAL)
        }
        if evaluation:
            held_out[step] = evaluation
        else:
            train[step] = entry
    return History(dict(sorted(train.items())), dict(sorted(held_out.items())))


def _entry(line: str) -> Numbers | None:
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("step"), int):
        return None
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def _points(by_step: Mapping[int, Numbers], name: str) -> Points:
    return [
        (float(step), float(numbers[name]))
        for step, numbers in by_step.items()
        if name in numbers and math.isfinite(numbers[name]) and not (name in ROUNDED and tied(numbers))
    ]


def tied(numbers: Mapping[str, float]) -> bool:
    """Whether the policy still equals its reference: every pair has margin 0 but for rounding, which is neither right nor wrong."""
    return abs(numbers.get(MARGIN, 1.0)) < ROUNDING


def thinned(points: Sequence[tuple[float, float]], limit: int) -> Points:
    """Return at most `limit` points: means of equal stretches, so that no curve is longer than the page is wide."""
    if len(points) <= limit:
        return list(points)
    size = -(-len(points) // limit)
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    return [(_mean([x for x, _ in part]), _mean([y for _, y in part])) for part in stretches]


def smoothed(points: Sequence[tuple[float, float]], window: int) -> Points:
    """Return centred moving means over `window` points, over fewer at both ends."""
    half = window // 2
    return [
        (x, _mean([y for _, y in points[max(0, at - half) : at + half + 1]]))
        for at, (x, _) in enumerate(points)
    ]


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `count` trials (Wilson 1927, score interval)."""
    if count <= 0:
        return 0.0, 1.0
    z = 1.96
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def last(by_step: Mapping[int, Any]) -> Any | None:
    """Return the numbers of the last step; None without any."""
    return by_step[max(by_step)] if by_step else None
