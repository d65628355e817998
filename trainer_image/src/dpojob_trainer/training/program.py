"""Compiled steps."""

from collections.abc import Callable
from typing import Any

from dpojob_trainer.training.agreement import meet


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
