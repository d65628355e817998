"""What the operator decides, as a table over what it has observed. Pure logic; no cluster."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.unit import operator_builders as b

from dpojob_api.reasons import OperatorReason
from dpojob_api.result import TrainerResult
from dpojob_api.status import DPOJobStatus, FinalMetrics
from dpojob_operator import decide, history
from dpojob_operator.observed import ConfigMapView, Prerequisites, RayClusterView
from dpojob_operator.plan import STALLED_SECONDS, Apply, Create, Delete, Kind, Stage
from dpojob_operator.settings import Settings


def plan(job, observed, settings=b.SETTINGS, now=b.NOW):
    return decide.decide(job, observed, settings, now)


def test_first_attempt_is_created_with_its_config():
    made = plan(b.make_job(), b.nothing())
    assert made.stage is Stage.CREATED
    assert made.actions == (Apply(1, absent=True), Create(1, "example.test/trainer:1"))


def test_image_of_the_spec_comes_before_the_default():
    job = b.make_job({"runtime": {"image": "own/trainer:2"}})
    assert plan(job, b.nothing()).actions[1] == Create(1, "own/trainer:2")


def test_no_image_at_all_stalls():
    made = plan(b.make_job(), b.nothing(), Settings())
    assert (made.stage, made.reason, made.actions) == (Stage.STALLED, OperatorReason.NO_TRAINER_IMAGE, ())
    assert made.requeue_after == STALLED_SECONDS


def test_nothing_known_of_kuberay_stalls():
    made = plan(b.make_job(), b.nothing(prerequisites=Prerequisites()))
    assert (made.stage, made.reason) == (Stage.STALLED, OperatorReason.KUBERAY_NOT_INSTALLED)


def test_existing_rayjob_of_ours_is_adopted_without_a_status():
    job = b.make_job()
    made = plan(job, b.observe(job, ray_job=b.make_ray_job("Initializing", "")))
    assert (made.stage, made.attempt) == (Stage.STARTING, 1)


FOREIGN = [{"ray_job": b.make_ray_job(owner_uid="other")}, {"config_map": ConfigMapView(None, "x")}]


@pytest.mark.parametrize("found", FOREIGN, ids=["RayJob", "ConfigMap"])
def test_foreign_object_with_our_name_stalls(found):
    made = plan(b.make_job(), b.nothing(**found))
    assert (made.stage, made.reason, made.actions) == (Stage.STALLED, OperatorReason.NAME_CONFLICT, ())


def test_foreign_config_map_does_not_touch_a_run():
    job = b.make_job(status=b.active())
    made = plan(job, b.observe(job, config_map=ConfigMapView(None, "x")))
    assert (made.stage, made.actions) == (Stage.RUNNING, ())


def test_deleted_rayjob_loses_the_attempt():
    job = b.make_job(status=b.active())
    made = plan(job, b.nothing())
    assert (made.stage, made.attempt, made.requeue_after) == (Stage.LOST, 1, 0)


def test_rayjob_in_deletion_is_waited_for():
    job = b.make_job(status=b.active())
    made = plan(job, b.observe(job, ray_job=b.make_ray_job(deleting=True)))
    assert (made.stage, made.actions) == (Stage.CLEANING, ())


def test_after_a_lost_attempt_the_old_cluster_goes_first():
    status = DPOJobStatus(attempts=[b.make_attempt(outcome="Lost")])
    observed = b.nothing(
        attempt=2, ray_clusters=(RayClusterView("j-a1-x", 1), RayClusterView("j-a1-y", 1, True))
    )
    made = plan(b.make_job(status=status), observed)
    assert (made.stage, made.actions) == (Stage.CLEANING, (Delete(Kind.RAY_CLUSTER, "j-a1-x"),))


def test_after_a_lost_attempt_old_pods_hold_the_slice():
    status = DPOJobStatus(attempts=[b.make_attempt(outcome="Lost")])
    made = plan(b.make_job(status=status), b.nothing(attempt=2, old_pods=("j-a1-head",)))
    assert (made.stage, made.actions) == (Stage.CLEANING, ())


def test_after_a_lost_attempt_comes_the_next():
    status = DPOJobStatus(attempts=[b.make_attempt(outcome="Lost")])
    made = plan(b.make_job(status=status), b.nothing(attempt=2))
    assert made.actions[0] == Apply(2, absent=True)


def test_attempt_numbers_are_bounded():
    made = plan(b.make_job(), b.nothing(attempt=100))
    assert (made.stage, made.reason) == (Stage.FAILED, OperatorReason.TOO_MANY_ATTEMPTS)


@pytest.mark.parametrize("found", [None, "other text"])
def test_config_is_brought_back(found):
    job = b.make_job(status=b.active())
    view = ConfigMapView(owner_uid=b.UID, text=found) if found else None
    assert plan(job, b.observe(job, config_map=view)).actions == (Apply(1, absent=found is None),)


def test_config_that_is_right_is_left_alone():
    job = b.make_job(status=b.active())
    assert plan(job, b.observe(job)).actions == ()


def test_all_pods_and_the_driver_run():
    job = b.make_job(status=b.active())
    assert plan(job, b.observe(job)).stage is Stage.RUNNING


def test_driver_that_waits_for_hosts_is_starting_and_a_rebuilt_slice_is_no_loss():
    job = b.make_job(status=b.active())
    pods = b.make_pods(b.make_pod("host", 1, ended=b.oom(), phase="Failed"))
    made = plan(job, b.observe(job, pods=pods, scrape=b.make_scrape(0, phase="starting")))
    assert (made.stage, made.reason) == (Stage.STARTING, OperatorReason.WAITING_FOR_PODS)
    assert "host 1" in made.message


def test_run_goes_on_when_one_scrape_is_missed():
    job = b.make_job(status=b.running())
    assert plan(job, b.observe(job, scrape=None)).stage is Stage.RUNNING


@pytest.mark.parametrize(
    "ray_job",
    [b.make_ray_job("Running", "PENDING"), b.make_ray_job("Initializing", ""), b.make_ray_job("Running", "")],
)
def test_without_a_running_driver_it_is_starting(ray_job):
    job = b.make_job(status=b.active())
    assert plan(job, b.observe(job, ray_job=ray_job)).stage is Stage.STARTING


def test_before_the_run_a_missing_host_is_waited_for():
    job = b.make_job(status=b.active())
    made = plan(job, b.observe(job, pods=b.make_pods()[:2]))
    assert (made.stage, made.reason) == (Stage.STARTING, OperatorReason.WAITING_FOR_PODS)


def test_suspended_rayjob_names_its_queue():
    job = b.make_job(status=b.active())
    made = plan(
        job, b.observe(job, ray_job=b.make_ray_job("Suspended", "", suspended=True, queue="tpu"), pods=())
    )
    assert (made.stage, made.reason) == (Stage.QUEUED, OperatorReason.QUEUED)
    assert "'tpu'" in made.message


def test_kuberay_that_does_nothing_is_named():
    job = b.make_job(status=b.active())
    made = plan(job, b.observe(job, ray_job=b.make_ray_job("", "", started=None), pods=()))
    assert made.reason == OperatorReason.ATTEMPT_CREATED
    assert "KubeRay has not started it" in made.message


LOSSES = [
    ((b.make_pod("host", 1, ended=b.oom(), phase="Failed"),), OperatorReason.HOST_LOST, "out of memory"),
    ((b.make_pod("host", 0, deleting=True),), OperatorReason.HOST_LOST, "being deleted"),
    ((b.make_pod("host", 1, created=b.NOW),), OperatorReason.HOST_LOST, "rebuilt"),
    ((b.make_pod("head", None, ended=b.oom()),), OperatorReason.HEAD_LOST, "out of memory"),
    ((b.make_pod("head", None, phase="Failed", evicted="Evicted: disk"),), OperatorReason.HEAD_LOST, "disk"),
]


@pytest.mark.parametrize(("changes", "reason", "words"), LOSSES)
def test_lost_pod_of_a_run(changes, reason, words):
    job = b.make_job(status=b.running())
    made = plan(job, b.observe(job, pods=b.make_pods(*changes)))
    assert (made.stage, made.reason) == (Stage.ENDING, reason)
    assert words in made.message


def test_missing_host_of_a_run_is_named_by_index():
    job = b.make_job(status=b.running())
    made = plan(job, b.observe(job, pods=b.make_pods()[:2]))
    assert (made.stage, made.message) == (Stage.ENDING, "The pod of host 1 is gone.")


def test_missing_head_ends_the_attempt_even_before_the_run():
    job = b.make_job(status=b.active())
    made = plan(job, b.observe(job, pods=b.make_pods()[1:]))
    assert (made.stage, made.reason) == (Stage.ENDING, OperatorReason.HEAD_LOST)


def test_suspension_is_no_loss():
    job = b.make_job(status=b.running())
    assert plan(job, b.observe(job, ray_job=b.make_ray_job(suspended=True), pods=())).stage is Stage.STARTING


@pytest.mark.parametrize(
    ("reason", "seconds", "stage"),
    [("HostLost", 59, Stage.ENDING), ("HostLost", 60, Stage.RETRYING), ("HeadLost", 15, Stage.RETRYING)],
)
def test_loss_ends_the_attempt_after_its_grace(reason, seconds, stage):
    since = b.NOW - timedelta(seconds=seconds)
    job = b.make_job(status=b.active(reason=reason, message="gone", end_time=since))
    made = plan(job, b.observe(job))
    assert made.failure is not None
    assert (made.stage, made.failure.reason, made.failure.message) == (stage, reason, "gone")


@pytest.mark.parametrize(
    ("seconds", "change", "stage"),
    [
        (179, {"deleting": True}, Stage.ENDING),
        (180, {"deleting": True}, Stage.RETRYING),
        (60, {"deleting": True, "ended": b.oom()}, Stage.RETRYING),
        (60, {"deleting": True, "phase": "Pending"}, Stage.RETRYING),
    ],
)
def test_hosts_that_terminate_have_their_time_to_save(seconds, change, stage):
    since = b.NOW - timedelta(seconds=seconds)
    job = b.make_job(status=b.active(reason="HostLost", message="gone", end_time=since))
    made = plan(job, b.observe(job, pods=b.make_pods(b.make_pod("host", 1, **change))))
    assert made.stage is stage


def test_loss_after_the_checked_result_is_success():
    status = b.running().model_copy(update={"final_metrics": FinalMetrics(step=40)})
    job = b.make_job(status=status)
    assert plan(job, b.observe(job, pods=b.make_pods()[1:])).stage is Stage.SUCCEEDED


def test_success_needs_the_trainers_word():
    job = b.make_job(status=b.running())
    made = plan(job, b.observe(job, ray_job=b.make_ray_job("Complete", "SUCCEEDED")))
    assert (made.stage, made.reason) == (Stage.FAILED, OperatorReason.RESULT_MISSING)


def test_success_with_final_metrics_in_the_status():
    status = b.running().model_copy(update={"final_metrics": FinalMetrics(step=40)})
    job = b.make_job(status=status)
    made = plan(job, b.observe(job, ray_job=b.make_ray_job("Complete", "SUCCEEDED"), pods=()))
    assert (made.stage, made.reason) == (Stage.SUCCEEDED, OperatorReason.FINISHED)


def test_success_with_the_result_line_in_the_message():
    line = TrainerResult(reason="Succeeded", message="done", step=40).to_line()
    job = b.make_job(status=b.running())
    made = plan(job, b.observe(job, ray_job=b.make_ray_job("Complete", "SUCCEEDED", message=line)))
    assert made.stage is Stage.SUCCEEDED


def test_run_that_nobody_recorded_is_a_success_although_its_driver_failed():
    line = TrainerResult(reason="Succeeded", message="done", step=40, recorded=False).to_line()
    job = b.make_job(status=b.running())
    failed = b.make_ray_job("Failed", "FAILED", reason="AppFailed", message=f"log\n{line}\n")
    assert plan(job, b.observe(job, ray_job=failed, pods=(), scrape=None)).stage is Stage.SUCCEEDED


def test_finished_run_is_still_running_until_kuberay_says_so():
    job = b.make_job(status=b.running())
    assert plan(job, b.observe(job, scrape=b.make_scrape(40, finished=True))).stage is Stage.RUNNING


def test_failed_rayjob_repeats_the_trainers_reason():
    line = TrainerResult(reason="ColumnNotFound", message="no column 'x'").to_line()
    ray_job = b.make_ray_job("Failed", "FAILED", reason="AppFailed", message=f"log\n{line}\n")
    job = b.make_job(status=b.running())
    made = plan(job, b.observe(job, ray_job=ray_job))
    assert (made.stage, made.reason, made.message) == (Stage.FAILED, "ColumnNotFound", "no column 'x'")


def test_startup_deadline_repeats_what_the_pods_waited_for():
    waiting = b.make_condition(
        "Reconciling", reason="WaitingForPods", message="2 hosts: Unschedulable: no node"
    )
    ray_job = b.make_ray_job("Failed", "", reason="PreRunningDeadlineExceeded")
    job = b.make_job(status=b.active(waiting))
    made = plan(job, b.observe(job, ray_job=ray_job, pods=()))
    assert made.failure is not None
    assert made.failure.reason == OperatorReason.STARTUP_DEADLINE_EXCEEDED
    assert "2 hosts: Unschedulable: no node" in made.message


def test_operator_keeps_the_deadline_when_kuberay_does_not():
    job = b.make_job({"runtime": {"startupDeadlineSeconds": 60}}, status=b.active())
    made = plan(job, b.observe(job, ray_job=b.make_ray_job("", "", started=None), pods=()))
    assert made.failure is not None
    assert (made.stage, made.failure.reason) == (Stage.RETRYING, OperatorReason.STARTUP_DEADLINE_EXCEEDED)


def test_time_in_a_queue_does_not_count_towards_the_deadline():
    job = b.make_job({"runtime": {"startupDeadlineSeconds": 60}}, status=b.active())
    made = plan(job, b.observe(job, ray_job=b.make_ray_job("", "", started=None, queue="tpu"), pods=()))
    assert made.stage is Stage.STARTING


def test_stopped_job_has_failed():
    job = b.make_job(status=b.running())
    made = plan(job, b.observe(job, ray_job=b.make_ray_job("Complete", "STOPPED")))
    assert (made.stage, made.reason) == (Stage.FAILED, OperatorReason.TRAINER_CRASHED)


@pytest.mark.parametrize(
    ("attempts", "number"),
    [([], 1), ([b.make_attempt()], 1), ([b.make_attempt(outcome="Lost")], 2), ([b.make_attempt(7)], 7)],
)
def test_number_of_the_attempt_that_is_due(attempts, number):
    assert history.attempt_number(DPOJobStatus(attempts=attempts)) == number


def test_single_host_slice_runs_with_one_host():
    job = b.make_job({"accelerator": {"type": "v4-8"}}, status=b.active())
    observed = b.observe(job, pods=b.make_pods()[:2])
    assert plan(job, replace(observed)).stage is Stage.RUNNING


@pytest.mark.parametrize(
    "found", [{"ray_job": b.make_ray_job("Failed", "FAILED", message="boom")}, {"ray_job": None}]
)
def test_run_that_was_checked_and_written_is_a_success_however_its_driver_ends(found):
    status = b.running().model_copy(update={"final_metrics": FinalMetrics(step=40)})
    job = b.make_job(status=status)
    assert plan(job, b.observe(job, scrape=None, **found)).stage is Stage.SUCCEEDED
