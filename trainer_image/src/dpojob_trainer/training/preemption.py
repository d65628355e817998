"""SIGTERM: the machine is about to be taken away (spot reclaim, suspend, drain), and somebody still has seconds.

JAX has a service for the same purpose. It is not used: it needs several processes, and it counts steps from 0, so that
a notice while a resumed run is loading is never acted on.
"""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from dpojob_api.reasons import TrainerReason
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.training.agreement import anyone

log = logging.getLogger(__name__)


class Preemption:
    """Takes SIGTERM: it ends the run at once while it loads, and between two steps once it trains."""

    def __init__(self) -> None:
        self._told = False
        self._only_noted = False
        self._before: Any = None

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        else:
            log.warning("SIGTERM cannot be taken outside the main thread; a stopped host saves nothing")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """Let nothing be interrupted that would take the interruption for a failure of its own.

        Raises:
            TrainerError: Preempted, at the end.
        """
        self._only_noted = True
        yield
        self._only_noted = False
        self.leave_if_told()

    def wait_for_steps(self) -> None:
        """From now on a signal is only noted, for :meth:`agreed`."""
        self._only_noted = True

    def agreed(self) -> bool:
        """Return on all hosts alike whether one of them was told to stop; all must ask between the same two steps."""
        return anyone(self._told)

    def leave_if_told(self) -> None:
        """End this host, and with it the run, if it was told to stop while it loads.

        Raises:
            TrainerError: Preempted.
        """
        if self._told and not self._only_noted:
            raise TrainerError(
                TrainerReason.PREEMPTED,
                "a host was told to stop (SIGTERM) before it began to train; the next attempt on the same output "
                "starts where this one would have",
            )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._told = True
        self.leave_if_told()
        log.warning("told to stop (SIGTERM); a checkpoint follows this step")
