"""From the plan to ``DPOJob.status``: pure. ``lastTransitionTime`` moves only when a condition's status flips."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dpojob_api.constants import OUTPUT_MODEL
from dpojob_api.reasons import DATA_REASONS, ConditionType, OperatorReason
from dpojob_api.result import find_result
from dpojob_api.spec import ExportFormat
from dpojob_api.status import (
    Condition,
    DPOJobStatus,
    FinalMetrics,
    OutputStatus,
    PlanEstimate,
    PlanStatus,
    ProgressStatus,
    Truth,
)
from dpojob_api.v1alpha1 import DPOJob, plan_of
from dpojob_operator import checking, history, ledger, planning, words
from dpojob_operator.attempts import MAX_MESSAGE, next_attempts, next_retries
from dpojob_operator.observed import Observed
from dpojob_operator.plan import FINAL, Plan, Stage
from dpojob_operator.policy import advice, drift, guards

SUMMARY: dict[Stage, str] = {
    Stage.STALLED: "Stalled",
    Stage.CLEANING: "Starting",
    Stage.BACKING_OFF: "Retrying",
    Stage.SUSPENDED: "Suspended",
    Stage.QUEUED: "Queued",
    Stage.CHECKING: "Checking",
    Stage.PLANNING: "Planning",
    Stage.CREATED: "Starting",
    Stage.STARTING: "Starting",
    Stage.RUNNING: "Running",
    Stage.ENDING: "Failing",
    Stage.STOPPING: "Stopping",
    Stage.STOPPED: "Stopping",
    Stage.LOST: "Retrying",
    Stage.RETRYING: "Retrying",
    Stage.FAILED: "Failed",
    Stage.SUCCEEDED: "Complete",
}


@dataclass(frozen=True)
class Fact:
    """A condition without its bookkeeping."""

    type: ConditionType
    status: Truth
    reason: str
    message: str


def next_status(job: DPOJob, plan: Plan, observed: Observed, now: datetime) -> DPOJobStatus:
    """Return the status after a plan has been carried out.

    Args:
        now: the time, in whole seconds as Kubernetes keeps it.
    """
    old = job.status
    attempts = next_attempts(job, plan, observed, now)
    new = DPOJobStatus(
        observed_generation=job.metadata.generation,
        summary=summary_of(plan),
        conditions=next_conditions(
            old.conditions,
            facts(plan)
            + data_facts(old, plan, observed)
            + plan_facts(job, plan, observed, now)
            + drift_facts(old, observed)
            + advice_facts(job),
            job.metadata.generation,
            now,
        ),
        plan=next_plan(job, observed, now),
        attempt=attempts[-1].number if attempts else None,
        attempts=attempts,
        retries=next_retries(job, plan),
        ledger=old.ledger,
        suspended_seconds=old.suspended_seconds
        if plan.stage is Stage.SUSPENDED
        else history.suspended_seconds(old, now),
        progress=next_progress(old.progress, observed, now),
        final_metrics=next_final(old, plan, observed),
        guards=guards.next_state(job, observed, plan.failure),
        output=next_output(job, plan),
        start_time=old.start_time or now,
        completion_time=now if plan.stage in FINAL else None,
    )
    return new.model_copy(update={"ledger": ledger.next_ledger(job, plan, observed, new, now)})


def invalid_status(
    conditions: list[Condition], generation: int, message: str, now: datetime
) -> list[Condition]:
    """Return the conditions of an object that this version of the contract cannot read."""
    plan = Plan(Stage.STALLED, 1, OperatorReason.INVALID_SPEC, message)
    return next_conditions(conditions, facts(plan), generation, now)


def summary_of(plan: Plan) -> str:
    """Return the one word for display."""
    return "Suspending" if plan.reason == OperatorReason.SUSPENDING else SUMMARY[plan.stage]


def next_progress(old: ProgressStatus | None, observed: Observed, now: datetime) -> ProgressStatus | None:
    """Return the newest numbers, and since when step and phase have been the same."""
    if observed.scrape is None:
        return old
    new = observed.scrape.progress
    same = old is not None and (old.step, old.phase) == (new.step, new.phase)
    since = old.change_time if same and old is not None and old.change_time is not None else now
    return new.model_copy(update={"change_time": since})


def facts(plan: Plan) -> list[Fact]:
    """Return the conditions that a plan stands for."""
    match plan.stage:
        case Stage.SUCCEEDED:
            return [
                Fact(ConditionType.COMPLETE, "True", plan.reason, plan.message),
                Fact(ConditionType.FAILED, "False", plan.reason, "The job has not failed."),
                not_running("The trainer has ended."),
            ]
        case Stage.FAILED:
            return [
                Fact(ConditionType.COMPLETE, "False", plan.reason, "The job has failed."),
                Fact(ConditionType.FAILED, "True", plan.reason, plan.message),
                Fact(ConditionType.STALLED, "True", plan.reason, plan.message),
                not_running("The trainer has ended."),
            ]
        case Stage.RUNNING:
            return [*unfinished(), Fact(ConditionType.RUNNING, "True", plan.reason, plan.message)]
        case Stage.STALLED:
            return [
                *unfinished(),
                not_running("The attempt cannot be made yet."),
                Fact(ConditionType.STALLED, "True", plan.reason, plan.message),
            ]
        case Stage.SUSPENDED:
            return [
                *unfinished(),
                not_running("The job is suspended."),
                Fact(ConditionType.SUSPENDED, "True", plan.reason, plan.message),
            ]
        case Stage.QUEUED:
            return [
                *unfinished(),
                not_running("Kueue holds the job back."),
                Fact(ConditionType.RECONCILING, "True", plan.reason, plan.message),
                Fact(ConditionType.QUEUED, "True", plan.reason, plan.message),
            ]
        case Stage.ENDING:
            return [
                *unfinished(),
                Fact(ConditionType.RUNNING, "False", plan.reason, plan.message),
                Fact(
                    ConditionType.RECONCILING,
                    "True",
                    plan.reason,
                    f"{plan.message} Waiting for the driver.",
                ),
            ]
        case _:
            return [
                *unfinished(),
                not_running("No trainer is running yet."),
                Fact(ConditionType.RECONCILING, "True", plan.reason, plan.message),
            ]


def unfinished() -> list[Fact]:
    """Return the final conditions of a job that goes on."""
    message = "The job has not ended."
    return [
        Fact(ConditionType.COMPLETE, "False", OperatorReason.NOT_FINISHED, message),
        Fact(ConditionType.FAILED, "False", OperatorReason.NOT_FINISHED, message),
    ]


def not_running(message: str) -> Fact:
    """Return the Running condition while no trainer runs."""
    return Fact(ConditionType.RUNNING, "False", OperatorReason.NOT_RUNNING, message)


def data_facts(old: DPOJobStatus, plan: Plan, observed: Observed) -> list[Fact]:
    """Return the DataValid condition: what is known now, else what was known before, else nothing."""
    if plan.stage is Stage.FAILED and plan.reason in DATA_REASONS:
        return [Fact(ConditionType.DATA_VALID, "False", plan.reason, plan.message)]
    pairs = (observed.scrape.pairs if observed.scrape else None) or checking.accepted_pairs(observed.check)
    if pairs is not None:
        message = words.describe_pairs(pairs)
        return [Fact(ConditionType.DATA_VALID, "True", OperatorReason.DATA_ACCEPTED, message)]
    known = (condition for condition in old.conditions if condition.type == ConditionType.DATA_VALID)
    return [Fact(ConditionType.DATA_VALID, found.status, found.reason, found.message) for found in known]


def plan_facts(job: DPOJob, plan: Plan, observed: Observed, now: datetime) -> list[Fact]:
    """Return the FitsHBM condition: what is found out now, else what was known before, else nothing."""
    if plan.reason == OperatorReason.PLAN_UNKNOWN:
        return [Fact(ConditionType.FITS_HBM, "Unknown", plan.reason, plan.message)]
    found, before = planning.verdict(job, observed.planner, now), planning.known(job)
    if found is not None:
        return [Fact(ConditionType.FITS_HBM, found.status, found.reason, found.message)]
    return (
        [Fact(ConditionType.FITS_HBM, before.status, before.reason, before.message)]
        if before is not None
        else []
    )


def next_plan(job: DPOJob, observed: Observed, now: datetime) -> PlanStatus:
    """Return what the spec resolves to, with what a plan has found about it."""
    verdict = planning.verdict(job, observed.planner, now)
    found = verdict.found if verdict is not None and verdict.found is not None else job.status.plan
    estimate = {name: getattr(found, name, None) for name in PlanEstimate.model_fields}
    return plan_of(job.spec).model_copy(update=estimate)


def drift_facts(old: DPOJobStatus, observed: Observed) -> list[Fact]:
    """Return the PlanDrift condition if there is something to warn of."""
    values = observed.scrape.values if observed.scrape is not None else {}
    found = drift.find_drift(old.plan, values, history.condition_of(old, ConditionType.PLAN_DRIFT))
    return [Fact(ConditionType.PLAN_DRIFT, "True", *found)] if found else []


def advice_facts(job: DPOJob) -> list[Fact]:
    """Return the Discouraged condition if there is something to warn of."""
    found = advice.discouraged(job.spec)
    return [Fact(ConditionType.DISCOURAGED, "True", *found)] if found else []


def next_conditions(old: list[Condition], new: list[Fact], generation: int, now: datetime) -> list[Condition]:
    """Return conditions with their bookkeeping; those that are not among the facts are dropped."""
    before = {condition.type: condition for condition in old}
    return [condition_from(fact, before.get(fact.type), generation, now) for fact in new]


def condition_from(fact: Fact, old: Condition | None, generation: int, now: datetime) -> Condition:
    """Return one condition; its time is the old one's unless its status flips."""
    kept = old is not None and old.status == fact.status
    return Condition(
        type=fact.type.value,
        status=fact.status,
        reason=str(fact.reason),
        message=words.shortened(fact.message, MAX_MESSAGE),
        last_transition_time=old.last_transition_time if old is not None and kept else now,
        observed_generation=generation,
    )


def next_final(old: DPOJobStatus, plan: Plan, observed: Observed) -> FinalMetrics | None:
    """Return the finished run's numbers; of one that ended before they were recorded the result line has the step."""
    if observed.scrape is not None and observed.scrape.finished:
        return observed.scrape.final
    result = find_result(observed.ray_job.message) if observed.ray_job is not None else None
    if old.final_metrics is None and plan.stage is Stage.SUCCEEDED and result is not None:
        return FinalMetrics(step=result.step or 0)
    return old.final_metrics


def next_output(job: DPOJob, plan: Plan) -> OutputStatus:
    """Return where results are; the model only once it has been written."""
    uri = job.spec.output.uri
    written = plan.stage is Stage.SUCCEEDED and job.spec.output.export_format is not ExportFormat.NONE
    return OutputStatus(uri=uri, model=f"{uri.rstrip('/')}/{OUTPUT_MODEL}" if written else None)


def merge_patch(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON merge patch (RFC 7396) from one object to another; empty if they are equal."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            inner = merge_patch(before, value)
            if inner:
                patch[key] = inner
        elif key not in old or before != value:
            patch[key] = value
    return patch
