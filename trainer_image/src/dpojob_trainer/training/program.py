"""Compiled steps."""

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
            self._compile(shape, self._function.lower(*args))
            meet(f"dpojob-{self._phase}-{shape}-compiled")
            self._tell(self._phase)
        return self._compiled[shape](*args)

    def lowered(
        self, arguments: Sequence[tuple[Any, ...]], see: Callable[[Any], None] = lambda lowered: None
    ) -> Iterator[Callable[[], None]]:
        """Trace it for arguments, which may be shapes alone; yield what compiles each and may run in any thread.

        Args:
            arguments: of each shape.
            see: is called with each lowered program.
        """
        for args in arguments:
            shape, lowered = self._shape(*args), self._function.lower(*args)
            see(lowered)
            yield partial(self._compile, shape, lowered)

    def _compile(self, shape: Hashable, lowered: Any) -> None:
        self._compiled[shape] = lowered.compile()


def compile_all(tasks: Iterable[Callable[[], None]], tell: Callable[[str], None]) -> None:
    """Compile side by side what :meth:`Program.lowered` yields, while it traces the next; then wait for the other hosts."""
    tell("compiling")
    with ThreadPoolExecutor(min(COMPILERS, os.cpu_count() or 1)) as pool:
        for done in [pool.submit(task) for task in tasks]:
            done.result()
    meet("dpojob-steps-compiled")
