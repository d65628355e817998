"""Compiled steps."""

import os
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dpojob_trainer.training.agreement import meet

# Each compilation of a large model takes gigabytes on the host.
COMPILERS = 4


class Program:
    """A jitted function that is compiled for each static shape on all hosts before any of them runs it.

    Args:
        phase: the phase that it serves, which comes back after "compiling".
        function: the jitted function.
        tell: called with the name of a phase that begins.
        shape: returns what tells the shapes of arguments apart; the same for all by default.
    """

    def __init__(
        self,
        phase: str,
        function: Any,
        tell: Callable[[str], None],
        shape: Callable[..., Hashable] = lambda *_: None,
    ) -> None:
        self._phase, self._function, self._tell, self._shape = phase, function, tell, shape
        self._compiled: dict[Hashable, Any] = {}

    def __call__(self, *args: Any) -> Any:
        """Run it; the first call with a shape that was not prepared compiles."""
        shape = self._shape(*args)
        if shape not in self._compiled:
            self._tell("compiling")
            self._compiled[shape] = self._function.lower(*args).compile()
            meet(f"dpojob-{self._phase}-{shape}-compiled")
            self._tell(self._phase)
        return self._compiled[shape](*args)

    def lowered(
        self, arguments: Sequence[tuple[Any, ...]], see: Callable[[Any], None] = lambda lowered: None
    ) -> list[Callable[[], None]]:
        """Trace it for arguments, which may be shapes alone; return what compiles each and may run in any thread.

        Args:
            arguments: of each shape.
            see: is called with each lowered program.
        """

        def compiling(args: tuple[Any, ...]) -> Callable[[], None]:
            shape, traced = self._shape(*args), self._function.lower(*args)
            see(traced)
            return lambda: self._compiled.update({shape: traced.compile()})

        return [compiling(args) for args in arguments]


def compile_all(tasks: Sequence[Callable[[], None]], tell: Callable[[str], None]) -> None:
    """Compile at the same time what :meth:`Program.lowered` returned, and wait for the other hosts."""
    tell("compiling")
    with ThreadPoolExecutor(min(COMPILERS, os.cpu_count() or 1)) as pool:
        for done in [pool.submit(task) for task in tasks]:
            done.result()
    meet("dpojob-steps-compiled")
