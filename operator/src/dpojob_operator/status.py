"""From the plan to ``DPOJob.status``: pure. ``lastTransitionTime`` moves only when a condition's status flips."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from dpojob_api.constants import OUTPUT_MODEL
from dpojob_api.reasons import DATA_REASONS, ConditionType, OperatorReason
from dpojob_api.spec import ExportFormat
from dpojob_api.status import AttemptStatus, Condition, DPOJobStatus, OutputStatus
from dpojob_api.v1alpha1 import DPOJob, plan_of
from dpojob_operator import words
from dpojob_operator.decide import Plan, Stage
from dpojob_operator.desired import metadata
from dpojob_operator.observed import Observed

MAX_ATTEMPTS_KEPT = 20
MAX_MESSAGE = 4000

Truth = Literal["True", "False", "Unknown"]
Outcome = Literal["Active", "Succeeded", "Failed", "Lost"]

SUMMARY: dict[Stage, str] = {
    Stage.STALLED: "Stalled",
    Stage.CLEANING: "Starting",
    Stage.CREATED: "Starting",
    Stage.STARTING: "Starting",
    Stage.RUNNING: "Running",
    Stage.ENDING: "Failing",
    Stage.LOST: "Starting",
    Stage.FAILED: "Failed",
    Stage.SUCCEEDED: "Complete",
}
OUTCOME: dict[Stage, Outcome] = {
    Stage.LOST: "Lost",
    Stage.FAILED: "Failed",
    Stage.SUCCEEDED: "Succeeded",
}
# Stages that are reached before the attempt's RayJob exists.
BEFORE_ATTEMPT = frozenset({Stage.STALLED, Stage.CLEANING})
FINAL = frozenset({Stage.FAILED, Stage.SUCCEEDED})


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
    return DPOJobStatus(
        observed_generation=job.metadata.generation,
        summary=SUMMARY[plan.stage],
        conditions=next_conditions(
            old.conditions, facts(plan) + data_facts(old, plan, observed), job.metadata.generation, now
        ),
        plan=plan_of(job.spec),
        attempt=attempts[-1].number if attempts else None,
        attempts=attempts,
        progress=observed.scrape.progress if observed.scrape else old.progress,
        final_metrics=observed.scrape.final
        if observed.scrape and observed.scrape.finished
        else old.final_metrics,
        output=next_output(job, plan),
        start_time=old.start_time or now,
        completion_time=now if plan.stage in FINAL else None,
    )


def invalid_status(
    conditions: list[Condition], generation: int, message: str, now: datetime
) -> list[Condition]:
    """Return the conditions of an object that this version of the contract cannot read."""
    plan = Plan(Stage.STALLED, 1, OperatorReason.INVALID_SPEC, message)
    return next_conditions(conditions, facts(plan), generation, now)


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
    if observed.scrape is not None and observed.scrape.pairs is not None:
        message = words.describe_pairs(observed.scrape.pairs)
        return [Fact(ConditionType.DATA_VALID, "True", OperatorReason.DATA_ACCEPTED, message)]
    known = (condition for condition in old.conditions if condition.type == ConditionType.DATA_VALID)
    return [Fact(ConditionType.DATA_VALID, found.status, found.reason, found.message) for found in known]


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


def next_attempts(job: DPOJob, plan: Plan, observed: Observed, now: datetime) -> list[AttemptStatus]:
    """Return the attempts with the plan's one added or brought up to date."""
    old = job.status.attempts
    if plan.stage in BEFORE_ATTEMPT or (plan.stage is Stage.FAILED and not is_made(old, plan, observed)):
        return old
    known = next((attempt for attempt in old if attempt.number == plan.attempt), None)
    created = observed.ray_job.created if observed.ray_job else None
    has_end = plan.stage in (Stage.ENDING, Stage.LOST, *FINAL)
    attempt = AttemptStatus(
        number=plan.attempt,
        ray_job=metadata.attempt_name(job.metadata.name, plan.attempt),
        outcome=OUTCOME.get(plan.stage, "Active"),
        reason=str(plan.reason) if has_end else None,
        message=words.shortened(plan.message, MAX_MESSAGE) if has_end else None,
        start_time=known.start_time if known else created or now,
        end_time=(known.end_time if known and known.end_time else now) if has_end else None,
    )
    others = [other for other in old if other.number != plan.attempt]
    return [*others, attempt][-MAX_ATTEMPTS_KEPT:]


def is_made(old: list[AttemptStatus], plan: Plan, observed: Observed) -> bool:
    """Return whether the plan's attempt exists or has existed and is not settled."""
    settled = any(attempt.number == plan.attempt and attempt.outcome != "Active" for attempt in old)
    return not settled and (observed.ray_job is not None or any(a.number == plan.attempt for a in old))


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
