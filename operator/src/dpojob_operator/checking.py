"""``dataset.gate.preflight``: the data is accepted before the first RayJob, and with it a slice, is asked for. Pure."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from dpojob_api.metrics import DATA_KINDS
from dpojob_api.reasons import DATA_REASONS, ConditionType, OperatorReason, TrainerReason
from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator import history, words
from dpojob_operator.desired.check import check_name
from dpojob_operator.observed import CheckView, Observed
from dpojob_operator.plan import STALLED_SECONDS, Apply, Check, Delete, Kind, Plan, Stage

# Reasons that another look at the same data cannot change.
FINAL = DATA_REASONS | {TrainerReason.CONFIG_INVALID, TrainerReason.MODEL_UNSUPPORTED}
AGAIN = timedelta(minutes=5)


def is_due(job: DPOJob) -> bool:
    """Return whether the data must still be examined; what any attempt has accepted stays accepted."""
    condition = history.condition_of(job.status, ConditionType.DATA_VALID)
    return job.spec.dataset.gate.preflight and (condition is None or condition.status != "True")


def examine(job: DPOJob, observed: Observed, image: str, now: datetime) -> Plan | None:
    """Return the plan that leads to a verdict on the data, None if the attempt may be made."""
    number, name, check = observed.attempt, check_name(job.metadata.name), observed.check
    if not is_due(job):
        return None
    if check is None:
        message = f"Job {name} is created; it examines the data before a slice is asked for."
        return checking(number, message, Apply(number, observed.config_map is None), Check(number, image))
    if check.owner_uid != job.metadata.uid:
        message = (
            f"Job {name!r} exists and does not belong to this DPOJob: delete it, or use another job name."
        )
        return Plan(
            Stage.STALLED, number, OperatorReason.NAME_CONFLICT, message, requeue_after=STALLED_SECONDS
        )
    if accepted_pairs(check) is not None:
        # Written down before the RayJob exists, so that it is known whenever the operator restarts.
        return Plan(
            Stage.CHECKING, number, OperatorReason.CHECKING_DATA, "The data is accepted.", requeue_after=0
        )
    if check.ended is None or check.deleting:
        return checking(number, words.job_going(check, "examines the data"))
    return refused(number, check, check.ended, now)


def checking(number: int, message: str, *actions: Apply | Check) -> Plan:
    """Return the plan of waiting for the Job."""
    return Plan(Stage.CHECKING, number, OperatorReason.CHECKING_DATA, message, actions)


def accepted_pairs(check: CheckView | None) -> Mapping[str, int] | None:
    """Return the counts of data that the trainer has accepted."""
    result = check.result if check is not None else None
    if result is None or result.reason is not TrainerReason.SUCCEEDED or result.pairs is None:
        return None
    return result.pairs if result.pairs.keys() >= set(DATA_KINDS) else None


def refused(number: int, check: CheckView, ended: datetime, now: datetime) -> Plan:
    """Return the end of a job whose data is refused; everything else can be put right, and is looked at again."""
    result = check.result
    if result is not None and result.reason in FINAL:
        return Plan(Stage.FAILED, number, result.reason, result.message)
    actions = (Delete(Kind.CHECK, check.name, check.uid),) if now >= ended + AGAIN else ()
    minutes = AGAIN.total_seconds() / 60
    reason = str(result.reason) if unsuccessful(check) and result else OperatorReason.DATA_CHECK_FAILED
    silent = words.job_silent(check, "a verdict on the data")
    why = result.message if unsuccessful(check) and result else silent
    message = f"{why} It is tried again {minutes:.0f} minutes after its end, at once if Job {check.name} is deleted."
    return Plan(Stage.STALLED, number, reason, message, actions, STALLED_SECONDS)


def unsuccessful(check: CheckView) -> bool:
    """Return whether the trainer has said what is wrong."""
    return check.result is not None and check.result.reason is not TrainerReason.SUCCEEDED
