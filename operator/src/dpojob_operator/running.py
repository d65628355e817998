"""What to do about an attempt whose RayJob exists: let it run, stop it, or find out how it has ended. Pure."""

from datetime import datetime, timedelta

from dpojob_api import metrics
from dpojob_api.guards_spec import GuardAction
from dpojob_api.reasons import OperatorReason, TrainerReason
from dpojob_api.result import find_result
from dpojob_api.slice_spec import CapacityType
from dpojob_api.v1alpha1 import DPOJob, hosts_of, shape_of
from dpojob_operator import attempts, history, words
from dpojob_operator.desired import configmap
from dpojob_operator.desired.pods import GRACE_SECONDS
from dpojob_operator.observed import Observed, RayJobView
from dpojob_operator.plan import CLEANING_SECONDS, Action, Apply, Delete, Kind, Plan, Stage, Stop
from dpojob_operator.policy import failure, guards, halt, loss, queueing, retry, stall

# After a loss the driver may still say why in better words; a driver on a lost head cannot.
HOST_GRACE = timedelta(seconds=60)
HEAD_GRACE = timedelta(seconds=15)
# KubeRay ends an attempt at its deadline; this much later the operator does, in case KubeRay does not run.
DEADLINE_GRACE = timedelta(seconds=60)
# The pods' own grace period, and time for KubeRay and the kubelet.
STOP_GRACE = timedelta(seconds=GRACE_SECONDS + 60)


def observe_attempt(job: DPOJob, observed: Observed, ray_job: RayJobView, now: datetime) -> Plan:
    """Return the plan for an attempt whose RayJob exists."""
    if ray_job.ended:
        return ended(job, observed, ray_job, now)
    if ray_job.stop_time is not None:
        return stopping(job, observed, ray_job.stop_time, now)
    why_halt = halt.find_halt(job, now)
    if why_halt is not None and not has_finished(job, observed):
        return stop(observed, ray_job, why_halt)
    why_back = guards.find_rollback(job)
    if why_back is not None and not has_finished(job, observed):
        return rolled_back(observed.attempt, why_back)
    repair = repairs(job, observed)
    lost = find_loss(job, observed, ray_job)
    if lost is not None:
        return ending(job, observed, lost, now, repair)
    why_evicted = history.last_eviction(job.status) or queueing.find_eviction(job, observed, ray_job)
    if why_evicted is not None:
        return evicted(job, observed, ray_job, why_evicted)
    gone_wrong = find_overdue(job, observed, ray_job, now) or stall.find_stall(job, observed, now)
    if gone_wrong is not None:
        return over(job, observed, gone_wrong, now)
    if is_running(job, observed, ray_job):
        return Plan(
            Stage.RUNNING, observed.attempt, OperatorReason.TRAINING, "The trainer runs on all hosts.", repair
        )
    if ray_job.suspended and ray_job.queue:
        if has_finished(job, observed):
            return succeeded(job, observed.attempt)
        message = queueing.describe_queue(ray_job.queue, observed.workload)
        return Plan(Stage.QUEUED, observed.attempt, OperatorReason.QUEUED, message, repair)
    reason, message = waiting(job, observed, ray_job)
    return Plan(Stage.STARTING, observed.attempt, reason, message, repair)


def over(job: DPOJob, observed: Observed, why: failure.Failure, now: datetime, lost: bool = False) -> Plan:
    """Return the plan for an attempt that ended without a result: another one, or the end of the job.

    Args:
        lost: the RayJob is gone, so there is nothing to look at any more.
    """
    attempt = attempts.with_step(attempts.seen_attempt(job, observed, observed.attempt, now), why)
    verdict = retry.judge(job, why, attempt)
    if not verdict.retry:
        message = f"{why.message} {verdict.words}".rstrip()
        return Plan(Stage.FAILED, observed.attempt, why.reason, message, failure=why)
    message = f"Attempt {observed.attempt} ended as {why.reason}: {why.message} {verdict.words}."
    stage = Stage.LOST if lost else Stage.RETRYING
    reason = OperatorReason.ATTEMPT_LOST if lost else OperatorReason.BACKING_OFF
    return Plan(stage, observed.attempt, reason, message, requeue_after=0, failure=why)


def rolled_back(number: int, why: failure.Failure) -> Plan:
    """Return the plan of ending an attempt without letting it save: the deletion of its RayJob stops the driver first."""
    message = f"Attempt {number} ended as {why.reason}: {why.message}"
    return Plan(Stage.RETRYING, number, OperatorReason.BACKING_OFF, message, requeue_after=0, failure=why)


