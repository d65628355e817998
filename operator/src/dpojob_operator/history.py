"""What a job's status remembers of earlier reconciles: pure. The operator keeps nothing else between them."""

from datetime import datetime

from dpojob_api.reasons import ConditionType, OperatorReason
from dpojob_api.status import AttemptStatus, Condition, DPOJobStatus


def is_terminal(status: DPOJobStatus) -> bool:
    """Return whether a job has ended for good."""
    final = (ConditionType.COMPLETE, ConditionType.FAILED)
    return any(c.type in final and c.status == "True" for c in status.conditions)


def condition_of(status: DPOJobStatus, kind: ConditionType) -> Condition | None:
    """Return a condition by type."""
    return next((c for c in status.conditions if c.type == kind), None)


def attempt_number(status: DPOJobStatus) -> int:
    """Return the number of the attempt that is due or active."""
    if not status.attempts:
        return 1
    last = status.attempts[-1]
    return last.number if last.outcome in ("Active", "Succeeded") else last.number + 1


def last_ended(status: DPOJobStatus) -> AttemptStatus | None:
    """Return the attempt that the next one follows."""
    last = status.attempts[-1] if status.attempts else None
    return last if last is not None and last.outcome in ("Failed", "Lost", "Stopped") else None


def active_attempt(status: DPOJobStatus) -> AttemptStatus | None:
    """Return the attempt that has been created and not ended."""
    last = status.attempts[-1] if status.attempts else None
    return last if last is not None and last.outcome == "Active" else None


def last_waiting(status: DPOJobStatus) -> str | None:
    """Return what the pods waited for when they were last seen."""
    reconciling = condition_of(status, ConditionType.RECONCILING)
    if reconciling is None or reconciling.reason != OperatorReason.WAITING_FOR_PODS:
        return None
    return reconciling.message


def last_eviction(status: DPOJobStatus) -> str | None:
    """Return that Kueue has taken the slice from the active attempt, in the words of the last reconcile."""
    reconciling = condition_of(status, ConditionType.RECONCILING)
    if reconciling is None or reconciling.reason != OperatorReason.EVICTED_BY_KUEUE:
        return None
    return reconciling.message if active_attempt(status) is not None else None


def running_since(status: DPOJobStatus) -> datetime | None:
    """Return since when the trainer has run on all hosts."""
    running = condition_of(status, ConditionType.RUNNING)
    return running.last_transition_time if running is not None and running.status == "True" else None


def suspended_seconds(status: DPOJobStatus, now: datetime) -> int:
    """Return how long a job has been suspended so far."""
    condition = condition_of(status, ConditionType.SUSPENDED)
    if condition is None or condition.status != "True":
        return status.suspended_seconds
    return status.suspended_seconds + max(0, round((now - condition.last_transition_time).total_seconds()))
