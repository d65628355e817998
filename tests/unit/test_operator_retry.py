"""Which ends are retried, when, and what the status keeps of them. Pure logic; no cluster."""

from datetime import timedelta

import pytest
from tests.unit import operator_builders as b

from dpojob_api.failure_class import CLASS_OF, CLASSES, FailureClass, class_of
from dpojob_api.lifecycle_spec import RetryPolicySpec, RetrySpec
from dpojob_api.reasons import OperatorReason, TrainerReason
from dpojob_api.result import TrainerResult
from dpojob_api.status import DPOJobStatus, RetriesStatus
from dpojob_operator import attempts, decide, status
from dpojob_operator.plan import Apply, Create, Delete, Kind, Plan, Stage
from dpojob_operator.policy import retry
from dpojob_operator.policy.failure import Failure

END = b.NOW - timedelta(seconds=5)
# What no attempt ends with.
NO_END = {
    OperatorReason.ATTEMPT_CREATED,
    OperatorReason.WAITING_FOR_PODS,
    OperatorReason.BACKING_OFF,
    OperatorReason.RELEASING_SLICE,
    OperatorReason.SUSPENDING,
    OperatorReason.SUSPENDED,
    OperatorReason.DEADLINE_EXCEEDED,
    OperatorReason.BUDGET_EXCEEDED,
    OperatorReason.QUEUED,
    OperatorReason.CHECKING_DATA,
    OperatorReason.DATA_CHECK_FAILED,
    OperatorReason.PLANNING,
    OperatorReason.PLAN_FITS,
    OperatorReason.DOES_NOT_FIT_HBM,
    OperatorReason.PLAN_UNKNOWN,
    OperatorReason.STEP_DIFFERS,
    OperatorReason.STEP_TIME_DRIFT,
    OperatorReason.EVICTED_BY_KUEUE,
    # A rollback says its class itself.
    OperatorReason.REWARD_ACCURACY_LOW,
    OperatorReason.CHOSEN_LOG_PROB_COLLAPSED,
    OperatorReason.LENGTH_DRIFT,
    OperatorReason.GRAD_NORM_SPIKE,
    OperatorReason.TRAINING,
    OperatorReason.FINISHED,
    OperatorReason.DATA_ACCEPTED,
    OperatorReason.LOW_PRECISION_PARAMETERS,
    OperatorReason.NOT_RUNNING,
    OperatorReason.NOT_FINISHED,
    OperatorReason.OUTPUT_SHARED,
    OperatorReason.CLAIM_UNUSABLE,
    OperatorReason.QUOTA_TOO_SMALL,
    OperatorReason.SECRET_NOT_FOUND,
    OperatorReason.SECRET_KEY_NOT_FOUND,
    OperatorReason.SERVICE_ACCOUNT_NOT_FOUND,
    OperatorReason.CLAIM_NOT_FOUND,
    OperatorReason.KUBERAY_NOT_INSTALLED,
    OperatorReason.KUBERAY_TOO_OLD,
    OperatorReason.NO_TRAINER_IMAGE,
    OperatorReason.INVALID_SPEC,
    OperatorReason.NAME_CONFLICT,
    OperatorReason.TOO_MANY_ATTEMPTS,
    TrainerReason.SUCCEEDED,
}


def failed(number=1, kind="Infrastructure", reason="HostLost", **fields):
    """Return an attempt that has ended five seconds ago and was followed or will be."""
    fields = {"end_time": END, "reason": reason, "message": "gone.", "class": kind} | fields
    return b.make_attempt(number, "Failed", **fields)


def between(*ended, spec=None, **fields):
    """Return a job between two attempts and what is observed of it when nothing is left."""
    job = b.make_job(spec, DPOJobStatus(attempt=len(ended), attempts=list(ended), **fields))
    return job, b.nothing(attempt=ended[-1].number + 1)


def plan(job, observed, now=b.NOW):
    return decide.decide(job, observed, b.SETTINGS, now)


def trainer_end(reason, message="m", step=None):
    """Return a RayJob that the trainer ended with a reason."""
    line = TrainerResult(reason=reason, message=message, step=step).to_line()
    return b.make_ray_job("Failed", "FAILED", reason="AppFailed", message=f"log\n{line}\n")


def end(reason, spec=None, seen=None, step=None, **fields):
    """Return the plan for a first attempt that trained and ended with the trainer's reason."""
    seen = {"from_step": 0, "to_step": 30} if seen is None else seen
    job = b.make_job(spec, b.running(**seen).model_copy(update=fields))
    ray_job = trainer_end(reason, step=step)
    return plan(job, b.observe(job, ray_job=ray_job, scrape=None))