def stop(observed: Observed, ray_job: RayJobView, why: halt.Halt) -> Plan:
    """Return the plan of asking KubeRay to take the pods down; deleting the RayJob would let nobody save."""
    reason = why.reason if why.final else OperatorReason.SUSPENDING
    return Plan(
        Stage.STOPPING,
        observed.attempt,
        reason,
        f"{why.message} The hosts may save their step.",
        (Stop(ray_job.name, ray_job.uid),),
        CLEANING_SECONDS,
    )


def evicted(job: DPOJob, observed: Observed, ray_job: RayJobView, why: str) -> Plan:
    """Return the plan for an attempt that Kueue has suspended: it is stopped for good, and the next one queues.

    The eviction is in the status before the stop is asked for, so that it is known whenever the operator restarts.
    """
    if has_finished(job, observed):
        return succeeded(job, observed.attempt)
    if history.last_eviction(job.status) is None:
        return Plan(Stage.STOPPING, observed.attempt, OperatorReason.EVICTED_BY_KUEUE, why, requeue_after=0)
    actions = (Stop(ray_job.name, ray_job.uid),)
    return Plan(
        Stage.STOPPING, observed.attempt, OperatorReason.EVICTED_BY_KUEUE, why, actions, CLEANING_SECONDS
    )


def stopping(job: DPOJob, observed: Observed, since: datetime, now: datetime) -> Plan:
    """Return the plan for an attempt that was asked to stop; a change of mind leads to the next attempt."""
    if has_finished(job, observed):
        return succeeded(job, observed.attempt)
    why = halt.find_halt(job, now)
    eviction = history.last_eviction(job.status)
    # Kueue starts a RayJob that it has admitted again; what is younger than the stop is not waited for.
    created = [pod.created for pod in observed.pods] + [c.created for c in observed.ray_clusters]
    if any(time is None or time <= since for time in created) and now < since + STOP_GRACE:
        reason = why.reason if why is not None and why.final else OperatorReason.SUSPENDING
        message = "Waiting for the hosts to save their step and for their pods to go."
        if why is None and eviction is not None:
            reason, message = OperatorReason.EVICTED_BY_KUEUE, eviction
        return Plan(Stage.STOPPING, observed.attempt, reason, message, requeue_after=CLEANING_SECONDS)
    if why is not None and why.final:
        return Plan(Stage.FAILED, observed.attempt, why.reason, why.message)
    return stopped(observed.attempt, why, eviction)


def stopped(number: int, why: halt.Halt | None, eviction: str | None) -> Plan:
    """Return the plan for an attempt that has ended because it was asked to."""
    if why is None and eviction is not None:
        reason = OperatorReason.EVICTED_BY_KUEUE
        return Plan(Stage.STOPPED, number, reason, eviction, requeue_after=0)
    reason = OperatorReason.SUSPENDING if why is not None else OperatorReason.RELEASING_SLICE
    message = why.message if why is not None else "The attempt was stopped; the next one goes on."
    return Plan(Stage.STOPPED, number, reason, message, requeue_after=0)


def repairs(job: DPOJob, observed: Observed) -> tuple[Action, ...]:
    """Return what brings the attempt's ConfigMap back to its desired state and removes what earlier attempts left."""
    desired = configmap.config_text(job, observed.attempt)
    found = observed.config_map
    strays = leftovers(observed, observed.attempt)
    if found is None or (found.owner_uid == job.metadata.uid and found.text != desired):
        return (Apply(observed.attempt, found is None), *strays)
    return strays


def leftovers(observed: Observed, attempt: int) -> tuple[Delete, ...]:
    """Return the removal of what attempts before this one left and what can still hold the slice."""
    jobs = [Delete(Kind.RAY_JOB, r.name, r.uid) for r in observed.live_ray_jobs if not r.deleting]
    clusters = [
        Delete(Kind.RAY_CLUSTER, c.name)
        for c in observed.ray_clusters
        if not c.deleting and c.attempt is not None and c.attempt < attempt
    ]
    return (*jobs, *clusters)


def has_finished(job: DPOJob, observed: Observed) -> bool:
    """Return whether the trainer has reported a checked result."""
    return job.status.final_metrics is not None or (observed.scrape is not None and observed.scrape.finished)


