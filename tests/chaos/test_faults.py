"""What an API server, its etcd, a network, a clock and a second operator can do to a job: it ends as undisturbed.

Played and real: see ``test_kills``.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from tests.chaos.cell import Cell
from tests.chaos.control_plane import ControlPlane
from tests.chaos.lives import LIVES, Life, Outcome, live
from tests.chaos.operators import Operator
from tests.chaos.points import at_random
from tests.chaos.proxy import Harm

pytestmark = pytest.mark.slow

SEED = "1"
RATE = 0.08
# What the operator does while the API server is away is a retry with a backoff that grows to a minute; it keeps no state
# that an hour would change more than half a minute does. DPOJOB_OUTAGE_SECONDS=300 is the whole of it.
OUTAGE_SECONDS = float(os.environ.get("DPOJOB_OUTAGE_SECONDS", "30"))
CLOCK_STEP_SECONDS = 600
COMPLETE = {
    "succeed": (["Succeeded"], []),
    "preempted": (["Failed", "Succeeded"], ["Preempted"]),
    "suspended and resumed": (["Stopped", "Succeeded"], []),
}


def assert_undisturbed(name: str, outcome: Outcome) -> None:
    """Check that a life has come to what it comes to without any harm, which is known beforehand."""
    outcomes, classes = COMPLETE[name]
    assert (outcome.duplicates, outcome.orphans) == ([], [])
    attempts = outcome.end["attempts"]
    assert (outcome.end["summary"], outcome.end["proof"]) == ("Complete", 40)
    assert [a["outcome"] for a in attempts] == outcomes
    assert [a["class"] for a in attempts if a["class"]] == classes


@contextlib.asynccontextmanager
async def meanwhile(what: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Do something beside; its failure is the test's."""
    task = asyncio.ensure_future(what())
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def at_step_10(cell: Cell) -> Callable[[], bool]:
    """Return a test of whether the first run has taken steps."""
    return lambda: (cell.status().get("progress") or {}).get("step", 0) >= 10


@pytest.mark.parametrize("name", COMPLETE)
async def test_refused_lost_and_slow_answers_change_nothing(cell: Cell, name: str) -> None:
    harms = [Harm.CONFLICT, Harm.THROTTLED, Harm.ERROR, Harm.LOST_BEFORE, Harm.LOST_AFTER, Harm.SLOW]
    await cell.operator.kill()
    cell.operator.read_seconds = 2.0
    cell.begin(at_random(harms, RATE, f"{SEED}/{name}"))
    assert_undisturbed(name, await live(cell, LIVES[name]))
    assert cell.proxy.harms


@pytest.mark.parametrize("name", ["preempted"])
async def test_dropped_and_expired_watches_change_nothing(cell: Cell, name: str) -> None:
    async def harm() -> None:
        while True:
            await asyncio.sleep(0.7)
            cell.proxy.cut_watches()
            await asyncio.sleep(0.7)
            cell.proxy.answer_watches(410, times=4)

    cell.begin()
    async with meanwhile(harm):
        assert_undisturbed(name, await live(cell, LIVES[name]))
    assert cell.operator.starts == 1, cell.operator.tail()


async def test_watches_that_answer_with_an_error_are_begun_again(cell: Cell) -> None:
    async def harm() -> None:
        cell.proxy.answer_watches(500, times=8)
        await asyncio.sleep(3)

    assert_undisturbed("preempted", await harmed_at_step_10(cell, "preempted", harm))
    assert cell.operator.starts == 1, cell.operator.tail()


async def harmed_at_step_10(cell: Cell, name: str, harm: Callable[[], Awaitable[None]]) -> Outcome:
    """Live a life and harm it once its first run has taken steps."""
    cell.begin()
    life = asyncio.ensure_future(live(cell, LIVES[name]))
    await cell.until_held("the run at step 10", at_step_10(cell))
    await harm()
    return await life


@pytest.mark.parametrize(("status", "name"), [(0, "preempted"), (503, "preempted"), (0, "succeed")])
async def test_api_server_away_for_a_while(cell: Cell, status: int, name: str) -> None:
    async def harm() -> None:
        cell.proxy.down_status, cell.proxy.down = status, True
        cell.proxy.cut_watches()
        await asyncio.sleep(OUTAGE_SECONDS)
        cell.proxy.down = False

    cell.away_seconds = OUTAGE_SECONDS
    outcome = await harmed_at_step_10(cell, name, harm)
    assert_undisturbed(name, outcome)
    assert cell.operator.starts == 1, cell.operator.tail()


async def test_api_server_killed_and_etcd_compacted(cell: Cell, control_plane: ControlPlane) -> None:
    async def harm() -> None:
        await asyncio.to_thread(control_plane.compact)
        await asyncio.to_thread(control_plane.kill_apiserver)
        await asyncio.to_thread(control_plane.start)

    assert_undisturbed("preempted", await harmed_at_step_10(cell, "preempted", harm))


async def test_etcd_killed_and_started_again(cell: Cell, control_plane: ControlPlane) -> None:
    async def harm() -> None:
        await asyncio.to_thread(control_plane.kill_etcd)
        await asyncio.to_thread(control_plane.start)

    assert_undisturbed("preempted", await harmed_at_step_10(cell, "preempted", harm))


@pytest.mark.parametrize("seconds", [CLOCK_STEP_SECONDS, -CLOCK_STEP_SECONDS])
@pytest.mark.parametrize("name", ["preempted", "suspended and resumed"])
async def test_operators_clock_steps(cell: Cell, name: str, seconds: int) -> None:
    """The operator reads its clock through a file that the test changes (see ``zygote.step_clock``)."""
    stages: Iterator[str] = iter(("Running", "Retrying" if name == "preempted" else "Suspended"))

    async def harm() -> None:
        for number, stage in enumerate(stages):
            await cell.until(stage, lambda status, stage=stage: status.get("summary") == stage)  # type: ignore[misc]
            if not number:
                await cell.edit({"progress": {"stallSeconds": CLOCK_STEP_SECONDS // 2}})
            cell.operator.step_clock(0 if number else seconds)

    cell.begin()
    began = time.monotonic()
    async with meanwhile(harm):
        outcome = await live(cell, LIVES[name])
    assert_undisturbed(name, outcome)
    assert time.monotonic() - began < CLOCK_STEP_SECONDS, "it waited until the clock was back"


@pytest.mark.parametrize("name", COMPLETE)
async def test_two_operators_at_once_make_no_attempt_twice(cell: Cell, name: str) -> None:
    other: Operator = cell.another_operator()
    await other.start()
    try:
        cell.begin()
        assert_undisturbed(name, await live(cell, LIVES[name]))
        assert other.alive, other.tail()
    finally:
        await other.kill()


async def test_operator_away_while_the_run_ends(cell: Cell) -> None:
    """The driver waits two minutes for a record (scaled to a second here) and leaves its result in the RayJob."""
    cell.player.record_wait = 1.0
    cell.begin()
    life: Life = LIVES["succeed"]
    ended = asyncio.ensure_future(live(cell, life))
    await cell.until_held("the run at step 10", at_step_10(cell))
    cell.restarting = False
    await cell.operator.kill()
    cell.player.patience = 0.0
    await cell.until_held("the RayJob's end", lambda: cell.states() == ["Failed"])
    cell.restarting = True
    assert_undisturbed("succeed", await ended)
