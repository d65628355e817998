"""Collectives of the export: one tensor at a time from all devices of the slice to the host that writes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# A replicated copy of this much must fit on every device beside the training state.
CHUNK_BYTES = 256_000_000


def is_writer() -> bool:
    """Whether this process writes files."""
    import jax

    return bool(jax.process_index() == 0)


def to_host(array: Any) -> NDArray[Any] | None:
    """Return a global array on the writing process and None on the others; a collective, so all must call it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array) if is_writer() else None
    chunks = [
        _replicated(array, start, stop) for start, stop in row_ranges(array.shape, array.dtype.itemsize)
    ]
    return np.concatenate(chunks) if is_writer() else None


def row_ranges(shape: tuple[int, ...], itemsize: int) -> list[tuple[int, int]]:
    """Split the first dimension into ranges of at most CHUNK_BYTES, at least one row each."""
    row = int(np.prod(shape[1:], dtype=np.int64)) * itemsize
    rows = max(1, CHUNK_BYTES // max(row, 1))
    return [(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows)]


def agree(fine: bool) -> bool:
    """Return whether all processes are fine; a collective, so all must call it."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return fine
    return bool(np.all(multihost_utils.process_allgather(np.asarray(fine))))


def _replicated(array: Any, start: int, stop: int) -> NDArray[Any]:
    """Return rows `start` to `stop`; every device holds them for a moment."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    everywhere = NamedSharding(array.sharding.mesh, PartitionSpec())
    rows = jax.jit(lambda whole: whole[start:stop], out_shardings=everywhere)(array)
    return np.asarray(rows.addressable_data(0)) if is_writer() else np.empty(0)
