"""Causal attention on the CPU, in blocks that stay in its caches.

XLA multiplies batches of small matrices on the CPU at a fifth of its rate for single ones, and EasyDeL's own kernel keeps
all probabilities for the backward pass. Here every sequence and key head is a loop's turn with plain matrix products, keys
that no query of a block may see are left out, and the backward pass computes the probabilities again (arXiv:2205.14135).
All of it is float32.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from dpojob_api.mesh import DATA_AXES

LOWEST = float(jnp.finfo(jnp.float32).min)
# Blocks of queries; the first of n sees one n-th of the keys.
BLOCKS, UNIT = 4, 16
HIGHEST = jax.lax.Precision.HIGHEST
HEAD_AXIS, SEQUENCE_AXIS = "tp", "sp"


def use_on_cpu() -> None:
    """Make EasyDeL's vanilla attention this one on the CPU, for what it covers; idempotent."""
    from easydel.operations.kernels.vanilla_attention import VanillaAttn

    if not hasattr(VanillaAttn.forward_native, "in_blocks"):
        VanillaAttn.forward_native = in_blocks(VanillaAttn.forward_native)


def in_blocks(native: Callable[..., Any]) -> Callable[..., Any]:
    """Return EasyDeL's method of an attention operation such that only what is not covered is left to it."""
    from easydel.operations._attention_outputs import AttentionOutput

    def forward(self: Any, query: Any, key: Any, value: Any, mask_info: Any = None, **rest: Any) -> Any:
        mesh: Any = self.metadata.mesh
        mask: Any = None if mask_info is None else mask_info.attention_mask
        if jax.default_backend() != "cpu" or not covered(mesh, query, key, mask, rest):
            return native(self, query, key, value, mask_info, **rest)
        sequences, positions, _, size = query.shape
        kept = jnp.broadcast_to(mask[..., :positions, :positions], (sequences, 1, positions, positions))
        scale = rest.get("softmax_scale") or size**-0.5
        out = on_mesh(mesh, scale, query, key, value, kept[:, 0].astype(bool))
        return AttentionOutput(attention_weights=None, attention_outputs=out.astype(query.dtype))

    forward.in_blocks = True  # type: ignore[attr-defined]
    return forward


def covered(mesh: Any, query: Any, key: Any, mask: Any, rest: Mapping[str, Any]) -> bool:
    """Tell whether an operation is causal self-attention of whole sequences, with a mask of positions alone."""
    others = ("bias", "softmax_aux", "logits_soft_cap", "sliding_window")
    return (
        bool(rest.get("causal"))
        and not rest.get("dropout_prob")
        and all(rest.get(name) is None for name in others)
        and mask is not None
        and mask.ndim == 4
        and mask.shape[1] == 1
        and query.shape[1] == key.shape[1] > 1
        and _divides(mesh.shape, query.shape[0], key.shape[2])
    )


def _divides(axes: Mapping[str, int], sequences: int, key_heads: int) -> bool:
    """Tell whether a mesh gives every device whole sequences and whole groups of heads."""
    data = prod(axes[axis] for axis in DATA_AXES)
    return axes[SEQUENCE_AXIS] == 1 and sequences % data == 0 and key_heads % axes[HEAD_AXIS] == 0


def on_mesh(mesh: Any, scale: float, query: Any, key: Any, value: Any, kept: Any) -> jax.Array:
    """Run :func:`causal` on every device's own sequences and heads."""
    if mesh.size == 1:
        return causal(scale, query, key, value, kept)
    heads, rows = PartitionSpec(DATA_AXES, None, HEAD_AXIS, None), PartitionSpec(DATA_AXES, None, None)
    return jax.shard_map(
        partial(causal, scale),
        mesh=mesh,
        in_specs=(heads, heads, heads, rows),
        out_specs=heads,
        check_vma=False,
    )(query, key, value, kept)


@partial(jax.jit, static_argnums=0)
def causal(scale: float, query: jax.Array, key: jax.Array, value: jax.Array, kept: jax.Array) -> jax.Array:
    """Return what every query takes from the values at its own and earlier positions, float32.

    Args:
        scale: of the products of queries and keys.
        query: `[sequences, positions, heads, size]`.
        key: `[sequences, positions, key heads, size]`; each belongs to as many heads in a row.
        value: like the keys.
        kept: which keys a query may see, apart from later ones `[sequences, positions, positions]`.
    """
    sequences, positions, heads, _ = query.shape
    groups = heads // key.shape[2]
    rows = _by_head(query, groups)
    out = _attend(scale, rows, _by_head(key, 1)[:, :, 0], _by_head(value, 1)[:, :, 0], kept)
    return jnp.moveaxis(out.reshape(sequences, heads, positions, -1), 1, 2)


