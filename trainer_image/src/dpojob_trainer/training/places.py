"""Where arrays of a step lie on the mesh."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec


def placed(array: jax.Array, mesh: Any, *axes: Any) -> jax.Array:
    """Return `array` divided over axes of the mesh, where they divide its sizes; as it is on one device.

    Args:
        array: any.
        mesh: the devices; None for one device.
        axes: for every dimension the mesh's axes that divide it, None for none.
    """
    if mesh is None or mesh.size == 1:
        return array
    fitting = [
        axis if axis and size % axes_size(mesh.shape, axis) == 0 else None
        for axis, size in zip(axes, array.shape, strict=True)
    ]
    return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, PartitionSpec(*fitting)))


def axes_size(shape: Mapping[str, int], axes: str | tuple[str, ...]) -> int:
    """Return how many parts one or several axes of a mesh of this shape make."""
    size = 1
    for axis in (axes,) if isinstance(axes, str) else axes:
        size *= shape[axis]
    return size
