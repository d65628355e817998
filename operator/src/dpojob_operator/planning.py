"""``spec.plan``: whether the job fits its slice is found out before the first RayJob is asked for. Pure.

Under Warn the answer is only told, and nothing is waited for longer than it takes; under Require the job waits until it is
known to fit.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from dpojob_api.lifecycle_spec import PlanEnforcement
from dpojob_api.reasons import ConditionType, OperatorReason
from dpojob_api.status import Condition, PlanVerdict, Truth
from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator import history, words
from dpojob_operator.desired.planning import START_SECONDS, plan_name
from dpojob_operator.observed import CheckView, Observed
from dpojob_operator.plan import STALLED_SECONDS, Apply, Delete, Estimate, Kind, Plan, Stage

AGAIN = timedelta(minutes=5)
# The trainer ends by itself at its time, and Kubernetes a little later; both are waited for.
GRACE_SECONDS = 60
DOES = "plans the job"
GO_ON = "Set spec.plan.enforce to Warn to start all the same."


@dataclass(frozen=True)
class Verdict:
    """What a plan has come to: the condition FitsHBM, and the numbers."""

    status: Truth
    reason: OperatorReason
    message: str
    found: PlanVerdict | None = None


def known(job: DPOJob) -> Condition | None:
    """Return what is known of whether the job fits."""
    return history.condition_of(job.status, ConditionType.FITS_HBM)


def is_due(job: DPOJob) -> bool:
    """Return whether a plan is still to be made; a job that has had an attempt has shown what it needs."""
    enforce, before = job.spec.plan.enforce, known(job)
    if enforce is PlanEnforcement.OFF or job.status.attempts:
        return False
    return before is None or (before.status == "Unknown" and enforce is PlanEnforcement.REQUIRE)


def examine(job: DPOJob, observed: Observed, image: str, now: datetime) -> Plan | None:
    """Return the plan that leads to a verdict, or that holds the job by it; None if the attempt may be made."""
    number, view = observed.attempt, observed.planner
    if not is_due(job):
        return held(job, number)
    if view is None:
        message = (
            f"Job {plan_name(job.metadata.name)} is created; it plans the job before a slice is asked for."
        )
        actions = (Apply(number), Estimate(number, image))
        return Plan(Stage.PLANNING, number, OperatorReason.PLANNING, message, actions)
    found = verdict(job, view, now)
    if found is None:
        return Plan(Stage.PLANNING, number, OperatorReason.PLANNING, words.job_going(view, DOES))
    if found.status == "Unknown" and job.spec.plan.enforce is PlanEnforcement.REQUIRE:
        return tried_again(job, number, view, found, now)
    # Written down before the RayJob exists, so that it is known whenever the operator restarts.
    return Plan(Stage.PLANNING, number, OperatorReason.PLANNING, found.message, requeue_after=0)


def held(job: DPOJob, number: int) -> Plan | None:
    """Return the plan of waiting with a job that does not fit and must."""
    before = known(job)
    required = job.spec.plan.enforce is PlanEnforcement.REQUIRE and not job.status.attempts
    if not required or before is None or before.status != "False":
        return None
    fix = job.status.plan.fix if job.status.plan is not None else None
    change = "with that change" if fix else "that needs less"
    message = f"{before.message} Create a new DPOJob {change}. {GO_ON}"
    return Plan(
        Stage.STALLED, number, OperatorReason.DOES_NOT_FIT_HBM, message, requeue_after=STALLED_SECONDS
    )


def tried_again(job: DPOJob, number: int, view: CheckView, found: Verdict, now: datetime) -> Plan:
    """Return the plan of waiting for another Job after one that came to nothing."""
    ours = view.owner_uid == job.metadata.uid
    due = view.ended is not None and now >= view.ended + AGAIN
    actions = (Delete(Kind.PLAN, view.name, view.uid),) if ours and due else ()
    minutes = AGAIN.total_seconds() / 60
    message = (
        f"{found.message} It is tried again {minutes:.0f} minutes after its end, at once if Job {view.name} is deleted. "
        f"{GO_ON}"
    )
    return Plan(Stage.STALLED, number, OperatorReason.PLAN_UNKNOWN, message, actions, STALLED_SECONDS)


def refused(job: DPOJob, number: int, why: str) -> Plan:
    """Return the plan for a Job that the API server does not let be made: it plans nothing."""
    found = unknown(f"the API server refused Job {plan_name(job.metadata.name)}: {why}")
    if job.spec.plan.enforce is PlanEnforcement.REQUIRE:
        message = f"{found.message} {GO_ON}"
        return Plan(
            Stage.STALLED, number, OperatorReason.PLAN_UNKNOWN, message, requeue_after=STALLED_SECONDS
        )
    return Plan(Stage.PLANNING, number, OperatorReason.PLAN_UNKNOWN, found.message, requeue_after=0)


def verdict(job: DPOJob, view: CheckView | None, now: datetime) -> Verdict | None:
    """Return what a plan has come to, None while it goes on."""
    if view is None or view.deleting:
        return None
    if view.owner_uid != job.metadata.uid:
        return unknown(f"Job {view.name!r} exists and does not belong to this DPOJob: delete it.")
    result = view.result
    if result is not None and result.plan is not None:
        reason = OperatorReason.PLAN_FITS if result.plan.fits else OperatorReason.DOES_NOT_FIT_HBM
        return Verdict("True" if result.plan.fits else "False", reason, result.message, result.plan)
    if view.ended is not None:
        return unknown(result.message if result is not None else words.job_silent(view, "a word"))
    late = overdue(job, view, now)
    return unknown(late) if late is not None else None


def unknown(why: str) -> Verdict:
    """Return the verdict of a plan that came to nothing."""
    return Verdict("Unknown", OperatorReason.PLAN_UNKNOWN, f"Whether the job fits is not known: {why}")


def overdue(job: DPOJob, view: CheckView, now: datetime) -> str | None:
    """Return for what a Job is not waited for any longer; its pod may be late where nothing depends on it."""
    if view.created is None:
        return None
    age, allowed = (now - view.created).total_seconds(), job.spec.plan.timeout_seconds + START_SECONDS
    waits = view.pod is None or view.pod.starting
    if waits and age > START_SECONDS and job.spec.plan.enforce is PlanEnforcement.WARN:
        return f"its pod has not started within {START_SECONDS} s. {words.job_going(view, DOES)}"
    if age > allowed + GRACE_SECONDS:
        return f"Job {view.name} has not ended within {allowed} s."
    return None