def _by_head(array: jax.Array, groups: int) -> jax.Array:
    """Return `[sequences, positions, heads, size]` as `[sequences, key heads, groups, positions, size]`."""
    sequences, positions, heads, size = array.shape
    moved = jnp.moveaxis(array.astype(jnp.float32), 2, 1)
    return moved.reshape(sequences, heads // groups, groups, positions, size)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(scale: float, query: jax.Array, key: jax.Array, value: jax.Array, kept: jax.Array) -> jax.Array:
    return _forward(scale, query, key, value, kept)[0]


def _forward(scale: float, query: Any, key: Any, value: Any, kept: Any) -> tuple[jax.Array, tuple[Any, ...]]:
    def turn(one: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
        q, k, v, seen = one
        outs, normalisers = [], []
        for own, end in _blocks(q.shape[1]):
            scores = _scores(q[:, own], k[:end], seen[own, :end], scale)
            top = scores.max(-1, keepdims=True)
            weights = jnp.exp(scores - top)
            total = weights.sum(-1, keepdims=True)
            outs.append(_rows_times(weights, v[:end]) / total)
            normalisers.append((top + jnp.log(total))[..., 0])
        return jnp.concatenate(outs, 1), jnp.concatenate(normalisers, 1)

    out, normaliser = _turns(turn, query, key, value, kept)
    return out, (query, key, value, kept, out, normaliser)


def _backward(scale: float, saved: tuple[Any, ...], given: jax.Array) -> tuple[Any, ...]:
    query, key, value, kept, out, normaliser = saved
    inner = (given * out).sum(-1)

    def turn(one: tuple[Any, ...]) -> tuple[jax.Array, ...]:
        q, k, v, seen, norm, above, share = one
        to_query, to_key, to_value = [], jnp.zeros_like(k), jnp.zeros_like(v)
        for own, end in _blocks(q.shape[1]):
            scores = _scores(q[:, own], k[:end], seen[own, :end], scale)
            weights = jnp.exp(scores - norm[:, own, None])
            slopes = weights * (_rows_times(above[:, own], v[:end].T) - share[:, own, None]) * scale
            to_query.append(_rows_times(slopes, k[:end]))
            to_key = to_key.at[:end].add(_columns_times(slopes, q[:, own]))
            to_value = to_value.at[:end].add(_columns_times(weights, above[:, own]))
        return jnp.concatenate(to_query, 1), to_key, to_value

    return (*_turns(turn, query, key, value, kept, normaliser, given, inner), None)


def _scores(query: jax.Array, key: jax.Array, seen: jax.Array, scale: float) -> jax.Array:
    """Return the scores `[groups, queries, keys]` of a block of queries, the last of which is at the last key."""
    first = key.shape[0] - query.shape[1]
    allowed = seen & (jnp.arange(key.shape[0]) <= first + jnp.arange(query.shape[1])[:, None])
    return jnp.where(allowed, _rows_times(query, key.T) * scale, LOWEST)


def _turns(turn: Any, query: Any, key: Any, value: Any, kept: Any, *more: Any) -> Any:
    """Map over sequences and key heads; the mask has none of the latter."""

    def sequence(one: tuple[Any, ...]) -> Any:
        q, k, v, seen, *others = one
        return jax.lax.map(lambda head: turn((*head[:3], seen, *head[3:])), (q, k, v, *others))

    return jax.lax.map(sequence, (query, key, value, kept, *more))


def _blocks(positions: int) -> Iterator[tuple[slice, int]]:
    """Return the queries of every block and where the keys that they may see end."""
    width = -(-positions // (BLOCKS * UNIT)) * UNIT
    for start in range(0, positions, width):
        end = min(start + width, positions)
        yield slice(start, end), end


def _rows_times(rows: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiply `[groups, queries, n]` by `[n, m]` as one matrix product."""
    product = jnp.matmul(rows.reshape(-1, rows.shape[-1]), matrix, precision=HIGHEST)
    return product.reshape(*rows.shape[:2], -1)


def _columns_times(one: jax.Array, two: jax.Array) -> jax.Array:
    """Sum the products of `[groups, queries, n]` and `[groups, queries, m]` over groups and queries: `[n, m]`."""
    left, right = (each.reshape(-1, each.shape[-1]) for each in (one, two))
    return jnp.matmul(left.T, right, precision=HIGHEST)


_attend.defvjp(_forward, _backward)
