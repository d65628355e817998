"""Whole lives of a job with the operator killed before and after every API call, and random worlds for `decide`.

API server, KubeRay and trainer are the stand-in of ``stand_in``; the real ones are in tests/integration and tests/e2e.
"""

import asyncio
import json
import os
import random

import httpx
import pytest
from tests.unit import operator_builders as b
from tests.unit.stand_in import KEY, LABEL_QUEUE, Killed, StandIn
from tests.unit.watched import Watched

from dpojob_api.status import DPOJobStatus
from dpojob_operator import history, kube
from dpojob_operator.errors import ConflictError, TransientError
from dpojob_operator.observe import Observer
from dpojob_operator.reconcile import Reconciler

MAX_TICKS = 800
SEED = 20261124
# Of each life; all if 0. A few thousand take minutes.
KILL_POINTS = int(os.environ.get("DPOJOB_KILL_POINTS", "4"))

BAD = {1: ("bad", 99)}
QUEUE = {"labels": {LABEL_QUEUE: "tpu"}}


def guard(action):
    """Return guards that a bad run breaks."""
    return {"rewardAccuracy": {"afterSteps": 0, "action": action}}


# fates by attempt, edits by tick
LIVES = {
    "succeed": ({}, {}),
    "preempted twice": ({1: ("preempted", 4), 2: ("preempted", 5)}, {}),
    "host, then head": ({1: ("host", 5), 2: ("head", 4)}, {}),
    "RayJob deleted": ({1: ("delete", 6)}, {}),
    "no capacity": ({1: ("capacity", 0), 2: ("capacity", 0)}, {}),
    "crash before a checkpoint": ({1: ("crash", 2)}, {}),
    "crash after a checkpoint": ({1: ("internal", 6)}, {}),
    "same crash twice": ({1: ("internal", 6), 2: ("internal", 2)}, {}),
    "bad data": ({1: ("data", 1)}, {}),
    "fenced": ({1: ("fenced", 3)}, {}),
    "success without proof": ({1: ("liar", 2)}, {}),
    "suspended and resumed": ({}, {6: {"suspend": True}, 30: {"suspend": False}}),
    "suspended at once": ({}, {0: {"suspend": True}, 9: {"suspend": False}}),
    "change of mind": ({}, {6: {"suspend": True}, 7: {"suspend": False}}),
    "suspended between attempts": ({1: ("preempted", 4)}, {9: {"suspend": True}, 30: {"suspend": False}}),
    "deadline": ({}, {5: {"activeDeadlineSeconds": 40}}),
    "budget": ({}, {5: {"budget": {"chipHours": 0.31}}}),
    "bad run, fail": (BAD, {0: {"guards": guard("Fail")}}),
    "bad run, suspend": (BAD, {0: {"guards": guard("Suspend")}, 30: {"guards": {}}}),
    "bad run, roll back": (BAD, {0: {"guards": guard("RollbackAndReduceLR")}}),
    "not finite, roll back": (
        {1: ("nan", 6)},
        {0: {"guards": {"nonFiniteLoss": {"action": "RollbackAndReduceLR"}}}},
    ),
    "not finite twice": (
        {1: ("nan", 6), 2: ("nan", 4)},
        {0: {"guards": {"nonFiniteLoss": {"action": "RollbackAndReduceLR"}}}},
    ),
    "queued": ({}, {0: QUEUE}),
    "evicted": ({1: ("evict", 5)}, {0: QUEUE}),
    "evicted, then suspended": ({1: ("evict", 5)}, {0: QUEUE, 10: {"suspend": True}, 30: {"suspend": False}}),
    "lost for good": ({n: ("host", 3) for n in range(1, 30)}, {}),
}


async def live(fates, edits, kill_at=None, faults=None, lag=None):
    """Live a job to its end, with the operator killed at one point of its calls, and return the cluster.

    Args:
        faults: decides at which points the API server's answer is lost, before or after it has acted.
        lag: decides at which ticks the watch of a kind shows what there is; without it there are no watches.
    """
    world = StandIn(fates)
    world.kill_at, world.faults, world.lag = kill_at, faults, lag
    numbers = []
    async with httpx.AsyncClient(transport=httpx.MockTransport(world.metrics)) as http:
        reconciler = new_operator(world, http)
        for tick in range(MAX_TICKS):
            edit(world, edits.get(tick))
            world.show()
            again = 0.0
            while again == 0:
                try:
                    again = await reconciler.reconcile(KEY)
                except Killed:
                    reconciler = new_operator(world, http)
                except TransientError:
                    again = 0.0
            numbers.append(history.attempt_number(read_status(world)))
            world.tick()
            if history.is_terminal(read_status(world)) and at_rest(world):
                break
    assert numbers == sorted(numbers), "it returned to an earlier attempt"
    return world


