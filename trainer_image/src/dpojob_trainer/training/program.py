"""Compiled steps, and the meeting of the hosts before they first talk through their devices."""

from collections.abc import Callable
from typing import Any

import jax
from orbax.checkpoint import multihost

# One host may load or compile minutes longer than another.
MEETING_SECONDS = 1800


def meet(name: str) -> None:
    """Wait until every process has come here; each name can be used once.

    Gloo lets a host wait 30 s for another when they connect, and hosts that load or compile drift further apart.
    """
    if jax.process_count() > 1:
        multihost.get_barrier_sync_fn()(key=name, timeout_ms=MEETING_SECONDS * 1000)


class Program:
    """A jitted function of static shapes that is compiled on all hosts before any of them runs it.

    Args:
        phase: the phase that it serves, which comes back after "compiling".
        function: the jitted function.
        tell: called with the name of a phase that begins.
    """

    def __init__(self, phase: str, function: Any, tell: Callable[[str], None]) -> None:
        self._phase, self._function, self._tell = phase, function, tell
        self._compiled: Any | None = None

    def __call__(self, *args: Any) -> Any:
        """Run it; the first call compiles."""
        if self._compiled is None:
            self._tell("compiling")
            self._compiled = self._function.lower(*args).compile()
            meet(f"dpojob-{self._phase}-compiled")
            self._tell(self._phase)
        return self._compiled(*args)
