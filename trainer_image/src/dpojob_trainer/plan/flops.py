"""Counts the arithmetic of a traced step: matrix products and custom kernels, recomputation included, on all devices.

A pure function of the jaxpr, which it reads without importing JAX.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any


@dataclass(frozen=True)
class Arithmetic:
    """Floating-point operations of one step on all devices together.

    Attributes:
        products: of matrix products that XLA compiles.
        kernels: of custom kernels, as they state it, else all blocks of their grid; XLA estimates nothing for them.
    """

    products: float = 0.0
    kernels: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.products + self.kernels

    def __add__(self, other: "Arithmetic") -> "Arithmetic":
        return Arithmetic(self.products + other.products, self.kernels + other.kernels)


def arithmetic(jaxpr: Any, times: int = 1) -> Arithmetic:
    """Return the arithmetic of a jaxpr that runs `times` times."""
    return sum((_of_equation(equation, times) for equation in jaxpr.eqns), Arithmetic())


def _of_equation(equation: Any, times: int) -> Arithmetic:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        sides = equation.invars[0].aval.shape
        return Arithmetic(
            2 * times * prod(equation.outvars[0].aval.shape) * prod(sides[axis] for axis in contracted)
        )
    if name == "pallas_call":
        return Arithmetic(kernels=times * _of_kernel(params))
    repeated = times * _repetitions(name, params)
    return sum((arithmetic(inner, repeated) for inner in _inner(params)), Arithmetic())


def _of_kernel(params: dict[str, Any]) -> float:
    if estimate := params.get("cost_estimate"):
        return float(estimate.flops)
    blocks = prod(side for side in params["grid_mapping"].grid if isinstance(side, int))
    return blocks * arithmetic(params["jaxpr"]).total


def _repetitions(name: str, params: dict[str, Any]) -> int:
    if name == "scan":
        return int(params["length"])
    if name == "shard_map":
        return prod(params["mesh"].shape.values())
    return 1


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else [value]:
            found = item if hasattr(item, "eqns") else getattr(item, "jaxpr", None)
            if hasattr(found, "eqns"):
                yield found
