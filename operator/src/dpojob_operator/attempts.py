"""``status.attempts`` after a reconcile: what is known of the newest attempt, and what a resume has cost. Pure."""

from datetime import datetime
from typing import Literal

from dpojob_api.reasons import OperatorReason
from dpojob_api.status import AttemptStatus, RetriesStatus
from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator import words
from dpojob_operator.desired import metadata
from dpojob_operator.observed import Observed
from dpojob_operator.plan import Plan, Stage
from dpojob_operator.policy.failure import Failure

MAX_ATTEMPTS_KEPT = 20
MAX_MESSAGE = 4000

Outcome = Literal["Active", "Succeeded", "Failed", "Lost", "Stopped"]
OUTCOME: dict[Stage, Outcome] = {
    Stage.STOPPED: "Stopped",
    Stage.LOST: "Lost",
    Stage.RETRYING: "Failed",
    Stage.FAILED: "Failed",
    Stage.SUCCEEDED: "Succeeded",
}
# Stages in which the plan's attempt has no RayJob yet.
BEFORE_ATTEMPT = frozenset(
    {Stage.CHECKING, Stage.PLANNING, Stage.STALLED, Stage.CLEANING, Stage.BACKING_OFF, Stage.SUSPENDED}
)
# The attempt's own reason where the job's is about what comes next.
REASON: dict[str, str] = {
    OperatorReason.SUSPENDING: OperatorReason.SUSPENDED,
    OperatorReason.RELEASING_SLICE: OperatorReason.SUSPENDED,
}
FOLLOWED = frozenset({Stage.LOST, Stage.RETRYING})


def next_attempts(job: DPOJob, plan: Plan, observed: Observed, now: datetime) -> list[AttemptStatus]:
    """Return the attempts with the plan's one added or brought up to date."""
    old = job.status.attempts
    if plan.stage in BEFORE_ATTEMPT or (plan.stage is Stage.FAILED and not is_made(old, plan, observed)):
        return old
    attempt = with_end(seen_attempt(job, observed, plan.attempt, now), plan, now)
    others = [other for other in old if other.number != plan.attempt]
    before = find_attempt(old, plan.attempt)
    if attempt.from_step is not None and (before is None or before.from_step is None):
        others = with_recovery(others, attempt.from_step, now)
    return [*others, attempt][-MAX_ATTEMPTS_KEPT:]


def find_attempt(attempts: list[AttemptStatus], number: int) -> AttemptStatus | None:
    """Return an attempt by number."""
    return next((attempt for attempt in attempts if attempt.number == number), None)


def is_made(old: list[AttemptStatus], plan: Plan, observed: Observed) -> bool:
    """Return whether the plan's attempt exists or has existed and is not settled."""
    known = find_attempt(old, plan.attempt)
    return observed.ray_job is not None if known is None else known.outcome == "Active"


def seen_attempt(job: DPOJob, observed: Observed, number: int, now: datetime) -> AttemptStatus:
    """Return an attempt with what is observed of it, not ended."""
    known = find_attempt(job.status.attempts, number)
    created = observed.ray_job.created if observed.ray_job else None
    from_step, to_step = steps_of(known, observed)
    return AttemptStatus(
        number=number,
        ray_job=metadata.attempt_name(job.metadata.name, number),
        outcome="Active",
        start_time=known.start_time if known else created or now,
        slice_time=known.slice_time if known and known.slice_time else slice_time(observed, now),
        from_step=from_step,
        to_step=to_step,
        end_time=known.end_time if known else None,
    )


def slice_time(observed: Observed, now: datetime) -> datetime | None:
    """Return when the first host got its node, None while none has."""
    return min((min(pod.placed_at or now, now) for pod in observed.hosts if pod.node), default=None)


def steps_of(known: AttemptStatus | None, observed: Observed) -> tuple[int | None, int | None]:
    """Return the steps between which an attempt has been seen, None while it has not trained."""
    from_step = known.from_step if known else None
    to_step = known.to_step if known else None
    scrape = observed.scrape
    if scrape is not None and scrape.resumed_step is not None:
        from_step = scrape.resumed_step
        to_step = max(to_step or 0, scrape.progress.step, from_step)
    return from_step, to_step


def with_end(attempt: AttemptStatus, plan: Plan, now: datetime) -> AttemptStatus:
    """Return an attempt with the end that a plan stands for, if it does."""
    outcome = OUTCOME.get(plan.stage, "Active")
    if outcome == "Active" and plan.stage is not Stage.ENDING:
        return attempt.model_copy(update={"end_time": None})
    why = plan.failure
    fields = {
        "outcome": outcome,
        "reason": str(why.reason if why else REASON.get(plan.reason, plan.reason)),
        "message": words.shortened(why.message if why else plan.message, MAX_MESSAGE),
        "failure_class": why.failure_class if why else None,
        "host": why.host if why else None,
        "end_time": attempt.end_time or now,
    }
    return with_step(attempt.model_copy(update=fields), why)


def with_step(attempt: AttemptStatus, why: Failure | None) -> AttemptStatus:
    """Return an attempt with the last step in the trainer's own words, if those go further than what was read."""
    if why is None or why.step is None:
        return attempt
    return attempt.model_copy(update={"to_step": max(attempt.to_step or 0, why.step)})


def with_recovery(attempts: list[AttemptStatus], from_step: int, now: datetime) -> list[AttemptStatus]:
    """Return the attempts after another one has begun to train: the newest that trained knows what its end cost."""
    trained = [a for a in attempts if a.to_step is not None]
    if not trained or trained[-1].steps_lost is not None:
        return attempts
    last = trained[-1]
    update: dict[str, int] = {"steps_lost": max(0, (last.to_step or 0) - from_step)}
    if last.outcome != "Stopped" and last.end_time is not None:
        update["recovery_seconds"] = max(0, round((now - last.end_time).total_seconds()))
    return [a.model_copy(update=update) if a.number == last.number else a for a in attempts]


def next_retries(job: DPOJob, plan: Plan) -> RetriesStatus | None:
    """Return the retries used, with the one that a plan announces."""
    old = job.status.retries
    if plan.stage not in FOLLOWED or plan.failure is None:
        return old
    kind = plan.failure.failure_class
    used = old or RetriesStatus()
    return used.model_copy(update={kind.field: used.of(kind) + 1})
