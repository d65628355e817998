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
    return last.number + 1 if last.outcome == "Lost" else last.number


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


def running_since(status: DPOJobStatus) -> datetime | None:
    """Return since when the trainer has run on all hosts."""
    running = condition_of(status, ConditionType.RUNNING)
    return running.last_transition_time if running is not None and running.status == "True" else None
