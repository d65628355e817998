"""Layers that are alike are traced once, by which every start traces its steps in less than half of the time (ADR 27).

EasyDeL unrolls the layers. Tracing each of them costs seconds for each static length, while the chips wait, and the compiler's
cache saves none of it. A jitted layer is traced and lowered once for all that are alike; the compiler puts its instructions
where it is called before it does anything else, so the program stays the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial, wraps
from types import FunctionType
from typing import Any

import jax

# The one attribute in which EasyDeL's layers always differ; they only read it while they are built.
NUMBER = "layer_idx"


@dataclass(frozen=True, eq=False)
class Kind:
    """What layers that are alike have in common, with the arguments that are no arrays.

    Attributes:
        config: of their model; another model's layers are others.
        definition: the first one's graph of modules.
        tree: of its state and its arguments.
        constants: the leaves of that tree, None where there is an array.
    """

    config: Any
    definition: Any
    tree: Any
    constants: tuple[Any, ...]


def traced_once(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a layer's method that is traced once for all layers that are alike and arguments of equal shapes."""
    from flax import nnx

    kinds: list[Kind] = []

    @partial(jax.jit, static_argnums=0)
    def layer(kind: Kind, arrays: list[Any]) -> Any:
        leaves = [one if array is None else array for one, array in zip(kind.constants, arrays, strict=True)]
        state, args, named = jax.tree_util.tree_unflatten(kind.tree, leaves)
        return call(nnx.merge(kind.definition, state), *args, **named)

    @wraps(call)
    def shared(self: Any, *args: Any, **named: Any) -> Any:
        definition, state = nnx.split(self)
        leaves, tree = jax.tree_util.tree_flatten((state, args, named))
        arrays = [leaf if isinstance(leaf, jax.Array) else None for leaf in leaves]
        constants = tuple(None if isinstance(leaf, jax.Array) else leaf for leaf in leaves)
        kind = Kind(self.config, definition, tree, constants)
        known = next((one for one in kinds if alike(one, kind)), None)
        if known is None:
            kinds.append(kind)
        return layer(known or kind, arrays)

    return shared


def alike(first: Kind, second: Kind) -> bool:
    """Whether two layers compute the same from their arrays."""
    if first.config is not second.config or (first.tree, first.constants) != (second.tree, second.constants):
        return False
    one, other = first.definition, second.definition
    return (
        one.nodes == other.nodes
        and len(one.attributes) == len(other.attributes)
        and all(map(same_attribute, one.attributes, other.attributes))
    )


def same_attribute(first: tuple[str, Any], second: tuple[str, Any]) -> bool:
    """Whether an attribute of two layers has the same name and means the same."""
    (name, one), (other_name, other) = first, second
    return (
        name == other_name and type(one) is type(other) and (name == NUMBER or same(value(one), value(other)))
    )


def value(attribute: Any) -> Any:
    """Return what a static attribute of a graph of modules holds; the others are only marks."""
    return getattr(attribute, "value", attribute)


def same(first: Any, second: Any) -> bool:
    """Whether two values are equal, or made alike: a function closes over the same, an object has the same attributes."""
    if type(first) is not type(second):
        return False
    if isinstance(first, FunctionType):
        return first.__code__ is second.__code__ and same(closed_over(first), closed_over(second))
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if (first == second) is True:
        return True
    return hasattr(first, "__dict__") and same_attributes(attributes(first), attributes(second))


def same_attributes(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether the attributes of two objects are the same; objects without any may differ in what cannot be seen."""
    return (
        bool(first)
        and first.keys() == second.keys()
        and all(same(first[name], second[name]) for name in first)
    )


def attributes(thing: Any) -> dict[str, Any]:
    """Return an object's attributes but those that it has worked out from the others."""
    return {
        name: found
        for name, found in vars(thing).items()
        if not isinstance(getattr(type(thing), name, None), cached_property)
    }


def closed_over(function: FunctionType) -> tuple[Any, ...]:
    """Return what a function remembers besides its arguments."""
    cells = tuple(cell.cell_contents for cell in function.__closure__ or ())
    return (*cells, function.__defaults__, tuple((function.__kwdefaults__ or {}).items()))
