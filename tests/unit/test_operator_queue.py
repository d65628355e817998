"""The work queue: order, timers, retries. Pure logic on a real event loop; no cluster."""

import asyncio

import pytest

from dpojob_operator import queue as queue_module
from dpojob_operator.queue import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, WorkQueue, backoff

DEADLINE_SECONDS = 10


async def run_until(queue, reached, workers=2):
    """Run a queue until a condition holds."""
    task = asyncio.create_task(queue.run(workers))
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_SECONDS
    try:
        while not reached():
            assert loop.time() < deadline, "the queue did not get there in time"
            await asyncio.sleep(0.001)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_equal_keys_are_worked_on_once():
    done = []

    async def work(key):
        done.append(key)

    queue = WorkQueue(work)
    for key in ("a", "b", "a", "a"):
        queue.add(key)
    assert len(queue) == 2
    await run_until(queue, lambda: len(done) >= 2)
    assert done == ["a", "b"]


async def test_a_key_is_never_worked_on_twice_at_a_time():
    state = {"inside": 0, "most": 0, "runs": 0}

    async def work(key):
        state["inside"] += 1
        state["most"] = max(state["most"], state["inside"])
        await asyncio.sleep(0.01)
        state["inside"] -= 1
        state["runs"] += 1
        if state["runs"] < 3:
            queue.add(key)

    queue = WorkQueue(work)
    queue.add("a")
    await run_until(queue, lambda: state["runs"] == 3, workers=4)
    assert state["most"] == 1


async def test_added_while_worked_on_means_once_more():
    runs = []

    async def work(key):
        runs.append(key)
        if len(runs) == 1:
            queue.add(key)
            queue.add(key)

    queue = WorkQueue(work)
    queue.add("a")
    await run_until(queue, lambda: len(runs) == 2)
    assert len(queue) == 0


async def test_requeue_after():
    runs = []

    async def work(key):
        runs.append(key)
        return 0.01 if len(runs) < 3 else None

    queue = WorkQueue(work)
    queue.add("a")
    await run_until(queue, lambda: len(runs) == 3)


async def test_error_is_retried_and_other_keys_go_on():
    runs = []

    async def work(key):
        runs.append(key)
        if key == "bad" and runs.count("bad") == 1:
            raise RuntimeError("once")

    finished = []
    queue = WorkQueue(
        work, jitter=lambda: 0.0, finished=lambda key, seconds, error: finished.append((key, error))
    )
    queue.add("bad")
    queue.add("good")
    await run_until(queue, lambda: runs.count("bad") == 2, workers=1)
    assert "good" in runs
    assert next(type(error) for key, error in finished if key == "bad") is RuntimeError


@pytest.mark.parametrize("failures", [1, 2, 5, 50, 5000])
def test_backoff_grows_to_a_limit(failures):
    low, high = backoff(failures, 0.0), backoff(failures, 1.0)
    assert FIRST_RETRY_SECONDS / 2 <= low <= high <= LONGEST_RETRY_SECONDS
    assert backoff(failures + 1, 0.5) >= backoff(failures, 0.5)


async def test_urgent_keys_go_first_and_the_others_once_there_are_none():
    done = []

    async def work(key):
        await asyncio.sleep(0)
        done.append(key)
        if key == "new 1":
            queue.add("new 2")

    queue = WorkQueue(work, is_urgent=lambda key: key.startswith("new"))
    for key in ("old 1", "old 2", "new 1"):
        queue.add(key)
    await run_until(queue, lambda: len(done) == 4)
    assert done == ["new 1", "new 2", "old 1", "old 2"]


async def test_urgent_keys_hold_the_others_up_only_for_so_long(monkeypatch):
    monkeypatch.setattr(queue_module, "PATIENCE_SECONDS", 0.0)
    done = []

    async def work(key):
        done.append(key)
        if key == "new":
            queue.add(key)
            await asyncio.sleep(0)

    queue = WorkQueue(work, is_urgent=lambda key: key == "new")
    queue.add("new")
    queue.add("old")
    await run_until(queue, lambda: "old" in done)