def test_every_end_has_exactly_one_class():
    ends = [str(reason) for reasons in CLASSES.values() for reason in reasons]
    every = {*OperatorReason, *TrainerReason} - NO_END
    assert {str(reason) for reason in every} == set(ends)
    # HostLost is a word of both sides.
    assert len(ends) == len(set(ends)) + 1


def test_unknown_reason_is_the_runs_own_failure():
    assert class_of("Brand-new") is FailureClass.APPLICATION


def test_every_class_has_a_policy_and_a_counter():
    for kind in FailureClass:
        assert RetryPolicySpec().of(kind).max_retries >= 0
        assert RetriesStatus().of(kind) == 0


def test_never_by_default_are_configuration_and_fenced():
    never = {kind for kind in FailureClass if RetryPolicySpec().of(kind).max_retries == 0}
    assert never == {FailureClass.CONFIGURATION, FailureClass.FENCED}


@pytest.mark.parametrize("reason", [r for r in TrainerReason if r not in NO_END], ids=str)
def test_trainers_reason_is_retried_by_its_class(reason):
    made = end(reason, {"training": {"checkpointSteps": 10}})
    kind = CLASS_OF[reason]
    limit = RetryPolicySpec().of(kind).max_retries
    assert made.stage is (Stage.RETRYING if limit else Stage.FAILED)
    assert made.failure.failure_class is kind
    assert made.reason == (OperatorReason.BACKING_OFF if limit else reason)


def test_used_up_budget_ends_the_job_and_says_so():
    made = end("Preempted", retries=RetriesStatus(preempted=50))
    assert (made.stage, made.reason) == (Stage.FAILED, "Preempted")
    assert "All 50 retries of class Preempted are used" in made.message


def test_raised_budget_counts_at_once():
    spec = {"retryPolicy": {"preempted": {"maxRetries": 51}}}
    assert end("Preempted", spec, retries=RetriesStatus(preempted=50)).stage is Stage.RETRYING


def test_budgets_are_per_class():
    assert end("Preempted", retries=RetriesStatus(infrastructure=98)).stage is Stage.RETRYING


@pytest.mark.parametrize(
    ("from_step", "to_step", "every", "stage"),
    [
        (0, 9, 10, Stage.FAILED),
        (0, 10, 10, Stage.RETRYING),
        (10, 19, 10, Stage.FAILED),
        (10, 20, 10, Stage.RETRYING),
        (15, 19, 10, Stage.FAILED),
        (None, None, 10, Stage.FAILED),
    ],
)
def test_application_failure_is_retried_only_from_a_newer_checkpoint(from_step, to_step, every, stage):
    seen = {"from_step": from_step, "to_step": to_step}
    assert end("Internal", {"training": {"checkpointSteps": every}}, seen).stage is stage


def test_checkpoint_after_the_last_step_counts():
    made = end(
        "ExportFailed",
        {"training": {"checkpointSteps": 500}},
        {"from_step": 0, "to_step": 40},
        progress=b.make_scrape(40).progress,
    )
    assert made.stage is Stage.RETRYING


def test_trainers_own_step_counts_where_no_scrape_saw_it():
    made = end("Internal", {"training": {"checkpointSteps": 10}}, {"from_step": 0, "to_step": 9}, step=10)
    assert made.stage is Stage.RETRYING


def test_a_pod_that_was_lost_before_explains_a_run_that_broke_off():
    known = {"reason": "HostLost", "message": "Host 1 ended.", "class": "Preempted", "host": "pod w1, node n"}
    made = end("Internal", seen={"from_step": 0, "to_step": 3, **known})
    assert (made.stage, made.failure.reason) == (Stage.RETRYING, "Internal")
    assert (made.failure.failure_class, made.failure.host) == (FailureClass.PREEMPTED, "pod w1, node n")
    assert "Kubernetes: Host 1 ended." in made.failure.message


def test_a_lost_pod_does_not_excuse_a_wrong_configuration():
    known = {"reason": "HostLost", "message": "Host 1 ended.", "class": "Preempted"}
    made = end("ModelUnsupported", seen={"from_step": 0, "to_step": 3, **known})
    assert (made.stage, made.reason) == (Stage.FAILED, "ModelUnsupported")


@pytest.mark.parametrize(
    ("waiting", "stage", "kind"),
    [
        ("0 of 3 pods run; 2 hosts: Unschedulable: no node", Stage.RETRYING, FailureClass.CAPACITY),
        ("2 of 3 pods run; host 1: ImagePullBackOff: x", Stage.FAILED, FailureClass.CONFIGURATION),
        ("head: ErrImageNeverPull; 2 hosts: Unschedulable", Stage.FAILED, FailureClass.CONFIGURATION),
    ],
)
def test_startup_that_only_a_change_can_cure_is_not_retried(waiting, stage, kind):
    condition = b.make_condition("Reconciling", reason="WaitingForPods", message=waiting)
    job = b.make_job(status=b.active(condition))
    ray_job = b.make_ray_job("Failed", "", reason="PreRunningDeadlineExceeded")
    made = plan(job, b.observe(job, ray_job=ray_job, pods=(), scrape=None))
    assert (made.stage, made.failure.failure_class) == (stage, kind)


