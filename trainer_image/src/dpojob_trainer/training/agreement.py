"""How the hosts of the slice wait for each other and take decisions together."""

from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray
from orbax.checkpoint import multihost

Array = NDArray[Any]
# One host may load or compile minutes longer than another.
MEETING_SECONDS = 1800


def meet(name: str) -> None:
    """Wait until every process has come here; each name can be used once.

    Gloo lets a host wait 30 s for another when they connect, and hosts that load or compile drift further apart.
    """
    if jax.process_count() > 1:
        multihost.get_barrier_sync_fn()(key=name, timeout_ms=MEETING_SECONDS * 1000)


def everyone(flag: bool) -> bool:
    """Return whether all processes say yes; all must ask, and at nearly the same time."""
    return bool(_answers(flag).all())


def anyone(flag: bool) -> bool:
    """Return whether one process at least says yes; all must ask, and at nearly the same time."""
    return bool(_answers(flag).any())


def alike(digest: str) -> bool:
    """Return whether all processes have the same SHA-256, in hexadecimal; all must ask, and at nearly the same time."""
    all_of_them = _gathered(np.frombuffer(bytes.fromhex(digest), np.uint8)).reshape(-1, len(digest) // 2)
    return bool((all_of_them == all_of_them[0]).all())


def _answers(flag: bool) -> Array:
    return _gathered(np.asarray([flag]))


def _gathered(own: Array) -> Array:
    if jax.process_count() == 1:
        return own
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(own))
