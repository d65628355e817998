"""Where cuts are compiled: in processes beside each other if the machine has the cores and the memory, else right here.

A compilation cannot be interrupted, so what is no longer needed ends with its process. A process also returns what it took of
memory when it ends; a compilation of eight layers of a 14 B model takes more than 7 GiB.
"""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Protocol

from dpojob_trainer.plan.cuts import Cut, Task, begin, compile_cut

GIB = 2**30
# What one compilation may take: 7.4 GiB were measured with 8 layers of a model of 14 B parameters (docs/plan.md).
COMPILATION_BYTES = 8 * GIB
DEADLINE = 1800.0
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class Pending(Protocol):
    """A cut that is being compiled, or will be once it is asked for."""

    def result(self) -> Cut:
        """Wait for it."""

    def cancel(self) -> None:
        """End it; nobody asks for it any more."""


class Compiler(Protocol):
    """Starts compilations."""

    def start(self, task: Task) -> Pending:
        """Begin with a cut."""


class _Later:
    def __init__(self, task: Task) -> None:
        self._task = task

    def result(self) -> Cut:
        return compile_cut(self._task)

    def cancel(self) -> None:
        """It has not begun."""


class Here:
    """Compiles in this process, which :func:`cuts.begin` has prepared, one cut after the other."""

    def start(self, task: Task) -> Pending:
        """Return what compiles when it is asked for its result."""
        return _Later(task)


class _Worker:
    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=(begin,))
        self._pid = self._pool.submit(os.getpid)
        self.running: Future[Cut] | None = None

    @property
    def idle(self) -> bool:
        return self.running is None or self.running.done()

    def submit(self, task: Task) -> Future[Cut]:
        self.running = self._pool.submit(compile_cut, task)
        return self.running

    def end(self) -> None:
        # It may have ended by itself, as where memory is scarce.
        with suppress(ProcessLookupError, BrokenProcessPool):
            os.kill(self._pid.result(DEADLINE), signal.SIGKILL)
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Running:
    def __init__(self, future: Future[Cut], worker: _Worker, drop: Callable[[_Worker], None]) -> None:
        self._future, self._worker, self._drop = future, worker, drop

    def result(self) -> Cut:
        try:
            return self._future.result(DEADLINE)
        except FutureTimeout:
            self._drop(self._worker)
            raise TimeoutError(f"the compiler has not ended after {DEADLINE:.0f} s") from None

    def cancel(self) -> None:
        if not self._future.done():
            self._drop(self._worker)


class Beside:
    """Compiles in processes of its own; leaving the context ends them."""

    def __init__(self) -> None:
        self._workers: list[_Worker] = []

    def __enter__(self) -> "Beside":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in [*self._workers]:
            self._drop(worker)

    def start(self, task: Task) -> Pending:
        """Begin in an idle process, or a new one."""
        worker = next((one for one in self._workers if one.idle), None)
        if worker is None:
            worker = _Worker()
            self._workers.append(worker)
        return _Running(worker.submit(task), worker, self._drop)

    def _drop(self, worker: _Worker) -> None:
        if worker in self._workers:
            self._workers.remove(worker)
            worker.end()


def _begin(prepare: Callable[[], None]) -> None:
    """Make a process ready; it ends with the one that has started it, however that ends, and not minutes later."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def side_by_side() -> bool:
    """Return whether two compilations fit the machine, or the container, at a time."""
    return len(os.sched_getaffinity(0)) > 1 and _free_bytes() >= 2 * COMPILATION_BYTES


def _free_bytes() -> int:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024
    with suppress(OSError, ValueError):
        free = min(free, int(CGROUP_LIMIT.read_text()))
    return free