def edit(world, what):
    """Let the user edit the spec, or set labels at creation."""
    if what == QUEUE:
        world.label(**QUEUE["labels"])
    elif what is not None:
        world.edit(**what)


def new_operator(world, http):
    if world.lag is None:
        return Reconciler(world, Observer(world, http), b.SETTINGS, lambda: world.now)
    world.watched = Watched(world, http)
    api = world.watched.api
    return Reconciler(api, Observer(api, http), b.SETTINGS, lambda: world.now, glance=world.watched)


def read_status(world):
    return DPOJobStatus.model_validate(world.job["status"])


def at_rest(world):
    held = [name for kind, name in world.objects if kind in (kube.PODS, kube.RAYCLUSTERS)]
    return not held and all(world.over(body) for _, body in world.ray_jobs())


def outcome(world):
    """Return what must not depend on when the operator was killed."""
    end = read_status(world)
    ends = [(a.number, a.outcome, a.failure_class, a.reason, a.from_step) for a in end.attempts]
    return end.summary, ends, end.retries


@pytest.mark.parametrize("name", LIVES)
async def test_life_undisturbed_keeps_the_rules(name):
    world = await live(*LIVES[name])
    assert_rules(world)


def assert_rules(world):
    end = read_status(world)
    assert history.is_terminal(end), f"the job did not end: {end.summary}"
    assert world.broken == []
    assert len(world.created) == len(set(world.created)), f"a RayJob was made twice: {world.created}"
    assert world.created == [f"j-a{n + 1}" for n in range(len(world.created))]
    assert (end.summary == "Complete") == (world.finished and end.final_metrics is not None)


# What they end with depends on how far a run got in a time.
TIMED = {"deadline", "budget"}
EXPECTED = {
    "succeed": ("Complete", ["Succeeded"]),
    "preempted twice": ("Complete", ["Failed", "Failed", "Succeeded"]),
    "host, then head": ("Complete", ["Failed", "Failed", "Succeeded"]),
    "RayJob deleted": ("Complete", ["Lost", "Succeeded"]),
    "no capacity": ("Complete", ["Failed", "Failed", "Succeeded"]),
    "crash before a checkpoint": ("Failed", ["Failed"]),
    "crash after a checkpoint": ("Complete", ["Failed", "Succeeded"]),
    "same crash twice": ("Failed", ["Failed", "Failed"]),
    "bad data": ("Failed", ["Failed"]),
    "fenced": ("Failed", ["Failed"]),
    "success without proof": ("Failed", ["Failed"]),
    "suspended and resumed": ("Complete", ["Stopped", "Succeeded"]),
    "suspended at once": ("Complete", ["Succeeded"]),
    "change of mind": ("Complete", ["Stopped", "Succeeded"]),
    "suspended between attempts": ("Complete", ["Failed", "Succeeded"]),
    "deadline": ("Failed", ["Failed"]),
    "budget": ("Failed", ["Failed"]),
    "bad run, fail": ("Failed", ["Failed"]),
    "bad run, suspend": ("Complete", ["Stopped", "Succeeded"]),
    "bad run, roll back": ("Complete", ["Failed", "Succeeded"]),
    "not finite, roll back": ("Complete", ["Failed", "Succeeded"]),
    "not finite twice": ("Failed", ["Failed", "Failed"]),
    "queued": ("Complete", ["Succeeded"]),
    "evicted": ("Complete", ["Stopped", "Succeeded"]),
    "evicted, then suspended": ("Complete", ["Stopped", "Succeeded"]),
    "lost for good": ("Failed", ["Failed"] * 9),
}


@pytest.mark.parametrize("name", LIVES)
async def test_life_ends_as_expected(name):
    end = read_status(await live(*LIVES[name]))
    assert (end.summary, [attempt.outcome for attempt in end.attempts]) == EXPECTED[name]


async def test_no_step_is_lost_by_suspension():
    world = await live(*LIVES["suspended and resumed"])
    first, second = read_status(world).attempts
    assert (first.steps_lost, first.to_step) == (0, second.from_step)
    assert first.to_step


async def test_rolled_back_run_saves_nothing_and_takes_the_lower_rate():
    world = await live(*LIVES["bad run, roll back"])
    first, second = read_status(world).attempts
    assert (first.reason, second.from_step) == ("RewardAccuracyLow", first.to_step // 10 * 10)
    rates = [json.loads(world.objects[kube.CONFIGMAPS, f"j-a{n}"]["data"]["trainer.json"]) for n in (1, 2)]
    first_rate, second_rate = (config["training"]["learningRate"] for config in rates)
    assert second_rate == first_rate / 2


async def test_evicted_run_goes_on_at_its_step_and_uses_no_retry():
    end = read_status(await live(*LIVES["evicted"]))
    first, second = end.attempts
    assert (first.reason, first.steps_lost, first.to_step) == ("EvictedByKueue", 0, second.from_step)
    assert end.retries is None
    assert end.ledger.chip_seconds.training > 0


@pytest.mark.parametrize("name", [name for name in LIVES if name != "lost for good"])
async def test_killed_before_and_after_calls_it_ends_the_same(name):
    fates, edits = LIVES[name]
    undisturbed = await live(fates, edits)
    points = range(1, undisturbed.calls + 1)
    for point in random.Random(f"{SEED}{name}").sample(points, min(KILL_POINTS or len(points), len(points))):
        world = await live(fates, edits, kill_at=point)
        assert_rules(world)
        assert outcome(world) == outcome(undisturbed), f"killed at point {point}"


@pytest.mark.parametrize("name", ["succeed", "preempted twice", "host, then head", "suspended and resumed"])
@pytest.mark.parametrize("seed", range(3))
async def test_two_operators_at_once_make_no_attempt_twice(name, seed):
    fates, edits = LIVES[name]
    world = StandIn(fates)
    world.order = random.Random(SEED + seed)
    async with httpx.AsyncClient(transport=httpx.MockTransport(world.metrics)) as http:
        operators = [new_operator(world, http) for _ in range(2)]
        for tick in range(MAX_TICKS):
            edit(world, edits.get(tick))
            for _ in range(3):
                done = await asyncio.gather(*(o.reconcile(KEY) for o in operators), return_exceptions=True)
                assert all(isinstance(e, ConflictError) for e in done if isinstance(e, BaseException)), done
            world.tick()
            if history.is_terminal(read_status(world)) and at_rest(world):
                break
    assert_rules(world)
    assert outcome(world) == outcome(await live(fates, edits))


@pytest.mark.parametrize("name", [name for name in LIVES if name not in TIMED])
async def test_lost_answers_change_nothing(name):
    fates, edits = LIVES[name]
    world = await live(fates, edits, faults=random.Random(f"{SEED}{name}"))
    assert_rules(world)
    assert outcome(world) == outcome(await live(fates, edits))


@pytest.mark.parametrize("name", LIVES)
async def test_life_seen_through_watches_that_lag_ends_the_same(name):
    fates, edits = LIVES[name]
    world = await live(fates, edits, lag=random.Random(f"{SEED}{name}"))
    assert_rules(world)
    if name not in TIMED:
        assert (read_status(world).summary, len(world.created)) == (EXPECTED[name][0], len(EXPECTED[name][1]))


@pytest.mark.parametrize("name", [name for name in LIVES if name not in TIMED])
async def test_killed_while_watches_lag_the_rules_hold(name):
    fates, edits = LIVES[name]
    calls = (await live(fates, edits, lag=random.Random(f"{SEED}{name}"))).calls
    points = range(1, calls + 1)
    for point in random.Random(f"{SEED}{name}").sample(points, min(KILL_POINTS or len(points), len(points))):
        world = await live(fates, edits, kill_at=point, lag=random.Random(f"{SEED}{name}"))
        assert_rules(world)
        assert read_status(world).summary == EXPECTED[name][0], f"killed at point {point}"
