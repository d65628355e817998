"""How the hosts of the slice wait for each other and take decisions together."""

import jax
import numpy as np
from orbax.checkpoint import multihost

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


def _answers(flag: bool) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    own = np.asarray([flag])
    if jax.process_count() == 1:
        return own
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(own))
