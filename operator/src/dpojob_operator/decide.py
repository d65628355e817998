"""From what is known to what to do: pure. ``reconcile`` carries the plan out, ``status`` tells about it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from dpojob_api import metrics
from dpojob_api.constants import MAX_ATTEMPT
from dpojob_api.reasons import OperatorReason, TrainerReason
from dpojob_api.result import find_result
from dpojob_api.v1alpha1 import DPOJob, shape_of
from dpojob_operator import history, words
from dpojob_operator.desired import configmap, metadata
from dpojob_operator.observed import Observed, Prerequisites, RayJobView
from dpojob_operator.policy import failure, loss, preflight
from dpojob_operator.settings import Settings

POLL_SECONDS = 5.0
"""While a run is observed; the trainer leaves its last numbers up for 20 s."""
STALLED_SECONDS = 15.0
CLEANING_SECONDS = 3.0

# After a loss the driver may still say why in better words; a driver on a lost head cannot.
HOST_GRACE = timedelta(seconds=60)
HEAD_GRACE = timedelta(seconds=15)
# KubeRay ends an attempt at its deadline; this much later the operator does, in case KubeRay does not run.
DEADLINE_GRACE = timedelta(seconds=60)


class Stage(Enum):
    """Where an attempt stands."""

    STALLED = auto()
    CLEANING = auto()
    CREATED = auto()
    STARTING = auto()
    RUNNING = auto()
    ENDING = auto()
    LOST = auto()
    FAILED = auto()
    SUCCEEDED = auto()


class Kind(Enum):
    """Kinds of objects that a plan touches."""

    CONFIG_MAP = auto()
    RAY_JOB = auto()
    RAY_CLUSTER = auto()


@dataclass(frozen=True)
class Apply:
    """Bring the attempt's ConfigMap to its desired state."""

    attempt: int


@dataclass(frozen=True)
class Create:
    """Create the attempt's RayJob."""

    attempt: int
    image: str


@dataclass(frozen=True)
class Delete:
    """Delete a child."""

    kind: Kind
    name: str


Action = Apply | Create | Delete


@dataclass(frozen=True)
class Plan:
    """What to do, what to tell and when to look again."""

    stage: Stage
    attempt: int
    reason: str
    message: str
    actions: tuple[Action, ...] = ()
    requeue_after: float | None = POLL_SECONDS


def decide(job: DPOJob, observed: Observed, settings: Settings, now: datetime) -> Plan:
    """Return what to do next about a job that has not ended."""
    number, ray_job = observed.attempt, observed.ray_job
    if ray_job is not None and ray_job.deleting:
        message = f"RayJob {ray_job.name} is being deleted."
        return Plan(
            Stage.CLEANING, number, OperatorReason.ATTEMPT_LOST, message, requeue_after=CLEANING_SECONDS
        )
    conflict = find_conflict(job, observed)
    if conflict is not None:
        return stalled(number, conflict)
    if ray_job is not None:
        return observe_attempt(job, observed, ray_job, now)
    if history.active_attempt(job.status) is not None:
        name = metadata.attempt_name(job.metadata.name, number)
        message = f"RayJob {name} was deleted by somebody else; a new attempt follows."
        return Plan(Stage.LOST, number, OperatorReason.ATTEMPT_LOST, message, requeue_after=0)
    return start(job, observed, settings)


def stalled(number: int, problem: preflight.Problem) -> Plan:
    """Return the plan of waiting for somebody to put something right."""
    return Plan(Stage.STALLED, number, problem.reason, problem.message, requeue_after=STALLED_SECONDS)


def find_conflict(job: DPOJob, observed: Observed) -> preflight.Problem | None:
    """Return whether an object with the attempt's name belongs to something else."""
    name = metadata.attempt_name(job.metadata.name, observed.attempt)
    # A run goes on whatever becomes of its ConfigMap; only a new attempt needs the name.
    config_map = observed.config_map if observed.ray_job is None else None
    children = {"RayJob": observed.ray_job, "ConfigMap": config_map}
    for kind, child in children.items():
        if child is not None and child.owner_uid != job.metadata.uid:
            message = f"{kind} {name!r} exists and does not belong to this DPOJob: delete it, or use another job name."
            return preflight.Problem(OperatorReason.NAME_CONFLICT, message)
    return None


