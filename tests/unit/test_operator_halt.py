"""Suspension, deadline, budget, stalled runs and the life after the end. Pure logic; no cluster."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.unit import operator_builders as b

from dpojob_api.ledger import Activity
from dpojob_api.metrics import IDLE_SECONDS
from dpojob_api.reasons import OperatorReason
from dpojob_api.result import TrainerResult
from dpojob_api.status import DPOJobStatus, FinalMetrics
from dpojob_operator import decide, running, status
from dpojob_operator.observed import RayClusterView
from dpojob_operator.plan import Delete, Kind, Plan, Stage, Stop
from dpojob_operator.policy import budget, ttl

SUSPENDED = {"suspend": True}
DEADLINE = {"activeDeadlineSeconds": 3600}
BUDGET = {"budget": {"chipHours": 8}}
STALL = {"progress": {"stallSeconds": 60}}


def ago(**time):
    return b.NOW - timedelta(**time)


def plan(job, observed, now=b.NOW):
    return decide.decide(job, observed, b.SETTINGS, now)


def late():
    """Return the status of a run whose job began an hour ago."""
    return b.running().model_copy(update={"start_time": ago(hours=1)})


def spent():
    """Return the status of a run that has held eight chips for an hour, less what stopping takes."""
    ledger = b.make_ledger(0, Activity.TRAINING, 3600 - 135)
    return b.running().model_copy(update={"ledger": ledger})


HALTS = [
    (SUSPENDED, b.running, OperatorReason.SUSPENDING),
    (DEADLINE, late, OperatorReason.DEADLINE_EXCEEDED),
    (BUDGET, spent, OperatorReason.BUDGET_EXCEEDED),
]


@pytest.mark.parametrize(("spec", "make", "reason"), HALTS, ids=["suspend", "deadline", "budget"])
class TestStop:
    def test_run_is_stopped_through_kuberay_so_that_it_saves(self, spec, make, reason):
        job = b.make_job(spec, make())
        made = plan(job, b.observe(job, ray_job=b.make_ray_job(uid="u1")))
        assert (made.stage, made.reason, made.actions) == (Stage.STOPPING, reason, (Stop("j-a1", "u1"),))

    def test_attempt_that_is_starting_is_stopped_too(self, spec, make, reason):
        job = b.make_job(spec, make())
        made = plan(job, b.observe(job, ray_job=b.make_ray_job("Initializing", ""), scrape=None))
        assert made.stage is Stage.STOPPING

    def test_hosts_have_their_time_to_save(self, spec, make, reason):
        job = b.make_job(spec, make())
        stopping = b.make_ray_job("Suspending", suspended=True, stop_time=ago(seconds=100))
        made = plan(job, b.observe(job, ray_job=stopping, ray_clusters=(), pods=b.make_pods()[:1]))
        assert (made.stage, made.reason, made.actions) == (Stage.STOPPING, reason, ())

    def test_attempt_is_over_when_nothing_is_left_or_the_time_is(self, spec, make, reason):
        job = b.make_job(spec, make())
        stage = Stage.STOPPED if reason == OperatorReason.SUSPENDING else Stage.FAILED
        gone = b.make_ray_job("Suspended", suspended=True, stop_time=ago(seconds=10))
        assert plan(job, b.observe(job, ray_job=gone, ray_clusters=(), pods=(), scrape=None)).stage is stage
        stuck = b.make_ray_job("Suspending", suspended=True, stop_time=b.NOW - running.STOP_GRACE)
        assert plan(job, b.observe(job, ray_job=stuck)).stage is stage

    def test_run_that_has_finished_is_left_to_end(self, spec, make, reason):
        job = b.make_job(spec, make())
        assert plan(job, b.observe(job, scrape=b.make_scrape(40, finished=True))).stage is Stage.RUNNING

    def test_result_that_came_while_it_was_stopped_counts(self, spec, make, reason):
        done = make().model_copy(update={"final_metrics": FinalMetrics(step=40)})
        job = b.make_job(spec, done)
        stopping = b.make_ray_job("Suspending", suspended=True, stop_time=b.NOW)
        assert plan(job, b.observe(job, ray_job=stopping)).stage is Stage.SUCCEEDED


def test_change_of_mind_while_stopping_leads_to_the_next_attempt():
    job = b.make_job(status=b.running())
    gone = b.make_ray_job("Suspended", suspended=True, stop_time=ago(seconds=10))
    made = plan(job, b.observe(job, ray_job=gone, ray_clusters=(), pods=(), scrape=None))
    assert (made.stage, made.requeue_after) == (Stage.STOPPED, 0)
    new = status.next_status(job, made, b.observe(job, scrape=None), b.NOW)
    assert new.attempts[0].outcome == "Stopped"
    assert plan(b.make_job(status=new), b.nothing(attempt=2)).stage is Stage.CREATED


def test_what_somebody_started_after_the_stop_is_not_waited_for():
    job = b.make_job(SUSPENDED, b.running())
    since = ago(seconds=30)
    again = b.make_ray_job("Initializing", "", stop_time=since)
    young = [b.make_pod(index=i, created=ago(seconds=9)) for i in range(2)]
    cluster = RayClusterView("j-a1-new", 1, created=ago(seconds=10))
    observed = b.observe(job, ray_job=again, ray_clusters=(cluster,), pods=tuple(young), scrape=None)
    assert plan(job, observed).stage is Stage.STOPPED
    old = b.make_pod("head", None, deleting=True)
    assert plan(job, replace(observed, pods=(*young, old))).stage is Stage.STOPPING


def test_trainers_word_on_being_stopped_is_no_failure():
    line = TrainerResult(reason="Preempted", message="saved", step=12).to_line()
    ray_job = b.make_ray_job("Failed", "FAILED", reason="AppFailed", message=line, stop_time=ago(seconds=10))
    job = b.make_job(SUSPENDED, b.running())
    made = plan(job, b.observe(job, ray_job=ray_job))
    assert made.stage is Stage.STOPPED
    new = status.next_status(job, made, b.observe(job), b.NOW)
    assert (new.retries, new.attempts[0].reason) == (None, "Suspended")


def stopped():
    """Return the status after an attempt was stopped."""
    attempt = b.make_attempt(1, "Stopped", reason="Suspended", message="m", end_time=ago(seconds=10))
    return DPOJobStatus(attempt=1, attempts=[attempt])


def test_suspended_job_removes_the_old_rayjob_and_then_waits():
    job = b.make_job(SUSPENDED, stopped())
    old = b.make_ray_job("Suspended", suspended=True, uid="u1")
    made = plan(job, b.nothing(attempt=2, old_ray_jobs=(old,)))
    assert (made.stage, made.reason) == (Stage.CLEANING, OperatorReason.SUSPENDING)
    assert made.actions == (Delete(Kind.RAY_JOB, "j-a1", "u1"),)
    cluster = RayClusterView("j-a1-x", 1, deleting=True)
    assert plan(job, b.nothing(attempt=2, ray_clusters=(cluster,))).stage is Stage.CLEANING
    assert plan(job, b.nothing(attempt=2, old_pods=("p",))).stage is Stage.CLEANING
    made = plan(job, b.nothing(attempt=2))
    assert (made.stage, made.actions, made.requeue_after) == (Stage.SUSPENDED, (), None)


def test_resumed_job_goes_on_at_once_with_the_next_number():
    made = plan(b.make_job(status=stopped()), b.nothing(attempt=2))
    assert (made.stage, made.attempt) == (Stage.CREATED, 2)


def test_job_that_is_created_suspended_makes_nothing():
    job = b.make_job(SUSPENDED)
    made = plan(job, b.nothing())
    assert (made.stage, made.actions) == (Stage.SUSPENDED, ())
    new = status.next_status(job, made, b.nothing(), b.NOW)
    assert (new.summary, new.attempts) == ("Suspended", [])
    assert {c.type for c in new.conditions if c.status == "True"} == {"Suspended"}


def test_status_says_suspending_until_the_slice_is_free():
    job = b.make_job(SUSPENDED, stopped())
    made = plan(job, b.nothing(attempt=2, old_pods=("p",)))
    new = status.next_status(job, made, b.nothing(attempt=2), b.NOW)
    assert new.summary == "Suspending"
    assert {c.type for c in new.conditions if c.status == "True"} == {"Reconciling"}


def test_rayjob_that_kueue_suspends_is_not_ours_to_stop():
    job = b.make_job(status=b.active())
    queued = b.make_ray_job("Suspended", "", suspended=True, queue="tpu")
    assert plan(job, b.observe(job, ray_job=queued, pods=(), ray_clusters=())).stage is Stage.QUEUED


def test_deadline_counts_waits_between_attempts():
    attempt = b.make_attempt(1, "Failed", **{"class": "Capacity", "reason": "StartupDeadlineExceeded"})
    attempt = attempt.model_copy(update={"end_time": b.NOW})
    job = b.make_job(DEADLINE, DPOJobStatus(attempts=[attempt], start_time=ago(hours=1)))
    made = plan(job, b.nothing(attempt=2))
    assert (made.stage, made.reason) == (Stage.FAILED, OperatorReason.DEADLINE_EXCEEDED)
    assert status.next_status(job, made, b.nothing(attempt=2), b.NOW).attempts == [attempt]


def test_time_suspended_is_not_active_time():
    suspended = b.make_condition("Suspended", ago=600)
    old = DPOJobStatus(conditions=[suspended], start_time=ago(seconds=3700), suspended_seconds=50)
    job = b.make_job(DEADLINE, old)
    made = plan(job, b.nothing())
    assert made.stage is Stage.CREATED
    new = status.next_status(job, made, b.nothing(), b.NOW)
    assert new.suspended_seconds == 650
    still = b.make_job(SUSPENDED, old)
    assert status.next_status(still, plan(still, b.nothing()), b.nothing(), b.NOW).suspended_seconds == 50
    assert plan(b.make_job({"activeDeadlineSeconds": 3050}, old), b.nothing()).stage is Stage.FAILED


def test_suspended_job_does_not_run_out_of_time():
    job = b.make_job(SUSPENDED | DEADLINE, DPOJobStatus(start_time=ago(days=9)))
    assert plan(job, b.nothing()).stage is Stage.SUSPENDED


def test_budget_adds_up_over_attempts_and_keeps_what_stopping_takes():
    job = b.make_job(
        BUDGET, b.running().model_copy(update={"ledger": b.make_ledger(100, Activity.TRAINING, 1800)})
    )
    assert budget.chip_seconds(job, b.NOW) == 100 + 1800 * 8
    assert budget.used_up(job, b.NOW) is None
    assert budget.used_up(job, b.NOW + timedelta(seconds=1800 - 135 - 12)) is not None


def test_budget_is_not_used_while_nobody_has_a_node():
    old = b.active().model_copy(update={"ledger": b.make_ledger(0, Activity.PROVISIONING, 60)})
    job = b.make_job(BUDGET, old)
    assert budget.used_up(job, b.NOW + timedelta(days=9)) is None


def test_rest_that_only_suffices_to_stop_starts_nothing():
    job = b.make_job(BUDGET, DPOJobStatus(ledger=b.make_ledger(8 * (3600 - 135))))
    assert plan(job, b.nothing()).stage is Stage.FAILED
    less = b.make_job(BUDGET, DPOJobStatus(ledger=b.make_ledger(8 * (3600 - 136))))
    assert plan(less, b.nothing()).stage is Stage.CREATED


def test_budget_that_is_used_up_prevents_the_next_attempt():
    attempt = b.make_attempt(1, "Stopped", end_time=b.NOW)
    job = b.make_job(BUDGET, DPOJobStatus(attempts=[attempt], ledger=b.make_ledger(8 * 3600)))
    made = plan(job, b.nothing(attempt=2))
    assert (made.stage, made.reason) == (Stage.FAILED, OperatorReason.BUDGET_EXCEEDED)
    assert "8.00 of spec.budget.chipHours (8)" in made.message


def still(phase="training", change=61, **fields):
    """Return a run that was last seen to change so many seconds ago, and its newest scrape."""
    scrape = b.make_scrape(12, phase=phase)
    progress = scrape.progress.model_copy(update={"change_time": ago(seconds=change)})
    since = b.make_condition("Running", ago=fields.pop("since", 120))
    old = b.active(since, **fields).model_copy(update={"progress": progress})
    return b.make_job(STALL, old), scrape


@pytest.mark.parametrize("phase", ["loading", "training", "evaluating", "exporting"])
def test_run_that_stands_still_is_lost_and_retried(phase):
    job, scrape = still(phase)
    made = plan(job, b.observe(job, scrape=scrape))
    assert (made.stage, made.failure.reason) == (Stage.RETRYING, OperatorReason.PROGRESS_STALLED)
    assert f"stands at step 12/40, phase {phase}, for 61 s" in made.failure.message


def test_run_whose_metrics_cannot_be_read_is_lost():
    job, _ = still()
    made = plan(job, b.observe(job, scrape=None))
    assert "metrics cannot be read" in made.failure.message


@pytest.mark.parametrize(
    ("case", "scrape"),
    [
        (still("compiling"), b.make_scrape(12, phase="compiling")),
        (still("reference"), b.make_scrape(12, phase="reference")),
        (still(change=59), b.make_scrape(12)),
        (still(since=30), b.make_scrape(12)),
        (still(), b.make_scrape(13)),
        (still(), b.make_scrape(12, phase="evaluating")),
    ],
    ids=["compiling", "reference", "recent", "just begun", "a step", "a phase"],
)
def test_run_that_moves_or_compiles_goes_on(case, scrape):
    job, _ = case
    assert plan(job, b.observe(job, scrape=scrape)).stage is Stage.RUNNING


@pytest.mark.parametrize(("change", "idle", "stage"), [(601, 1, Stage.RUNNING), (1, 61, Stage.RETRYING)])
def test_trainers_own_count_goes_before_a_clock_that_may_have_been_set(change, idle, stage):
    job, scrape = still(change=change)
    told = b.replace(scrape, values={IDLE_SECONDS: idle})
    assert plan(job, b.observe(job, scrape=told)).stage is stage


def test_stalls_are_not_looked_for_unless_asked():
    job, scrape = still(change=10**6)
    plain = b.make_job(status=job.status)
    assert plan(plain, b.observe(plain, scrape=scrape)).stage is Stage.RUNNING


def test_change_time_moves_with_step_or_phase_only():
    made = Plan(Stage.RUNNING, 1, "Training", "m")

    def seen(old, scrape, seconds):
        job = b.make_job(status=old)
        return status.next_status(
            job, made, b.observe(job, scrape=scrape), b.NOW + timedelta(seconds=seconds)
        )

    first = seen(b.running(), b.make_scrape(1), 0)
    same = seen(first, b.make_scrape(1, loss=0.5), 10)
    step = seen(same, b.make_scrape(2), 20)
    phase = seen(step, b.make_scrape(2, phase="evaluating"), 30)
    none = seen(phase, None, 40)
    times = [s.progress.change_time for s in (first, same, step, phase, none)]
    assert [round((time - b.NOW).total_seconds()) for time in times] == [0, 0, 20, 30, 30]


@pytest.mark.parametrize(
    ("after", "elapsed", "left"), [(None, 0, None), (60, 0, 60), (60, 45, 15), (60, 90, 0), (0, 0, 0)]
)
def test_seconds_until_an_ended_job_is_deleted(after, elapsed, left):
    spec = {"ttlSecondsAfterFinished": after} if after is not None else {}
    job = b.make_job(spec, DPOJobStatus(completion_time=ago(seconds=elapsed)))
    assert ttl.seconds_left(job, b.NOW) == left
