"""Why an attempt has ended: classification of RayJobs, logs and pods. Pure logic; no cluster."""

import pytest
from tests.unit import operator_builders as b

from dpojob_api.reasons import OperatorReason
from dpojob_api.result import TrainerResult
from dpojob_operator import words
from dpojob_operator.observed import RayClusterView
from dpojob_operator.policy import failure

TRACEBACK = """Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 chars):
2026-11-23 INFO starting
Traceback (most recent call last):
  File "/opt/app/x.py", line 3, in <module>
    main()
  File "/opt/app/y.py", line 9, in main
    raise ValueError("bad")
ValueError: bad thing happened

"""


def classify(ray_job, attempt=None, waiting=None):
    return failure.classify(ray_job, attempt, waiting)


@pytest.mark.parametrize(
    ("ray_job", "reason"),
    [
        (b.make_ray_job("ValidationFailed", "", reason="ValidationFailed", message="bad"), "RayJobRejected"),
        (b.make_ray_job("Failed", "", reason="SubmissionFailed", message="no"), "RayJobRejected"),
        (b.make_ray_job("Failed", "", reason="PreRunningDeadlineExceeded"), "StartupDeadlineExceeded"),
        (b.make_ray_job("Failed", "RUNNING", reason="JobStatusCheckTimeoutExceeded"), "HeadLost"),
        (b.make_ray_job("Failed", "FAILED", reason="AppFailed", message=TRACEBACK), "TrainerCrashed"),
        (b.make_ray_job("Failed", "FAILED", reason="AppFailed", message=""), "TrainerCrashed"),
    ],
)
def test_reason_by_rayjob(ray_job, reason):
    assert classify(ray_job).reason == reason


def test_crash_names_exit_code_and_cause_without_a_traceback():
    message = classify(b.make_ray_job("Failed", "FAILED", reason="AppFailed", message=TRACEBACK)).message
    assert "exit code 1" in message
    assert message.endswith("ValueError: bad thing happened")
    assert "Traceback" not in message
    assert "File" not in message


def test_log_line_is_bounded_and_without_colour():
    log = "\x1b[36mx\x1b[0m" * 2000
    line = failure.last_meaningful_line(log)
    assert line is not None
    assert len(line) == failure.MAX_LOG_LINE
    assert "\x1b" not in line


@pytest.mark.parametrize("log", ["", "\n\n", "Traceback (most recent call last):\n  File 'x'\n"])
def test_log_without_a_meaningful_line(log):
    assert failure.last_meaningful_line(log) is None


def test_known_loss_explains_a_crash():
    attempt = b.make_attempt(reason="HostLost", message="Host 1 ended")
    ray_job = b.make_ray_job("Failed", "FAILED", reason="AppFailed", message=TRACEBACK)
    assert classify(ray_job, attempt) == failure.Failure("HostLost", "Host 1 ended")


def test_trainers_word_and_kubernetes_word_on_a_lost_host():
    attempt = b.make_attempt(reason="HostLost", message="Host 1 ended: exit code 137.")
    line = TrainerResult(reason="HostLost", message="Actor of host 1 died.").to_line()
    ray_job = b.make_ray_job("Failed", "FAILED", reason="AppFailed", message=line)
    why = classify(ray_job, attempt)
    assert why.message == "Actor of host 1 died. Kubernetes: Host 1 ended: exit code 137."


def test_a_success_line_in_a_failed_job_is_not_believed():
    line = TrainerResult(reason="Succeeded", message="ok").to_line()
    ray_job = b.make_ray_job("Failed", "FAILED", reason="AppFailed", message=f"{line}\nSegmentation fault")
    assert classify(ray_job).reason == OperatorReason.TRAINER_CRASHED


def test_waiting_pods_are_grouped_by_complaint():
    pods = b.make_pods(
        b.make_pod("head", None, phase="Pending", waiting="ErrImagePull: not found"),
        b.make_pod("host", 0, phase="Pending", unschedulable="Unschedulable: no TPU node"),
        b.make_pod("host", 1, phase="Pending", unschedulable="Unschedulable: no TPU node"),
    )
    text = words.describe_waiting(b.observe(b.make_job(), pods=pods), 2)
    assert text == "0 of 3 pods run; head: ErrImagePull: not found; 2 hosts: Unschedulable: no TPU node"


def test_refused_pods_are_named():
    clusters = (RayClusterView("c", 1, failure="exceeded quota: tpu"),)
    text = words.describe_waiting(b.observe(b.make_job(), pods=(), ray_clusters=clusters), 2)
    assert text == "0 of 3 pods run; the API server refuses pods: exceeded quota: tpu"


def test_all_pods_run():
    assert (
        words.describe_waiting(b.observe(b.make_job()), 2)
        == "All pods run; Ray and the trainer are starting."
    )


def test_ending_of_a_pod_says_what_to_raise():
    text = words.ending(b.make_pod(ended=b.oom()))
    assert "exit code 137" in text
    assert "runtime.host.resources" in text