def ended(job: DPOJob, observed: Observed, ray_job: RayJobView, now: datetime) -> Plan:
    """Return the plan for an attempt that KubeRay has finished with; success needs the trainer's word.

    A run that has said that it is checked and written is one, however its driver ends.
    """
    number = observed.attempt
    result = find_result(ray_job.message)
    if has_finished(job, observed) or (result is not None and result.reason is TrainerReason.SUCCEEDED):
        return succeeded(job, number)
    if ray_job.job_status == "SUCCEEDED":
        message = (
            f"RayJob {ray_job.name} succeeded, but the operator never saw the trainer's checked result; "
            f"look at {job.spec.output.uri} for what it wrote."
        )
        return over(job, observed, failure.Failure(OperatorReason.RESULT_MISSING, message), now)
    why = failure.classify(ray_job, history.active_attempt(job.status), history.last_waiting(job.status))
    if ray_job.stop_time is not None and why.reason == TrainerReason.PREEMPTED:
        return stopped(number, halt.find_halt(job, now), history.last_eviction(job.status))
    if guards.is_judged(job, why):
        # The verdict is in the status before it is acted on.
        return Plan(Stage.ENDING, number, why.reason, why.message, requeue_after=0, failure=why)
    return judged_end(job, number, why) or over(job, observed, why, now)


def judged_end(job: DPOJob, number: int, why: failure.Failure) -> Plan | None:
    """Return the plan for an end that a guard has judged, None if it is an end like others."""
    broken = guards.find_broken(job)
    if broken is None or broken.reason != why.reason or broken.action is GuardAction.FAIL:
        return None
    back = guards.find_rollback(job)
    if back is not None:
        return rolled_back(number, back)
    return Plan(Stage.STOPPED, number, why.reason, why.message, requeue_after=0, failure=why)


def succeeded(job: DPOJob, number: int) -> Plan:
    """Return the plan for a run that is checked and written."""
    return Plan(Stage.SUCCEEDED, number, OperatorReason.FINISHED, f"The model is in {job.spec.output.uri}.")


def find_loss(job: DPOJob, observed: Observed, ray_job: RayJobView) -> failure.Failure | None:
    """Return the loss of a pod; one that was seen before stays, a rebuilt slice does not bring the run back."""
    known = failure.known_loss(history.active_attempt(job.status))
    if known is not None:
        return known
    if ray_job.deployment_status != "Running" or ray_job.suspended:
        return None
    spot = job.spec.accelerator.capacity.type is CapacityType.SPOT
    hosts, slices = shape_of(job.spec).hosts, job.spec.accelerator.slices
    return loss.find_loss(observed, hosts, history.running_since(job.status), spot, slices)


def ending(
    job: DPOJob, observed: Observed, lost: failure.Failure, now: datetime, repair: tuple[Action, ...]
) -> Plan:
    """Return the plan after a loss: let the driver say why, then end the attempt."""
    if has_finished(job, observed):
        return succeeded(job, observed.attempt)
    active = history.active_attempt(job.status)
    since = active.end_time if active is not None and active.end_time is not None else now
    if now - since >= grace_of(observed, lost):
        return over(job, observed, lost, now)
    return Plan(Stage.ENDING, observed.attempt, lost.reason, lost.message, repair, failure=lost)


def grace_of(observed: Observed, lost: failure.Failure) -> timedelta:
    """Return how long to wait after a loss; hosts that terminate may be saving, and the end of the RayJob stops them."""
    if any(pod.deleting and pod.phase == "Running" and pod.ended is None for pod in observed.pods):
        return STOP_GRACE
    return HEAD_GRACE if lost.reason == OperatorReason.HEAD_LOST else HOST_GRACE


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
    alive = {pod.place for pod in observed.hosts if pod.alive}
    return observed.head is not None and observed.head.alive and len(alive) == hosts_of(job.spec)


def waiting(job: DPOJob, observed: Observed, ray_job: RayJobView) -> tuple[str, str]:
    """Return reason and message of an attempt that is not running yet."""
    if ray_job.suspended:
        return (
            OperatorReason.ATTEMPT_CREATED,
            f"RayJob {ray_job.name} is suspended until somebody resumes it.",
        )
    if ray_job.deployment_status == "" and not observed.pods:
        return (
            OperatorReason.ATTEMPT_CREATED,
            f"RayJob {ray_job.name} is created; KubeRay has not started it yet.",
        )
    return OperatorReason.WAITING_FOR_PODS, words.describe_waiting(observed, hosts_of(job.spec))
