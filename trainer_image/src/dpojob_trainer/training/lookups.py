"""Rows of arrays by number, at both ends of the model: token ids to their embeddings, positions to their hidden states.

EasyDeL divides the embedding by rows, over the chips that hold a part of every weight. A lookup there gathers all of it on every
chip, and all of its gradient is summed by every chip. Here each chip looks up a few columns for the sequences of all chips, which
are exchanged afterwards: what moves is the batch's hidden states, not the vocabulary (ADR 26).
"""

from typing import Any

import jax
import jax.numpy as jnp

from dpojob_api.mesh import DATA_AXES
from dpojob_trainer.training.places import placed

# What holds a part of every weight within a slice.
COLUMN_AXES = ("fsdp", "sp", "tp")


def embedded(model: Any, ids: jax.Array) -> jax.Array:
    """Return the embeddings of token ids `[sequences, positions]` as `[sequences, positions, hidden]`, of the model's type.

    Args:
        model: EasyDeL's module of a causal language model.
        ids: token ids, the sequences divided over the mesh's data axes.
    """
    mesh = model.mesh
    rows = placed(model.get_embedding().embedding.value, mesh, None, COLUMN_AXES)
    found = placed(rows_at(rows, placed(ids, mesh, "dp", None)), mesh, "dp", None, COLUMN_AXES)
    return placed(found.astype(model.dtype), mesh, DATA_AXES, "sp", None)


@jax.custom_vjp  # type: ignore[untyped-decorator]
def rows_at(rows: jax.Array, ids: jax.Array) -> jax.Array:
    """Return `rows[ids]`; the gradient of a row is summed in float32 over all places where its number is."""
    return jnp.take(rows, ids, axis=0)


def _rows_forward(rows: jax.Array, ids: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return rows_at(rows, ids), (rows, ids)


def _rows_backward(kept: tuple[jax.Array, jax.Array], given: jax.Array) -> tuple[jax.Array, None]:
    rows, ids = kept
    sums = jnp.zeros(rows.shape, jnp.float32).at[ids].add(given.astype(jnp.float32))
    return sums.astype(rows.dtype), None


@jax.custom_vjp  # type: ignore[untyped-decorator]
def positions_at(hidden: jax.Array, places: jax.Array) -> jax.Array:
    """Return the hidden states at positions that follow each other.

    The gradient of a position is looked up where it went, which needs no sums: positions that `places` repeats at the end, where
    it would leave the sequence, must be of no account in what follows.

    Args:
        hidden: `[sequences, positions, hidden]`.
        places: `[sequences, wanted]`, as :func:`batches.collate` makes them.
    """
    return jnp.take_along_axis(hidden, places[..., None], axis=1)


def _positions_forward(hidden: jax.Array, places: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return positions_at(hidden, places), (hidden, places)


def _positions_backward(kept: tuple[jax.Array, jax.Array], given: jax.Array) -> tuple[jax.Array, None]:
    hidden, places = kept
    wanted = given.shape[1]
    went = jnp.arange(hidden.shape[1]) - places[:, :1]
    found = jnp.take_along_axis(given, jnp.clip(went, 0, wanted - 1)[..., None], axis=1)
    return jnp.where(((went >= 0) & (went < wanted))[..., None], found, 0).astype(hidden.dtype), None


rows_at.defvjp(_rows_forward, _rows_backward)
positions_at.defvjp(_positions_forward, _positions_backward)