@pytest.mark.parametrize(
    ("failures", "share", "seconds"),
    [(1, 0, 10), (2, 0, 20), (4, 0, 80), (5, 0, 100), (500, 0, 100), (4, 1, 40)],
)
def test_backoff_doubles_up_to_its_bound_and_is_spread(failures, share, seconds):
    policy = RetrySpec(backoff_seconds=10, max_backoff_seconds=100)
    assert retry.backoff(policy, failures, share) == seconds


def test_jitter_belongs_to_the_attempt():
    values = {retry.jitter(uid, n) for uid in ("a", "b") for n in range(50)}
    assert len(values) == 100
    assert 0 <= min(values) < 0.2 < 0.8 < max(values) < 1
    assert retry.jitter("a", 7) == retry.jitter("a", 7)


P, N, C = {"from_step": 0, "to_step": 5}, {"from_step": 5, "to_step": 5}, {"class": "Capacity"}


@pytest.mark.parametrize(
    ("history", "number"),
    [([{}], 1), ([{}, {}, {}], 3), ([{}, P], 1), ([P, N, N], 3), ([{}, C, {}], 1), ([N, P, {}], 2)],
)
def test_failures_in_a_row_begin_anew_with_progress(history, number):
    assert retry.streak([failed(i + 1, **fields) for i, fields in enumerate(history)]) == number


def test_next_attempt_waits_and_says_why_and_when():
    job, observed = between(failed())
    due = retry.due_time(job, job.status.attempts[-1])
    made = plan(job, observed)
    assert (made.stage, made.attempt, made.actions) == (Stage.BACKING_OFF, 2, ())
    assert made.reason == OperatorReason.BACKING_OFF
    assert made.requeue_after == (due - b.NOW).total_seconds()
    assert "HostLost (Infrastructure): gone." in made.message
    assert f"starts at {due:%Y-%m-%dT%H:%M:%SZ}" in made.message
    assert plan(job, observed, due - timedelta(seconds=1)).stage is Stage.BACKING_OFF
    assert plan(job, observed, due).actions == (Apply(2, absent=True), Create(2, "example.test/trainer:1"))


def test_clock_that_was_set_back_does_not_hold_the_next_attempt_back():
    job, observed = between(failed())
    last = job.status.attempts[-1]
    wait = retry.due_time(job, last) - last.end_time
    assert plan(job, observed, last.end_time - wait).stage is Stage.BACKING_OFF
    assert plan(job, observed, last.end_time - wait - timedelta(seconds=1)).stage is Stage.CREATED
    assert plan(job, observed, last.end_time - timedelta(days=1)).stage is Stage.CREATED


def test_shortened_wait_counts_at_once():
    job, observed = between(failed(), spec={"retryPolicy": {"infrastructure": {"backoffSeconds": 0}}})
    assert plan(job, observed).stage is Stage.CREATED


def test_long_wait_is_looked_at_in_between():
    spec = {"retryPolicy": {"infrastructure": {"backoffSeconds": 86400, "maxBackoffSeconds": 86400}}}
    assert plan(*between(failed(), spec=spec)).requeue_after == decide.LONGEST_WAIT_SECONDS


def test_old_rayjob_that_still_lives_is_deleted_before_the_next_attempt():
    job, observed = between(failed(end_time=b.NOW - timedelta(hours=1)))
    old = b.make_ray_job("Running", uid="u1")
    made = plan(job, b.nothing(attempt=2, old_ray_jobs=(old,)))
    assert (made.stage, made.actions) == (Stage.CLEANING, (Delete(Kind.RAY_JOB, "j-a1", "u1"),))
    going = b.make_ray_job("Running", deleting=True)
    made = plan(job, b.nothing(attempt=2, old_ray_jobs=(going,)))
    assert (made.stage, made.actions) == (Stage.CLEANING, ())
    done = b.make_ray_job("Failed", "FAILED")
    assert plan(job, b.nothing(attempt=2, old_ray_jobs=(done,))).stage is Stage.CREATED
    assert plan(job, observed).stage is Stage.CREATED


def after(job, made, observed=None, now=b.NOW):
    return status.next_status(job, made, observed or b.observe(job), now)


RETRYING = Plan(
    Stage.RETRYING,
    1,
    "BackingOff",
    "m",
    failure=Failure("HostLost", "Host 1 ended.", FailureClass.PREEMPTED, "pod w1, node n", 33),
)


