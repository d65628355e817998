"""From compilations with few layers to a model with many: every quantity grows by the same amount per layer."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

Quantities = TypeVar("Quantities")


@dataclass(frozen=True)
class Sample(Generic[Quantities]):
    """What was measured with so many layers: a dataclass of numbers."""

    layers: int
    measured: Quantities


def extrapolate(few: Sample[Quantities], more: Sample[Quantities], layers: int) -> Quantities:
    """Return what a model of `layers` layers would measure, by the line through two samples of the same dataclass.

    Raises:
        ValueError: both samples have the same number of layers.
    """
    line = line_through(few.layers, more.layers, layers)
    names = [field.name for field in fields(few.measured)]  # type: ignore[arg-type]
    values = {name: line(getattr(few.measured, name), getattr(more.measured, name)) for name in names}
    return type(few.measured)(**values)


def line_through(low: int, high: int, at: int) -> Callable[[float, float], float]:
    """Return what gives the value at `at` on the line through values at `low` and `high`; it is never negative.

    Raises:
        ValueError: there is no such line.
    """
    if low == high:
        raise ValueError(f"both samples have {low} layers")
    return lambda first, second: max(0.0, first + (second - first) * (at - low) / (high - low))