def start(job: DPOJob, observed: Observed, settings: Settings) -> Plan:
    """Return the plan that leads to the attempt's RayJob: nothing missing, nothing left over, then create it."""
    number = observed.attempt
    if number > MAX_ATTEMPT:
        message = f"All {MAX_ATTEMPT} attempts are used; create a new DPOJob."
        return Plan(Stage.FAILED, MAX_ATTEMPT, OperatorReason.TOO_MANY_ATTEMPTS, message)
    leftovers = tuple(Delete(Kind.RAY_CLUSTER, c.name) for c in observed.ray_clusters if not c.deleting)
    if observed.ray_clusters or observed.old_pods:
        message = "Waiting for the pods of an earlier attempt to free the slice."
        return Plan(Stage.CLEANING, number, OperatorReason.ATTEMPT_LOST, message, leftovers, CLEANING_SECONDS)
    problem = preflight.find_problem(job, observed.prerequisites or Prerequisites(), settings)
    if problem is not None:
        return stalled(number, problem)
    name = metadata.attempt_name(job.metadata.name, number)
    image = preflight.trainer_image(job, settings)
    assert image is not None, "preflight has checked the image"
    return Plan(
        Stage.CREATED,
        number,
        OperatorReason.ATTEMPT_CREATED,
        f"RayJob {name} is created.",
        (Apply(number), Create(number, image)),
    )


def observe_attempt(job: DPOJob, observed: Observed, ray_job: RayJobView, now: datetime) -> Plan:
    """Return the plan for an attempt whose RayJob exists."""
    if has_ended(ray_job):
        return ended(job, observed, ray_job)
    repair = repairs(job, observed)
    lost = find_loss(job, observed, ray_job)
    if lost is not None:
        return ending(job, observed, lost, now, repair)
    overdue = find_overdue(job, observed, ray_job, now)
    if overdue is not None:
        return Plan(Stage.FAILED, observed.attempt, overdue.reason, overdue.message)
    if is_running(job, observed, ray_job):
        return Plan(
            Stage.RUNNING, observed.attempt, OperatorReason.TRAINING, "The trainer runs on all hosts.", repair
        )
    reason, message = waiting(job, observed, ray_job)
    return Plan(Stage.STARTING, observed.attempt, reason, message, repair)


def repairs(job: DPOJob, observed: Observed) -> tuple[Action, ...]:
    """Return what brings the attempt's ConfigMap back to its desired state."""
    desired = configmap.config_text(job, observed.attempt)
    found = observed.config_map
    if found is None or (found.owner_uid == job.metadata.uid and found.text != desired):
        return (Apply(observed.attempt),)
    return ()


def has_ended(ray_job: RayJobView) -> bool:
    """Return whether KubeRay has finished with a RayJob."""
    return ray_job.deployment_status in ("Complete", "Failed", "ValidationFailed")


def has_finished(job: DPOJob, observed: Observed) -> bool:
    """Return whether the trainer has reported a checked result."""
    return job.status.final_metrics is not None or (observed.scrape is not None and observed.scrape.finished)


def ended(job: DPOJob, observed: Observed, ray_job: RayJobView) -> Plan:
    """Return the plan for an attempt that KubeRay has finished with; success needs the trainer's word."""
    number = observed.attempt
    if ray_job.job_status == "SUCCEEDED":
        result = find_result(ray_job.message)
        if has_finished(job, observed) or (result is not None and result.reason is TrainerReason.SUCCEEDED):
            return succeeded(job, number)
        message = (
            f"RayJob {ray_job.name} succeeded, but the operator never saw the trainer's checked result; "
            f"look at {job.spec.output.uri} for what it wrote."
        )
        return Plan(Stage.FAILED, number, OperatorReason.RESULT_MISSING, message)
    why = failure.classify(ray_job, history.active_attempt(job.status), history.last_waiting(job.status))
    return Plan(Stage.FAILED, number, why.reason, why.message)