def test_status_keeps_the_end_of_a_retried_attempt():
    job = b.make_job(status=b.running(from_step=10, to_step=31, slice_time=b.NOW - timedelta(seconds=50)))
    new = after(job, RETRYING, b.observe(job, scrape=None))
    attempt = new.attempts[0]
    assert (attempt.outcome, attempt.reason, attempt.message) == ("Failed", "HostLost", "Host 1 ended.")
    assert (attempt.failure_class, attempt.host) == (FailureClass.PREEMPTED, "pod w1, node n")
    assert (attempt.from_step, attempt.to_step, attempt.end_time) == (10, 33, b.NOW)
    assert new.retries == RetriesStatus(preempted=1)
    assert new.ledger is not None
    assert new.ledger.chip_seconds.used == 50 * 8
    assert attempt.to_wire()["class"] == "Preempted"


def test_retries_and_chips_are_counted_once():
    job = b.make_job(status=b.running(slice_time=b.NOW - timedelta(seconds=50)))
    once = b.make_job(status=after(job, RETRYING, b.observe(job)))
    waiting = Plan(Stage.BACKING_OFF, 2, "BackingOff", "m")
    free = b.make_job(status=after(once, waiting, b.nothing(attempt=2)))
    later = after(free, waiting, b.nothing(attempt=2), b.NOW + timedelta(hours=1))
    assert later.ledger is not None
    assert (later.retries, later.ledger.chip_seconds.used) == (RetriesStatus(preempted=1), 400)


def test_steps_between_which_an_attempt_was_seen():
    job = b.make_job(status=b.running())
    running = Plan(Stage.RUNNING, 1, "Training", "m")
    before = after(job, running, b.observe(job, scrape=b.make_scrape(0)))
    assert (before.attempts[0].from_step, before.attempts[0].to_step) == (None, None)
    begun = after(job, running, b.observe(job, scrape=b.make_scrape(20, resumed_step=20)))
    assert (begun.attempts[0].from_step, begun.attempts[0].to_step) == (20, 20)
    job = b.make_job(status=begun)
    later = after(job, running, b.observe(job, scrape=b.make_scrape(25, resumed_step=20)))
    assert (later.attempts[0].from_step, later.attempts[0].to_step) == (20, 25)
    job = b.make_job(status=later)
    unseen = after(job, running, b.observe(job, scrape=None))
    assert (unseen.attempts[0].from_step, unseen.attempts[0].to_step) == (20, 25)


def resumed(*ended, number, step):
    """Return the attempts after another one was first seen to train."""
    job = b.make_job(status=DPOJobStatus(attempts=[*ended, b.make_attempt(number)]))
    scrape = b.make_scrape(step, resumed_step=step)
    made = Plan(Stage.RUNNING, number, "Training", "m")
    return after(job, made, b.observe(job, attempt=number, scrape=scrape)).attempts


def test_resume_tells_what_the_end_before_has_cost():
    first, second = resumed(failed(from_step=0, to_step=37), number=2, step=30)
    assert (first.steps_lost, first.recovery_seconds) == (7, 5)
    assert (second.from_step, second.steps_lost) == (30, None)


def test_attempts_that_never_trained_are_part_of_the_recovery():
    first, second, _ = resumed(failed(from_step=0, to_step=37), failed(2), number=3, step=30)
    assert (first.steps_lost, second.steps_lost) == (7, None)


def test_time_suspended_is_no_recovery():
    stopped = b.make_attempt(1, "Stopped", from_step=0, to_step=12, end_time=END)
    first, _ = resumed(stopped, number=2, step=12)
    assert (first.steps_lost, first.recovery_seconds) == (0, None)


def test_first_attempt_costs_nobody_anything():
    (only,) = resumed(number=1, step=0)
    assert (only.from_step, only.to_step, only.steps_lost) == (0, 0, None)


def test_attempt_numbers_end_with_their_budget():
    job = b.make_job(status=DPOJobStatus(attempts=[b.make_attempt(99)]))
    ray_job = trainer_end("Preempted")
    made = plan(job, b.observe(job, attempt=99, ray_job=ray_job))
    assert (made.stage, made.reason) == (Stage.FAILED, "Preempted")
    assert "All 99 attempts are used" in made.message


def test_kept_attempts_are_bounded():
    old = [failed(n) for n in range(1, 21)]
    job = b.make_job(status=DPOJobStatus(attempts=old))
    created = Plan(Stage.CREATED, 21, "AttemptCreated", "m")
    kept = after(job, created, b.nothing(attempt=21)).attempts
    assert len(kept) == attempts.MAX_ATTEMPTS_KEPT
    assert kept[-1].number == 21
