"""Why an attempt has ended without a result: the trainer's own words first, then Kubernetes', then its log."""

import re
from dataclasses import dataclass

from dpojob_api.failure_class import FailureClass, class_of
from dpojob_api.reasons import OperatorReason, TrainerReason
from dpojob_api.result import TrainerResult, find_result
from dpojob_api.status import AttemptStatus
from dpojob_operator import words
from dpojob_operator.observed import RayJobView

MAX_LOG_LINE = 1024
HEAD_REASONS = frozenset(
    {"JobStatusCheckTimeoutExceeded", "JobDeploymentStatusTransitionGracePeriodExceeded"}
)
REJECTED_REASONS = frozenset({"ValidationFailed", "SubmissionFailed"})

# Lines that say nothing about the cause: frames of a traceback, carets under them, Ray's own preface.
NOISE = re.compile(
    r"^\s*$|^\s+(File |at |\^|~|raise |return |self\.)|^Traceback|^Job entrypoint command failed|^During handling|"
    r"^The above exception|^\s{2,}|^\(.*pid=.*\)\s*$"
)
PREFACE = re.compile(r"^Job entrypoint command failed with exit code (-?\d+)")
# Waiting reasons of the kubelet that time does not cure.
CANNOT_START = re.compile(
    r"\b(ErrImage\w*|ImagePullBackOff|InvalidImageName|CreateContainer\w*Error|RunContainerError)\b"
)
# Ends in which the trainer can only say that something broke off.
BROKEN_OFF = frozenset({FailureClass.INFRASTRUCTURE, FailureClass.APPLICATION})
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Failure:
    """A documented reason and what to do about it."""

    reason: str
    message: str
    kind: FailureClass | None = None
    """Its class where that depends on more than the reason."""
    host: str | None = None
    """The pod, and its node, that ended."""
    step: int | None = None
    """Steps done, in the trainer's own words."""

    @property
    def failure_class(self) -> FailureClass:
        """Which budget of retries it counts towards."""
        return self.kind or class_of(self.reason)


def classify(ray_job: RayJobView, attempt: AttemptStatus | None, waiting: str | None) -> Failure:
    """Return why a RayJob has failed.

    Args:
        ray_job: the failed RayJob.
        attempt: the attempt so far; it remembers a pod that was lost during the run.
        waiting: what the pods waited for when they were last seen, if they never ran.
    """
    result = find_result(ray_job.message)
    lost = known_loss(attempt)
    if result is not None and result.reason is not TrainerReason.SUCCEEDED:
        return told_by_trainer(result, lost)
    if ray_job.deployment_status == "ValidationFailed" or ray_job.reason in REJECTED_REASONS:
        return Failure(OperatorReason.RAYJOB_REJECTED, f"KubeRay: {words.shortened(ray_job.message)}")
    if ray_job.reason == "PreRunningDeadlineExceeded":
        return startup_failure(waiting)
    if lost is not None:
        return lost
    if ray_job.reason in HEAD_REASONS:
        return Failure(
            OperatorReason.HEAD_LOST,
            f"Ray's head no longer answers. KubeRay: {words.shortened(ray_job.message)}",
        )
    if ray_job.job_status == "STOPPED":
        return Failure(OperatorReason.TRAINER_CRASHED, "The Ray job was stopped from outside.")
    return Failure(OperatorReason.TRAINER_CRASHED, crash_message(ray_job.message))


def known_loss(attempt: AttemptStatus | None) -> Failure | None:
    """Return the loss of a pod that was seen during the run."""
    if attempt is None or attempt.reason is None:
        return None
    return Failure(attempt.reason, attempt.message or "", attempt.failure_class, attempt.host)


def told_by_trainer(result: TrainerResult, lost: Failure | None) -> Failure:
    """Return the trainer's own reason; a pod that was lost before it explains a run that merely broke off."""
    reason = str(result.reason)
    if lost is None or class_of(reason) not in BROKEN_OFF:
        return Failure(reason, result.message, step=result.step)
    message = f"{result.message} Kubernetes: {lost.message}"
    return Failure(reason, message, lost.failure_class, lost.host, result.step)


def startup_failure(waiting: str | None) -> Failure:
    """Return the failure of an attempt whose pods did not come up in time."""
    last = waiting or "nothing is known of its pods"
    return Failure(
        OperatorReason.STARTUP_DEADLINE_EXCEEDED,
        f"The attempt did not start within spec.runtime.startupDeadlineSeconds. Last seen: {last}",
        FailureClass.CONFIGURATION if CANNOT_START.search(last) else FailureClass.CAPACITY,
    )


def crash_message(log: str) -> str:
    """Return the exit code and the line of a log that most likely names the cause."""
    code = PREFACE.match(log)
    title = (
        f"The driver ended with exit code {code[1]} and no result line"
        if code
        else "The driver ended without a result line"
    )
    line = last_meaningful_line(log)
    return f"{title}. Last line of its log: {line}" if line else f"{title} and an empty log."


def last_meaningful_line(log: str) -> str | None:
    """Return the last line of a log that is not part of a traceback's frames, at most 1 KiB of it."""
    for raw in reversed(log.splitlines()):
        line = ANSI.sub("", raw)
        if not NOISE.match(line):
            return words.shortened(line, MAX_LOG_LINE)
    return None
