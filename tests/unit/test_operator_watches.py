"""When a watch is lost, and how long requests are tried. kopf itself is real in tests/chaos."""

import asyncio
import itertools

from dpojob_operator import watches


async def test_watch_that_fails_is_lost_and_one_that_is_cancelled_is_not():
    gate = asyncio.Event()

    async def fail():
        await gate.wait()
        raise ValueError("by plan")

    stopped = asyncio.create_task(asyncio.sleep(60), name="watcher for a")
    failing = asyncio.create_task(fail(), name="watcher for b")
    finding = asyncio.create_task(watches.find_lost(pause=0.001))
    await asyncio.sleep(0.01)
    stopped.cancel()
    await asyncio.sleep(0.01)
    assert not finding.done()
    gate.set()
    assert await asyncio.wait_for(finding, 10) == "watcher for b"
    assert failing.exception() is not None


def test_every_request_is_tried_for_ever_with_bounded_waits():
    backoffs = watches.Backoffs()
    for _ in range(2):
        assert list(itertools.islice(backoffs, 7)) == [1, 2, 4, 8, 16, 30, 30]
