"""A work queue: every key is worked on by one worker at a time, wakes on events and timers, and is retried with backoff.

It has two lanes with workers of their own. Keys of the second one wait while there is anything to do in the first, but only
for so long.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 60.0
PATIENCE_SECONDS = 10.0
"""For which a key lets the urgent ones go first."""
URGENT_WORKERS = 2
"""An API server serves whoever asks most: with too few questions the operator falls behind those who create jobs."""


def backoff(failures: int, jitter: float) -> float:
    """Return the seconds before the next try after a number of failures in a row.

    Args:
        jitter: 0 to 1; spreads the tries of many keys over half to the whole of the delay.
    """
    delay = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 16))
    return delay * (0.5 + jitter / 2)


class WorkQueue(Generic[K]):
    """Runs a function for keys. A key that is added while it is worked on is worked on once more afterwards."""

    def __init__(
        self,
        work: Callable[[K], Awaitable[float | None]],
        jitter: Callable[[], float] = random.random,
        finished: Callable[[K, float, BaseException | None], None] = lambda key, seconds, error: None,
        about: Callable[[K], AbstractContextManager[None]] = lambda key: nullcontext(),
        is_urgent: Callable[[K], bool] = lambda key: True,
    ) -> None:
        """Take the function to run.

        Args:
            work: returns after how many seconds to run again, None for only after :meth:`add`.
            finished: is called after every run with its duration in seconds and its error, if any.
            about: the context in which a key is worked on.
            is_urgent: returns whether a key goes first.
        """
        self._work = work
        self._jitter = jitter
        self._finished = finished
        self._about = about
        self._is_urgent = is_urgent
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._patient: asyncio.Queue[tuple[K, float]] = asyncio.Queue()
        self._urgent = 0
        self._calm = asyncio.Event()
        self._calm.set()
        self._waiting: set[K] = set()
        self._active: set[K] = set()
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self.progressed_at = time.monotonic()

    def __len__(self) -> int:
        """Return the number of keys that wait for a worker."""
        return len(self._waiting)

    def add(self, key: K) -> None:
        """Have a key worked on soon; what is waiting already is not added twice."""
        self._cancel_timer(key)
        if key in self._active:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._put(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Have a key worked on later, sooner if it is added meanwhile; the newest timer counts."""
        self._cancel_timer(key)
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self.add, key)

    async def run(self, workers: int) -> None:
        """Work until cancelled.

        Args:
            workers: the number of keys that are worked on at the same time, of the urgent ones ``URGENT_WORKERS`` times as many.
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._patient_worker())
            for _ in range(workers * URGENT_WORKERS):
                group.create_task(self._worker())

    def _put(self, key: K) -> None:
        if not self._is_urgent(key):
            self._patient.put_nowait((key, time.monotonic() + PATIENCE_SECONDS))
            return
        self._urgent += 1
        self._calm.clear()
        self._ready.put_nowait(key)

    async def _worker(self) -> None:
        while True:
            key = await self._ready.get()
            await self._run_key(key)
            self._urgent -= 1
            if not self._urgent:
                self._calm.set()

    async def _patient_worker(self) -> None:
        while True:
            key, due = await self._patient.get()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._calm.wait(), max(0.0, due - time.monotonic()))
            await self._run_key(key)

    async def _run_key(self, key: K) -> None:
        self._waiting.discard(key)
        self._active.add(key)
        try:
            with self._about(key):
                await self._run_once(key)
        finally:
            self._active.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    async def _run_once(self, key: K) -> None:
        begun, error = time.monotonic(), None
        try:
            self._schedule(key, await self._work(key))
        except Exception as caught:
            error = caught
            self._retry(key, caught)
        self.progressed_at = time.monotonic()
        self._finished(key, self.progressed_at - begun, error)

    def _schedule(self, key: K, seconds: float | None) -> None:
        self._failures.pop(key, None)
        if seconds is not None:
            self.add_after(key, seconds)

    def _retry(self, key: K, error: Exception) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = backoff(failures, self._jitter())
        log.warning("%s: %s: %s; next try in %.1f s", key, type(error).__name__, error, delay)
        self.add_after(key, delay)

    def _cancel_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
