"""States as flat dictionaries of arrays with readable names, which is how checkpoints hold them."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

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


def abstract(arrays: Arrays, places: Arrays) -> Arrays:
    """Return shapes and types of arrays with the shardings of the same name."""
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places[name])
        for name, leaf in arrays.items()
    }


def on_mesh(tree: Any, everywhere: NamedSharding) -> Any:
    """Return `tree` with the arrays that lie on one device alone copied to all devices of a mesh."""
    devices = everywhere.device_set

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.sharding.device_set == devices:
            return leaf
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, everywhere, host.__getitem__)

    return jax.tree_util.tree_map(place, tree)


def like(leaf: Any, value: int) -> Any:
    """Return `value` with the type and the sharding of `leaf`."""
    return jax.device_put(np.asarray(value, leaf.dtype), leaf.sharding)


def bit_sums(arrays: Arrays) -> jax.Array:
    """Return for each array, by the order of their names, the sum of its elements' bits modulo 2**32: `[arrays]`, uint32.

    Whole numbers add up to the same in any order, so the sums are the same on every mesh.
    """
    return jnp.stack([_bit_sum(arrays[name]) for name in sorted(arrays)])


def _bit_sum(array: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * array.dtype.itemsize}"))
    return jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)


def digests(arrays: Arrays) -> jax.Array:
    """Return for each array, by the order of their names, two sums over its elements' bits modulo 2**32: `[arrays, 2]`.

    The second one weighs each element by its place, so that moved elements change it. Both are the same on every mesh.
    """
    return jnp.stack([_digest(arrays[name]) for name in sorted(arrays)])


def _digest(array: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * array.dtype.itemsize}")).astype(
        jnp.uint32
    )
    place, stride = jnp.zeros(array.shape, jnp.uint32), 1
    for axis in reversed(range(array.ndim)):
        place = place + jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= array.shape[axis]
    return jnp.stack([jnp.sum(bits, dtype=jnp.uint32), jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)])


def _name(path: Any) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", ".", jax.tree_util.keystr(path)).strip(".")
