"""Why a job must not hold a slice now, although nothing has failed: suspension, guards, deadline, budget."""

from dataclasses import dataclass
from datetime import datetime

from dpojob_api.guards_spec import GuardAction
from dpojob_api.reasons import OperatorReason
from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator.policy import budget, deadline, guards


@dataclass(frozen=True)
class Halt:
    """A documented reason; a final one ends the job."""

    reason: str
    message: str
    final: bool


def find_halt(job: DPOJob, now: datetime) -> Halt | None:
    """Return why the job must stop; while it is suspended nothing else counts."""
    if job.spec.suspend:
        message = "spec.suspend is true; set it to false to go on from the newest checkpoint."
        return Halt(OperatorReason.SUSPENDED, message, final=False)
    broken = guards.find_broken(job)
    if broken is not None and broken.action is GuardAction.SUSPEND:
        message = f"{broken.message} Edit spec.guards, or set spec.suspend to true and back, to go on."
        return Halt(broken.reason, message, final=False)
    if broken is not None and broken.action is GuardAction.FAIL:
        return Halt(broken.reason, broken.message, final=True)
    if deadline.is_over(job, now):
        message = f"The job has taken longer than spec.activeDeadlineSeconds ({job.spec.active_deadline_seconds} s)."
        return Halt(OperatorReason.DEADLINE_EXCEEDED, message, final=True)
    used = budget.used_up(job, now)
    if used is not None:
        message = (
            f"{used:.2f} of spec.budget.chipHours ({job.spec.budget.chip_hours:g}) chip-hours are used, and the rest is "
            "needed to stop; the checkpoints are kept."
        )
        return Halt(OperatorReason.BUDGET_EXCEEDED, message, final=True)
    return None
