"""From what is known to what to do: pure. ``reconcile`` carries the plan out, ``status`` tells about it."""

import math
from datetime import datetime

from dpojob_api.constants import MAX_ATTEMPT
from dpojob_api.reasons import OperatorReason
from dpojob_api.status import AttemptStatus
from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator import checking, history, planning, running
from dpojob_operator.desired import metadata
from dpojob_operator.observed import Observed, Prerequisites
from dpojob_operator.plan import (
    CLEANING_SECONDS,
    STALLED_SECONDS,
    Apply,
    Create,
    Plan,
    Stage,
)
from dpojob_operator.policy import failure, halt, preflight, retry
from dpojob_operator.settings import Settings

MAX_PODS_NAMED = 3
LONGEST_WAIT_SECONDS = 60.0
"""Between two looks at a job that waits for its next attempt: its deadline may come first."""


def decide(job: DPOJob, observed: Observed, settings: Settings, now: datetime) -> Plan:
    """Return what to do next about a job that has not ended."""
    number, ray_job = observed.attempt, observed.ray_job
    if ray_job is not None and ray_job.deleting:
        message = f"RayJob {ray_job.name} is being deleted."
        return Plan(
            Stage.CLEANING, number, OperatorReason.ATTEMPT_LOST, message, requeue_after=CLEANING_SECONDS
        )
    if ray_job is not None and ray_job.owner_uid == job.metadata.uid:
        return running.observe_attempt(job, observed, ray_job, now)
    if history.active_attempt(job.status) is not None:
        return vanished(job, observed, now)
    why = halt.find_halt(job, now)
    if why is not None:
        return halted(observed, why)
    conflict = find_conflict(job, observed)
    if conflict is not None:
        return stalled(number, conflict)
    return start(job, observed, settings, now)


def vanished(job: DPOJob, observed: Observed, now: datetime) -> Plan:
    """Return the plan for an attempt whose RayJob is gone."""
    if running.has_finished(job, observed):
        return running.succeeded(job, observed.attempt)
    name = metadata.attempt_name(job.metadata.name, observed.attempt)
    lost = failure.Failure(OperatorReason.ATTEMPT_LOST, f"RayJob {name} was deleted by somebody else.")
    return running.over(job, observed, lost, now, lost=True)


def stalled(number: int, problem: preflight.Problem) -> Plan:
    """Return the plan of waiting for somebody to put something right."""
    return Plan(Stage.STALLED, number, problem.reason, problem.message, requeue_after=STALLED_SECONDS)


def find_conflict(job: DPOJob, observed: Observed) -> preflight.Problem | None:
    """Return whether an object with the name of the attempt that is due belongs to something else."""
    name = metadata.attempt_name(job.metadata.name, observed.attempt)
    for kind, child in {"RayJob": observed.ray_job, "ConfigMap": observed.config_map}.items():
        if child is not None and child.owner_uid != job.metadata.uid:
            message = f"{kind} {name!r} exists and does not belong to this DPOJob: delete it, or use another job name."
            return preflight.Problem(OperatorReason.NAME_CONFLICT, message)
    return None


def halted(observed: Observed, why: halt.Halt) -> Plan:
    """Return the plan for a job that must not start an attempt now."""
    if why.final:
        return Plan(Stage.FAILED, observed.attempt, why.reason, why.message)
    if not observed.slice_free:
        message = "Waiting for the slice to be released."
        return clean(observed, OperatorReason.SUSPENDING, message)
    return Plan(Stage.SUSPENDED, observed.attempt, why.reason, why.message, requeue_after=None)


def clean(observed: Observed, reason: str, message: str) -> Plan:
    """Return the plan of removing what is left of earlier attempts and can still hold the slice."""
    # A RayCluster with the number of the attempt that is due is one that an earlier job of this name left.
    actions = running.leftovers(observed, observed.attempt + 1)
    return Plan(Stage.CLEANING, observed.attempt, reason, message, actions, requeue_after=CLEANING_SECONDS)


def start(job: DPOJob, observed: Observed, settings: Settings, now: datetime) -> Plan:
    """Return the plan that leads to the attempt's RayJob: nothing left over, its time come, nothing missing."""
    number = observed.attempt
    if number > MAX_ATTEMPT:
        message = f"All {MAX_ATTEMPT} attempts are used; create a new DPOJob."
        return Plan(Stage.FAILED, MAX_ATTEMPT, OperatorReason.TOO_MANY_ATTEMPTS, message)
    last = history.last_ended(job.status)
    if not observed.slice_free:
        return release(observed, last)
    pause = find_pause(job, observed, last, now) if last is not None else None
    if pause is not None:
        return pause
    prerequisites = observed.prerequisites or Prerequisites()
    problem = preflight.find_problem(job, prerequisites, settings)
    if problem is not None:
        return stalled(number, problem)
    name = metadata.attempt_name(job.metadata.name, number)
    image = preflight.trainer_image(job, settings)
    assert image is not None, "preflight has checked the image"
    unchecked = checking.examine(job, observed, image, now)
    if unchecked is not None:
        return unchecked
    unplanned = planning.examine(job, observed, image, now)
    if unplanned is not None:
        return unplanned
    return Plan(
        Stage.CREATED,
        number,
        OperatorReason.ATTEMPT_CREATED,
        f"RayJob {name} is created.",
        (Apply(number, observed.config_map is None), Create(number, image, prerequisites.kueue)),
    )


def release(observed: Observed, last: AttemptStatus | None) -> Plan:
    """Return the plan of waiting until nothing of an earlier attempt is left."""
    pods = f": {', '.join(observed.old_pods[:MAX_PODS_NAMED])}" if observed.old_pods else ""
    message = f"Waiting for what an earlier attempt still holds{pods}."
    if last is None or last.outcome == "Stopped":
        return clean(observed, OperatorReason.RELEASING_SLICE, message)
    return clean(observed, OperatorReason.BACKING_OFF, f"{epitaph(last)} {message}")


def epitaph(last: AttemptStatus) -> str:
    """Return how an attempt has ended, in a sentence."""
    kind = f" ({last.failure_class})" if last.failure_class else ""
    return f"Attempt {last.number} ended as {last.reason}{kind}: {last.message}"


def find_pause(job: DPOJob, observed: Observed, last: AttemptStatus, now: datetime) -> Plan | None:
    """Return the plan of waiting until the attempt after `last` may start, None if it may."""
    due = retry.due_time(job, last)
    left = (due - now).total_seconds()
    # After a clock was set back the end lies in the future, and who waits for it may wait for ever.
    if left <= 0 or now + 2 * (due - (last.end_time or last.start_time)) < due:
        return None
    message = f"{epitaph(last)} Attempt {observed.attempt} starts at {due:%Y-%m-%dT%H:%M:%SZ}."
    wait = min(math.ceil(left), LONGEST_WAIT_SECONDS)
    return Plan(Stage.BACKING_OFF, observed.attempt, OperatorReason.BACKING_OFF, message, requeue_after=wait)