def succeeded(job: DPOJob, number: int) -> Plan:
    """Return the plan for a run that is checked and written."""
    return Plan(Stage.SUCCEEDED, number, OperatorReason.FINISHED, f"The model is in {job.spec.output.uri}.")


def find_loss(job: DPOJob, observed: Observed, ray_job: RayJobView) -> failure.Failure | None:
    """Return the loss of a pod; one that was seen before stays, a rebuilt slice does not bring the run back."""
    active = history.active_attempt(job.status)
    known = failure.known_loss(active)
    if known is not None:
        return known
    if ray_job.deployment_status != "Running" or ray_job.suspended:
        return None
    return loss.find_loss(observed, shape_of(job.spec).hosts, history.running_since(job.status))


def ending(
    job: DPOJob, observed: Observed, lost: failure.Failure, now: datetime, repair: tuple[Action, ...]
) -> Plan:
    """Return the plan after a loss: let the driver say why, then end the attempt."""
    if has_finished(job, observed):
        return succeeded(job, observed.attempt)
    active = history.active_attempt(job.status)
    since = active.end_time if active is not None and active.end_time is not None else now
    grace = HEAD_GRACE if lost.reason == OperatorReason.HEAD_LOST else HOST_GRACE
    stage = Stage.FAILED if now - since >= grace else Stage.ENDING
    return Plan(stage, observed.attempt, lost.reason, lost.message, repair)


def find_overdue(
    job: DPOJob, observed: Observed, ray_job: RayJobView, now: datetime
) -> failure.Failure | None:
    """Return the failure of an attempt that KubeRay should have ended at its deadline and has not."""
    if ray_job.suspended or ray_job.deployment_status not in ("", "Initializing"):
        return None
    # Time in Kueue's queue is not the attempt's: KubeRay sets its start time when it is admitted.
    begun = ray_job.started or (None if ray_job.queue else ray_job.created)
    limit = timedelta(seconds=job.spec.runtime.startup_deadline_seconds) + DEADLINE_GRACE
    if begun is None or now < begun + limit:
        return None
    return failure.startup_failure(history.last_waiting(job.status) or waiting(job, observed, ray_job)[1])


def is_running(job: DPOJob, observed: Observed, ray_job: RayJobView) -> bool:
    """Return whether the trainer runs on every host of the slice.

    The driver alone is not enough: it waits for hosts to join Ray, and KubeRay may still rebuild the slice then.
    """
    if ray_job.job_status != "RUNNING" or ray_job.suspended:
        return False
    begun = observed.scrape is not None and observed.scrape.progress.phase != metrics.PHASES[0]
    if not begun and history.running_since(job.status) is None:
        return False
    alive = {pod.host_index for pod in observed.hosts if pod.alive}
    return observed.head is not None and observed.head.alive and len(alive) == shape_of(job.spec).hosts


def waiting(job: DPOJob, observed: Observed, ray_job: RayJobView) -> tuple[str, str]:
    """Return reason and message of an attempt that is not running yet."""
    if ray_job.suspended:
        queue = f"Kueue admits it from queue {ray_job.queue!r}" if ray_job.queue else "somebody resumes it"
        return OperatorReason.ATTEMPT_CREATED, f"RayJob {ray_job.name} is suspended until {queue}."
    if ray_job.deployment_status == "" and not observed.pods:
        return (
            OperatorReason.ATTEMPT_CREATED,
            f"RayJob {ray_job.name} is created; KubeRay has not started it yet.",
        )
    return OperatorReason.WAITING_FOR_PODS, words.describe_waiting(observed, shape_of(job.spec).hosts)
