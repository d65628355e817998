"""States as flat dictionaries of arrays with readable names, which is how checkpoints hold them."""

import re
from typing import Any

import jax
import numpy as np

Arrays = dict[str, Any]


def named(tree: Any) -> Arrays:
    """Return the arrays of a pytree by readable names that are unique and fit for file names."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = {_name(path): leaf for path, leaf in leaves}
    if len(arrays) != len(leaves):
        raise ValueError("two arrays of the state have the same name")
    return arrays


def unnamed(tree: Any, arrays: Arrays) -> Any:
    """Return `tree` with its arrays replaced by those of the same name."""
    return jax.tree_util.tree_map_with_path(lambda path, _: arrays[_name(path)], tree)


def advanced(optimizer: Any, step: int) -> Any:
    """Return a fresh optimizer state that counts from `step`, so that the learning rate goes on where it was.

    Every count gets an array of its own: the training step donates them all, and donating one twice crashes.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: like(leaf, step) if _name(path).endswith("count") else leaf, optimizer
    )


def abstract(tree: Any, shardings: Any) -> Arrays:
    """Return shapes, types and shardings of a pytree by the names of :func:`named`."""
    places = named(shardings)
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places[name])
        for name, leaf in named(tree).items()
    }


def like(leaf: Any, value: int) -> Any:
    """Return `value` with the type and the sharding of `leaf`."""
    return jax.device_put(np.asarray(value, leaf.dtype), leaf.sharding)


def _name(path: Any) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", ".", jax.tree_util.keystr(path)).strip(".")
