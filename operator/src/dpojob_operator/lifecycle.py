"""kopf's life: its first requests are tried for ever, and once it stops the process ends.

kopf gives a request up after a minute of errors. It then begins to stop, and may not come to an end.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator

log = logging.getLogger(__name__)

END_SECONDS = 10.0
"""Enough for a regular end, which takes one."""
LONGEST_BACKOFF_SECONDS = 30.0


class Backoffs(Iterable[float]):
    """Seconds between the tries of one request: 1, 2, 4 … and then the longest for ever."""

    def __iter__(self) -> Iterator[float]:
        """Begin anew, as kopf does for every request."""
        delay = 1.0
        while True:
            yield delay
            delay = min(2 * delay, LONGEST_BACKOFF_SECONDS)


def end_process() -> None:
    """End at once; a start finds everything again in the API server."""
    log.critical("kopf has stopped without coming to an end; the operator ends too, to be started anew")
    os._exit(1)


def end_in(seconds: float = END_SECONDS, end: Callable[[], None] = end_process) -> threading.Timer:
    """Have the process ended after a time, unless it ends by itself before; called when kopf begins to stop."""
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer
