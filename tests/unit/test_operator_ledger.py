"""The chip-second ledger: it adds up, over attempts and restarts of the operator. Pure logic; no cluster.

Whole lives run on the stand-in of ``stand_in``, which stands for API server, KubeRay and trainer.
"""

import itertools
import random
from datetime import timedelta

import httpx
import pytest
from tests.unit import operator_builders as b
from tests.unit.stand_in import KEY, TICK, Killed, StandIn
from tests.unit.test_operator_lives import LIVES, MAX_TICKS, at_rest, new_operator, read_status

from dpojob_api import metrics
from dpojob_api.ledger import ACTIVITY_OF_PHASE, BEFORE_SLICE, Activity, ChipSeconds, LedgerStatus
from dpojob_api.status import DPOJobStatus
from dpojob_operator import history, ledger, status
from dpojob_operator.ledger import Switch
from dpojob_operator.observed import Termination
from dpojob_operator.plan import Plan, Stage

CHIPS = 8
RUNNING = Plan(Stage.RUNNING, 1, "Training", "m")


def ago(seconds):
    return b.NOW - timedelta(seconds=seconds)


def opened(activity, seconds=60, **fields):
    """Return a running job whose open interval began so many seconds ago."""
    old = b.running(slice_time=ago(50), **fields)
    return b.make_job(status=old.model_copy(update={"ledger": b.make_ledger(0, activity, seconds)}))


def after(job, plan, observed, now=b.NOW):
    return status.next_status(job, plan, observed, now).ledger


def spent(book):
    """Return the chip-seconds that are not 0."""
    return {kind.value: book.chip_seconds.of(kind) for kind in Activity if book.chip_seconds.of(kind)}


def test_every_activity_is_a_field_and_every_phase_an_activity():
    assert list(ChipSeconds.model_fields) == [kind.value for kind in Activity]
    assert set(ACTIVITY_OF_PHASE) == set(metrics.PHASES)


@pytest.mark.parametrize("seed", range(50))
def test_sum_is_the_time_between_the_switches(seed):
    rng = random.Random(seed)
    time, switches = b.NOW, []
    for _ in range(rng.randint(2, 30)):
        switches.append(Switch(time, rng.choice([None, *Activity])))
        time += timedelta(seconds=rng.randint(0, 5000))
    expected = {kind: 0 for kind in Activity}
    for first, second in itertools.pairwise(switches):
        if first.activity is not None:
            expected[first.activity] += int((second.time - first.time).total_seconds()) * CHIPS
    book = ledger.fold(None, switches, CHIPS)
    assert spent(book) == {kind.value: number for kind, number in expected.items() if number}
    assert book.total == sum(expected.values())
    held = sum(number for kind, number in expected.items() if kind not in BEFORE_SLICE)
    assert (book.chip_seconds.used, book.chip_hours) == (held, round(held / 3600, 2))
    if book.total:
        assert book.goodput == round(expected[Activity.TRAINING] / book.total, 3)


@pytest.mark.parametrize("seed", range(50))
def test_folding_in_pieces_is_folding_at_once(seed):
    rng = random.Random(seed)
    times = sorted(rng.sample(range(10000), 20))
    switches = [Switch(b.NOW + timedelta(seconds=t), rng.choice([None, *Activity])) for t in times]
    whole = ledger.fold(None, switches, CHIPS)
    book, rest = None, switches
    while rest:
        cut = rng.randint(1, len(rest))
        book = ledger.fold(book, rest[:cut], CHIPS)
        book = LedgerStatus.model_validate(book.to_wire())
        rest = rest[cut:]
    assert book == whole


def test_clock_that_is_set_back_counts_no_second_twice():
    book = ledger.fold(None, [Switch(b.NOW, Activity.TRAINING)], CHIPS)
    book = ledger.fold(book, [Switch(ago(100), Activity.EVALUATING)], CHIPS)
    book = ledger.fold(book, [Switch(b.NOW + timedelta(seconds=10), None)], CHIPS)
    assert spent(book) == {"evaluating": 10 * CHIPS}
    assert ledger.used(b.make_ledger(7, Activity.TRAINING, -100), CHIPS, b.NOW) == 7


@pytest.mark.parametrize(("phase", "activity"), ACTIVITY_OF_PHASE.items())
def test_phase_of_the_trainer_decides(phase, activity):
    job = opened(Activity.STARTING)
    book = after(job, RUNNING, b.observe(job, scrape=b.make_scrape(12, phase=phase)))
    assert (book.activity, book.since, spent(book)) == (activity, b.NOW, {"starting": 60 * CHIPS})


def test_nothing_is_written_while_nothing_else_changes():
    job = opened(Activity.TRAINING)
    first = status.next_status(job, RUNNING, b.observe(job), b.NOW)
    later = b.make_job(status=first)
    again = status.next_status(later, RUNNING, b.observe(later), b.NOW + timedelta(hours=1))
    assert again == first


def test_open_interval_is_counted_up_when_the_status_is_written_anyway():
    job = b.make_job(
        status=status.next_status(opened(Activity.TRAINING), RUNNING, b.observe(b.make_job()), b.NOW)
    )
    stepped = b.observe(job, scrape=b.make_scrape(13))
    book = after(job, RUNNING, stepped, b.NOW + timedelta(seconds=5))
    assert (book.activity, spent(book)) == (Activity.TRAINING, {"training": 65 * CHIPS})
    assert (book.goodput, book.chip_hours) == (1.0, round(65 * CHIPS / 3600, 2))


def test_metrics_that_cannot_be_read_change_nothing():
    job = opened(Activity.EVALUATING)
    assert after(job, RUNNING, b.observe(job, scrape=None)).activity is Activity.EVALUATING


def test_steps_that_are_done_again_are_lost():
    ended = b.make_attempt(1, "Failed", to_step=20)
    old = b.running()
    again = [ended, b.make_attempt(2, slice_time=ago(50))]
    book = b.make_ledger(0, Activity.COMPILING, 60)
    job = b.make_job(status=old.model_copy(update={"attempts": again, "ledger": book}))
    plan = Plan(Stage.RUNNING, 2, "Training", "m")
    for step, activity in ((19, Activity.LOST), (20, Activity.TRAINING)):
        assert after(job, plan, b.observe(job, attempt=2, scrape=b.make_scrape(step))).activity is activity


def test_slice_is_idle_from_the_end_of_a_host_until_its_pods_are_gone():
    job = opened(Activity.TRAINING)
    ended = Termination("ray-worker", 137, "Error", "", ago(20))
    pods = b.make_pods(b.make_pod(index=1, phase="Failed", ended=ended))
    ending = after(job, Plan(Stage.ENDING, 1, "HostLost", "m"), b.observe(job, pods=pods, scrape=None))
    assert (ending.activity, spent(ending)) == (
        Activity.IDLE,
        {"training": 40 * CHIPS, "idle": 20 * CHIPS},
    )
    over = b.make_attempt(1, "Failed", end_time=b.NOW)
    gone = b.make_job(status=DPOJobStatus(attempts=[over], ledger=ending))
    cleaning = Plan(Stage.CLEANING, 2, "BackingOff", "m")
    held = after(gone, cleaning, b.nothing(attempt=2, old_pods=("j-a1-0",), old_slice=True))
    assert held.activity is Activity.IDLE
    free = after(gone, cleaning, b.nothing(attempt=2), b.NOW + timedelta(seconds=30))
    assert (free.activity, spent(free)["idle"]) == (None, 50 * CHIPS)


def test_time_without_an_operator_goes_to_what_was_known_before():
    """The RayJob had been made, then no operator ran while the slice came and the run ended."""
    old = b.active().model_copy(update={"ledger": b.make_ledger(0, Activity.PROVISIONING, 1000)})
    job = b.make_job(status=old)
    pods = [b.make_pod(index=i, placed_at=ago(700 - i)) for i in range(2)]
    ray_job = b.make_ray_job("Failed", "FAILED", ended_at=ago(100))
    observed = b.observe(job, pods=b.make_pods(*pods), ray_job=ray_job, scrape=None)
    new = status.next_status(job, Plan(Stage.FAILED, 1, "X", "m"), observed, b.NOW)
    assert new.attempts[0].slice_time == ago(700)
    assert new.ledger is not None
    assert new.ledger.activity is None
    assert spent(new.ledger) == {
        "provisioning": 300 * CHIPS,
        "starting": 600 * CHIPS,
        "idle": 100 * CHIPS,
    }


def test_attempt_that_kueue_holds_back_is_queued():
    job = b.make_job(status=b.active(start_time=ago(60)))
    starting = Plan(Stage.STARTING, 1, "AttemptCreated", "m")
    held = b.observe(job, ray_job=b.make_ray_job("", "", suspended=True), pods=(), scrape=None)
    book = after(job, starting, held)
    assert (book.activity, book.chip_hours, spent(book)) == (Activity.QUEUED, 0, {"queued": 60 * CHIPS})
    job = b.make_job(status=b.active().model_copy(update={"ledger": book}))
    admitted = b.observe(job, ray_job=b.make_ray_job("Initializing", ""), pods=(), scrape=None)
    assert after(job, starting, admitted).activity is Activity.PROVISIONING


def test_slice_that_kueue_took_back_is_not_held():
    job = opened(Activity.TRAINING)
    starting = Plan(Stage.STARTING, 1, "AttemptCreated", "m")
    evicted = b.observe(job, ray_job=b.make_ray_job("Suspended", "", suspended=True), pods=(), scrape=None)
    book = after(job, starting, evicted)
    assert book.activity is Activity.QUEUED
    job = b.make_job(status=job.status.model_copy(update={"ledger": book}))
    pods = b.make_pods(*(b.make_pod(index=i, node=None, phase="Pending") for i in range(2)))
    again = b.observe(job, ray_job=b.make_ray_job("Initializing", ""), pods=pods, scrape=None)
    assert after(job, starting, again).activity is Activity.PROVISIONING
    placed = b.observe(job, ray_job=b.make_ray_job("Initializing", ""), scrape=None)
    assert after(job, starting, placed).activity is Activity.STARTING


@pytest.mark.parametrize(
    ("before", "activity"),
    [(Activity.TRAINING, Activity.CHECKPOINTING), (Activity.STARTING, Activity.IDLE)],
)
def test_run_that_is_stopped_saves_if_it_had_begun(before, activity):
    job = opened(before)
    stopping = Plan(Stage.STOPPING, 1, "Suspending", "m")
    book = after(job, stopping, b.observe(job, scrape=None))
    assert book.activity is activity
    job = b.make_job(status=job.status.model_copy(update={"ledger": book}))
    assert after(job, stopping, b.observe(job, scrape=None)).activity is activity
    assert after(job, stopping, b.observe(job, pods=(), scrape=None)).activity is Activity.IDLE


async def live(name, kill_at=None):
    """Live a job to its end; return the cluster and for how many ticks an interval was open."""
    fates, edits = LIVES[name]
    world = StandIn(fates)
    world.kill_at = kill_at
    ticks = 0
    async with httpx.AsyncClient(transport=httpx.MockTransport(world.metrics)) as http:
        reconciler = new_operator(world, http)
        for tick in range(MAX_TICKS):
            if tick in edits:
                world.edit(**edits[tick])
            again = 0.0
            while again == 0:
                try:
                    again = await reconciler.reconcile(KEY)
                except Killed:
                    reconciler, again = new_operator(world, http), 0.0
            book = read_status(world).ledger
            ticks += book is not None and book.activity is not None
            world.tick()
            if history.is_terminal(read_status(world)) and at_rest(world):
                break
    return world, ticks


@pytest.mark.parametrize("name", [name for name in LIVES if name != "lost for good"])
async def test_sum_is_the_wall_time_of_the_attempts_whoever_kills_the_operator(name):
    world, ticks = await live(name)
    end = read_status(world)
    if not end.attempts:
        assert end.ledger is None
        return
    assert end.ledger is not None
    assert end.ledger.total == ticks * int(TICK.total_seconds()) * CHIPS
    assert end.ledger.activity is None
    started, last = end.attempts[0].start_time, end.completion_time
    assert last is not None
    assert end.ledger.total <= (last - started).total_seconds() * CHIPS
    if len(end.attempts) == 1:
        assert end.ledger.total == (last - started).total_seconds() * CHIPS
    points = random.Random(name).sample(range(1, world.calls + 1), 4)
    for point in points:
        disturbed, _ = await live(name, kill_at=point)
        assert read_status(disturbed).ledger == end.ledger, f"killed at point {point}"


async def test_work_done_again_is_lost_over_attempts():
    book = read_status((await live("host, then head"))[0]).ledger
    assert book is not None
    assert book.chip_seconds.lost > 0
    kept = read_status((await live("preempted twice"))[0]).ledger
    assert kept is not None
    assert kept.chip_seconds.lost == 0
    assert kept.chip_seconds.training > 0
