"""kopf's watches: they try for ever, and if one ends all the same the operator ends too and is started anew.

kopf gives a request up after a minute of errors, and a watch for which the API server reports an error other than 410. It
then logs that a watcher has failed and begins to stop, but does not come to an end: alive, and deaf.
"""

import asyncio
from collections.abc import Iterable, Iterator

LOOK_SECONDS = 5.0
TASK_PREFIX = "watcher for "
"""Of the names of kopf's tasks; tests/chaos ends a watch to see that they still have it."""
LONGEST_BACKOFF_SECONDS = 30.0


class Backoffs(Iterable[float]):
    """Seconds between the tries of one request: 1, 2, 4 … and then the longest for ever."""

    def __iter__(self) -> Iterator[float]:
        """Begin anew, as kopf does for every request."""
        delay = 1.0
        while True:
            yield delay
            delay = min(2 * delay, LONGEST_BACKOFF_SECONDS)


async def find_lost(pause: float = LOOK_SECONDS) -> str:
    """Wait until a watch has failed, and return which; one that kopf has ended itself has not."""
    watches: set[asyncio.Task[object]] = set()
    while True:
        watches |= {task for task in asyncio.all_tasks() if task.get_name().startswith(TASK_PREFIX)}
        for task in watches:
            if task.done() and not task.cancelled() and task.exception() is not None:
                return task.get_name()
        await asyncio.sleep(pause)
