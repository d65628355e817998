"""From plan to status: conditions, attempts, progress, events. Pure logic; no cluster."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.unit import operator_builders as b

from dpojob_api.reasons import DATA_REASONS, OperatorReason
from dpojob_api.result import TrainerResult
from dpojob_api.status import DPOJobStatus, FinalMetrics
from dpojob_operator import status, transitions
from dpojob_operator.plan import Plan, Stage


def make_plan(stage, reason="X", message="m", attempt=1):
    return Plan(stage, attempt, reason, message)


def after(job, plan, observed=None):
    return status.next_status(job, plan, observed or b.observe(job), b.NOW)


def truths(new):
    return {c.type: c.status for c in new.conditions}


BASE = {"Complete": "False", "Failed": "False", "Running": "False"}


@pytest.mark.parametrize(
    ("stage", "summary", "expected"),
    [
        (Stage.STALLED, "Stalled", BASE | {"Stalled": "True"}),
        (Stage.CLEANING, "Starting", BASE | {"Reconciling": "True"}),
        (Stage.CREATED, "Starting", BASE | {"Reconciling": "True"}),
        (Stage.STARTING, "Starting", BASE | {"Reconciling": "True"}),
        (Stage.LOST, "Retrying", BASE | {"Reconciling": "True"}),
        (Stage.RETRYING, "Retrying", BASE | {"Reconciling": "True"}),
        (Stage.BACKING_OFF, "Retrying", BASE | {"Reconciling": "True"}),
        (Stage.STOPPING, "Stopping", BASE | {"Reconciling": "True"}),
        (Stage.STOPPED, "Stopping", BASE | {"Reconciling": "True"}),
        (Stage.QUEUED, "Queued", BASE | {"Reconciling": "True", "Queued": "True"}),
        (Stage.CHECKING, "Checking", BASE | {"Reconciling": "True"}),
        (Stage.SUSPENDED, "Suspended", BASE | {"Suspended": "True"}),
        (Stage.ENDING, "Failing", BASE | {"Reconciling": "True"}),
        (Stage.RUNNING, "Running", BASE | {"Running": "True"}),
        (Stage.FAILED, "Failed", BASE | {"Failed": "True", "Stalled": "True"}),
        (Stage.SUCCEEDED, "Complete", BASE | {"Complete": "True"}),
    ],
)
def test_conditions_of_a_stage(stage, summary, expected):
    job = b.make_job(status=b.active())
    new = after(job, make_plan(stage))
    assert (new.summary, truths(new)) == (summary, expected)
    assert {c.observed_generation for c in new.conditions} == {3}
    assert new.observed_generation == 3


def test_run_that_nobody_recorded_has_the_step_of_its_result_line():
    line = TrainerResult(reason="Succeeded", message="done", step=40, recorded=False).to_line()
    job = b.make_job(status=b.running())
    seen = b.observe(job, ray_job=b.make_ray_job("Failed", "FAILED", message=line), pods=(), scrape=None)
    assert after(job, make_plan(Stage.SUCCEEDED), seen).final_metrics == FinalMetrics(step=40)
    known = b.running().model_copy(update={"final_metrics": FinalMetrics(step=40, loss=0.1)})
    kept = after(b.make_job(status=known), make_plan(Stage.SUCCEEDED), seen).final_metrics
    assert kept == FinalMetrics(step=40, loss=0.1)


def test_transition_time_stays_while_the_status_does():
    old = b.make_condition("Reconciling", reason="AttemptCreated", ago=30)
    job = b.make_job(status=b.active(old))
    new = after(job, make_plan(Stage.STARTING, OperatorReason.WAITING_FOR_PODS, "waiting"))
    condition = next(c for c in new.conditions if c.type == "Reconciling")
    assert (condition.reason, condition.last_transition_time) == (
        "WaitingForPods",
        b.NOW - timedelta(seconds=30),
    )


def test_transition_time_moves_when_the_status_flips():
    job = b.make_job(status=b.active(b.make_condition("Running", "False")))
    new = after(job, make_plan(Stage.RUNNING))
    assert next(c for c in new.conditions if c.type == "Running").last_transition_time == b.NOW


def test_same_state_gives_an_equal_status():
    job = b.make_job(status=b.active())
    plan = make_plan(Stage.RUNNING)
    first = after(job, plan)
    later = b.make_job(status=first)
    second = status.next_status(later, plan, b.observe(later), b.NOW + timedelta(hours=1))
    assert status.merge_patch(first.to_wire(), second.to_wire()) == {}


def test_no_attempt_before_the_rayjob():
    new = after(b.make_job(), make_plan(Stage.STALLED), b.nothing())
    assert (new.attempts, new.attempt) == ([], None)
    assert new.plan is not None
    assert (new.plan.chips, new.plan.hosts, new.plan.topology) == (8, 2, "2x2x2")


def test_created_attempt_is_active():
    new = after(b.make_job(), make_plan(Stage.CREATED), b.nothing())
    assert [(a.number, a.ray_job, a.outcome, a.end_time) for a in new.attempts] == [
        (1, "j-a1", "Active", None)
    ]
    assert new.attempt == 1
    assert new.start_time == b.NOW


def test_lost_attempt_keeps_its_place_beside_the_next():
    lost = after(b.make_job(status=b.active()), make_plan(Stage.LOST, OperatorReason.ATTEMPT_LOST))
    assert lost.attempts[0].outcome == "Lost"
    second = after(b.make_job(status=lost), make_plan(Stage.CREATED, attempt=2), b.nothing(attempt=2))
    assert [(a.number, a.outcome) for a in second.attempts] == [(1, "Lost"), (2, "Active")]


def test_loss_is_remembered_while_the_attempt_is_still_active():
    new = after(b.make_job(status=b.running()), make_plan(Stage.ENDING, "HostLost", "host 1"))
    attempt = new.attempts[0]
    assert (attempt.outcome, attempt.reason, attempt.message, attempt.end_time) == (
        "Active",
        "HostLost",
        "host 1",
        b.NOW,
    )


def test_end_of_a_loss_is_when_it_was_first_seen():
    since = b.NOW - timedelta(seconds=60)
    job = b.make_job(status=b.active(reason="HostLost", message="m", end_time=since))
    attempt = after(job, make_plan(Stage.FAILED, "HostLost")).attempts[0]
    assert (attempt.outcome, attempt.end_time) == ("Failed", since)


def test_attempts_are_bounded():
    old = DPOJobStatus(attempts=[b.make_attempt(n, "Lost") for n in range(1, 21)])
    new = after(b.make_job(status=old), make_plan(Stage.CREATED, attempt=21), b.nothing(attempt=21))
    assert [a.number for a in new.attempts] == list(range(2, 22))


def test_running_out_of_attempts_leaves_the_last_one_as_it_is():
    old = DPOJobStatus(attempts=[b.make_attempt(99, "Lost")])
    plan = make_plan(Stage.FAILED, OperatorReason.TOO_MANY_ATTEMPTS, attempt=99)
    assert after(b.make_job(status=old), plan, b.nothing(attempt=100)).attempts == old.attempts


def test_progress_is_the_scrape_and_stays_without_one():
    job = b.make_job(status=b.running())
    new = after(job, make_plan(Stage.RUNNING), b.observe(job, scrape=b.make_scrape(12, loss=0.5)))
    assert new.progress is not None
    assert (new.progress.steps, new.progress.loss) == ("12/40", 0.5)
    later = b.make_job(status=new)
    without = b.observe(later, scrape=None)
    assert after(later, make_plan(Stage.RUNNING), without).progress == new.progress


def test_final_metrics_are_kept_from_the_scrape_that_said_finished():
    job = b.make_job(status=b.running())
    unfinished = after(job, make_plan(Stage.RUNNING), b.observe(job, scrape=b.make_scrape(39)))
    assert unfinished.final_metrics is None
    finished = after(job, make_plan(Stage.RUNNING), b.observe(job, scrape=b.make_scrape(40, finished=True)))
    assert finished.final_metrics == FinalMetrics(step=40, eval_reward_margin=0.5)
    done = after(b.make_job(status=finished), make_plan(Stage.SUCCEEDED))
    assert done.final_metrics == finished.final_metrics
    assert done.completion_time == b.NOW


@pytest.mark.parametrize(
    ("stage", "export", "model"),
    [
        (Stage.RUNNING, "safetensors", None),
        (Stage.SUCCEEDED, "safetensors", "gs://bucket/run/model"),
        (Stage.SUCCEEDED, "none", None),
        (Stage.FAILED, "safetensors", None),
    ],
)
def test_model_is_named_once_it_is_written(stage, export, model):
    job = b.make_job({"output": {"exportFormat": export}}, status=b.running())
    output = after(job, make_plan(stage)).output
    assert output is not None
    assert (output.uri, output.model) == ("gs://bucket/run", model)


def test_messages_fit_the_schema():
    new = after(b.make_job(status=b.active()), make_plan(Stage.FAILED, message="x" * 100_000))
    assert max(len(c.message) for c in new.conditions) <= 4096


@pytest.mark.parametrize(
    ("old", "new", "patch"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1}, {}, {"a": None}),
        ({}, {"a": 1}, {"a": 1}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, {"a": {"c": None}}),
        ({"a": {"b": 1}}, {"a": {"b": 1}}, {}),
        ({"a": [1, 2]}, {"a": [1]}, {"a": [1]}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}),
    ],
)
def test_merge_patch(old, new, patch):
    assert status.merge_patch(old, new) == patch


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ([], [("Running", "True", "Training")], ["Running"]),
        ([("Running", "True", "Training")], [("Running", "True", "Training")], []),
        ([("Running", "False", "NotRunning")], [("Running", "True", "Training")], ["Running"]),
        ([("Stalled", "True", "SecretNotFound")], [("Stalled", "True", "ClaimNotFound")], ["Stalled"]),
        ([("Running", "True", "Training")], [("Running", "False", "NotRunning")], []),
        ([], [("Reconciling", "True", "Queued"), ("Queued", "True", "Queued")], ["Reconciling"]),
        ([], [("Failed", "True", "DataInvalid"), ("Stalled", "True", "DataInvalid")], ["Failed"]),
    ],
)
def test_events_of_transitions(old, new, told):
    before = [b.make_condition(*c) for c in old]
    now = [b.make_condition(*c) for c in new]
    assert [c.type for c in transitions.transitions(before, now)] == told


@pytest.mark.parametrize(("reason", "level"), [("HostLost", "Warning"), ("WaitingForPods", "Normal")])
def test_event_of_a_loss_is_a_warning(reason, level):
    body = {"metadata": {"name": "j", "namespace": "ns"}}
    assert (
        transitions.build_event(body, b.make_condition("Reconciling", reason=reason), b.NOW)["type"] == level
    )


@pytest.mark.parametrize(
    ("kind", "level"), [("Failed", "Warning"), ("Stalled", "Warning"), ("Running", "Normal")]
)
def test_event_level_and_object(kind, level):
    body = {"metadata": {"name": "j", "namespace": "ns", "uid": "u", "resourceVersion": "7"}}
    event = transitions.build_event(body, b.make_condition(kind, message="x" * 3000), b.NOW)
    assert (event["type"], event["involvedObject"]["uid"]) == (level, "u")
    assert len(event["message"]) <= 1024


PAIRS = {
    "read": 300, "train": 284, "eval": 16, "dropped_empty": 0, "dropped_equal": 0, "truncated": 3, "duplicate": 0,
    "overlap": 0,
}  # fmt: skip
COUNTS = "300 pairs: 284 train, 16 eval; 0 dropped, 3 truncated, 0 duplicate, 0 in both."


def data_valid(new):
    return next((c for c in new.conditions if c.type == "DataValid"), None)


def examined(job):
    scrape = replace(b.make_scrape(), pairs=PAIRS)
    return b.observe(job, scrape=scrape)


def test_nothing_is_said_about_pairs_that_nobody_examined():
    job = b.make_job(status=b.active())
    assert data_valid(after(job, make_plan(Stage.RUNNING))) is None
    assert data_valid(after(job, make_plan(Stage.FAILED, OperatorReason.HOST_LOST))) is None


def test_examined_pairs_are_valid_with_their_counts():
    job = b.make_job(status=b.active())
    found = data_valid(after(job, make_plan(Stage.RUNNING), examined(job)))
    assert (found.status, found.reason, found.message) == ("True", "DataAccepted", COUNTS)


@pytest.mark.parametrize("stage", [Stage.SUCCEEDED, Stage.FAILED, Stage.LOST, Stage.CREATED])
def test_what_is_known_of_the_pairs_stays(stage):
    job = b.make_job(status=b.active())
    first = after(job, make_plan(Stage.RUNNING), examined(job))
    later = after(b.make_job(status=first), make_plan(stage, OperatorReason.HOST_LOST), b.nothing())
    assert data_valid(later) == data_valid(first)


@pytest.mark.parametrize("reason", sorted(DATA_REASONS))
def test_refused_pairs_are_not_valid(reason):
    job = b.make_job(status=b.active())
    found = data_valid(after(job, make_plan(Stage.FAILED, reason, "why"), examined(job)))
    assert (found.status, found.reason, found.message) == ("False", reason.value, "why")


def discouraged(new):
    return next((c for c in new.conditions if c.type == "Discouraged"), None)


def test_bfloat16_parameters_are_warned_of_as_long_as_the_job_exists():
    job = b.make_job({"precision": {"params": "bfloat16"}, "training": {"learningRate": 1e-5}}, b.active())
    for stage in (Stage.CREATED, Stage.RUNNING, Stage.SUCCEEDED):
        found = discouraged(after(job, make_plan(stage)))
        assert (found.status, found.reason) == ("True", "LowPrecisionParameters")
        assert "precision.params is bfloat16" in found.message and "1e-05" in found.message
        assert transitions.is_warning(found)


def test_the_default_precision_is_not_warned_of():
    assert discouraged(after(b.make_job(status=b.active()), make_plan(Stage.RUNNING))) is None
