"""From the API server's JSON to the frozen views of ``observed``. Nothing here fails on a missing or odd field."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from dpojob_api import constants
from dpojob_api.result import find_result
from dpojob_operator.observed import (
    CheckView,
    ConfigMapView,
    PodView,
    QuotaView,
    RayClusterView,
    RayJobView,
    Termination,
    WorkloadView,
)

LABEL_HOST_INDEX = "ray.io/replica-host-index"
LABEL_ORIGIN = "ray.io/originated-from-cr-name"
LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
LABEL_JOB_UID = "kueue.x-k8s.io/job-uid"

# Ordinary stages of a start; every other waiting reason is a complaint.
QUIET_REASONS = frozenset({"ContainerCreating", "PodInitializing"})

Json = Mapping[str, Any]


def parse_time(text: object) -> datetime | None:
    """Return an RFC 3339 time, None for anything else, such as one without its offset from UTC."""
    if not isinstance(text, str):
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo is not None else None


def parse_int(text: object) -> int | None:
    """Return a decimal number, None for anything else."""
    return int(text) if isinstance(text, str) and text.isdecimal() else None


def labels_of(body: Json) -> dict[str, str]:
    """Return an object's labels."""
    return dict(body.get("metadata", {}).get("labels") or {})


def controller_uid(body: Json) -> str | None:
    """Return the uid of an object's controller."""
    owners = body.get("metadata", {}).get("ownerReferences") or []
    return next((owner.get("uid") for owner in owners if owner.get("controller")), None)


def is_deleting(body: Json) -> bool:
    """Return whether deletion of an object has begun."""
    return bool(body.get("metadata", {}).get("deletionTimestamp"))


def ray_job(body: Json) -> RayJobView:
    """Read a RayJob."""
    meta, spec, status = body.get("metadata", {}), body.get("spec") or {}, body.get("status") or {}
    return RayJobView(
        name=meta.get("name", ""),
        owner_uid=controller_uid(body),
        uid=meta.get("uid", ""),
        created=parse_time(meta.get("creationTimestamp")),
        started=parse_time(status.get("startTime")),
        ended_at=parse_time(status.get("endTime")),
        deleting=is_deleting(body),
        suspended=bool(spec.get("suspend")),
        stop_time=parse_time((meta.get("annotations") or {}).get(constants.ANNOTATION_STOP)),
        queue=labels_of(body).get(LABEL_QUEUE),
        job_status=status.get("jobStatus", ""),
        deployment_status=status.get("jobDeploymentStatus", ""),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
    )


def ray_cluster(body: Json) -> RayClusterView:
    """Read a RayCluster."""
    conditions = (body.get("status") or {}).get("conditions") or []
    failure = next(
        (
            c.get("message")
            for c in conditions
            if c.get("type") == "ReplicaFailure" and c.get("status") == "True"
        ),
        None,
    )
    return RayClusterView(
        name=body.get("metadata", {}).get("name", ""),
        attempt=parse_int(labels_of(body).get(constants.LABEL_ATTEMPT)),
        deleting=is_deleting(body),
        created=parse_time(body.get("metadata", {}).get("creationTimestamp")),
        failure=failure,
    )


def workload(body: Json) -> WorkloadView:
    """Read a Workload of Kueue; v1beta1 and v1beta2 are alike in what is read here."""
    spec, status = body.get("spec") or {}, body.get("status") or {}
    conditions = {c.get("type"): c for c in status.get("conditions") or []}
    quota, evicted = conditions.get("QuotaReserved", {}), conditions.get("Evicted", {})
    reserved = quota.get("status") == "True"
    waiting = [c for c in status.get("admissionChecks") or [] if c.get("state") != "Ready"]
    checks = [joined(c.get("name"), c.get("message") or c.get("state")) or "" for c in waiting]
    return WorkloadView(
        name=body.get("metadata", {}).get("name", ""),
        queue=spec.get("queueName", ""),
        active=spec.get("active") is not False,
        reserved=reserved,
        pending="" if reserved else joined(quota.get("reason"), quota.get("message")) or "",
        checks="; ".join(checks),
        evicted=(joined(evicted.get("reason"), evicted.get("message")) or "")
        if evicted.get("status") == "True"
        else "",
    )


def queue_order(bodies: Sequence[Json]) -> dict[str, tuple[str, ...]]:
    """Return the names of the Workloads that wait, by queue, in the order in which Kueue looks at them.

    That is by priority, then by age (Kueue's documentation of ClusterQueue, "queueing strategy").
    """
    ordered: dict[str, list[str]] = {}
    for body in sorted(filter(waits_for_quota, bodies), key=queue_rank):
        queue = (body.get("spec") or {}).get("queueName", "")
        ordered.setdefault(queue, []).append(body["metadata"]["name"])
    return {queue: tuple(names) for queue, names in ordered.items()}


def waits_for_quota(body: Json) -> bool:
    """Return whether a Workload has no quota and may get some."""
    spec, status = body.get("spec") or {}, body.get("status") or {}
    true = {c.get("type") for c in status.get("conditions") or [] if c.get("status") == "True"}
    return (
        spec.get("active") is not False and not is_deleting(body) and not true & {"QuotaReserved", "Finished"}
    )


def queue_rank(body: Json) -> tuple[int, str, str]:
    """Return what orders Workloads in a queue, the smallest first."""
    meta, priority = body.get("metadata", {}), (body.get("spec") or {}).get("priority") or 0
    return -priority, meta.get("creationTimestamp", ""), meta.get("name", "")


def check(body: Json, pods: Sequence[Json]) -> CheckView:
    """Read a Job that comes before the slice, and the result in its newest pod's termination message."""
    meta, conditions = body.get("metadata", {}), (body.get("status") or {}).get("conditions") or []
    true = {c.get("type"): c for c in conditions if c.get("status") == "True"}
    end = true.get("Complete") or true.get("Failed")
    own = [pod(p) for p in pods if controller_uid(p) == meta.get("uid")]
    newest = max(own, key=lambda view: (str(view.created), view.name), default=None)
    message = newest.ended.message if newest is not None and newest.ended is not None else ""
    return CheckView(
        name=meta.get("name", ""),
        uid=meta.get("uid", ""),
        owner_uid=controller_uid(body),
        created=parse_time(meta.get("creationTimestamp")),
        deleting=is_deleting(body),
        ended=parse_time(end.get("lastTransitionTime")) if end else None,
        words=(joined(end.get("reason"), end.get("message")) or "") if end else "",
        # It has the head's resources, and that is what messages name.
        pod=replace(newest, role=constants.ROLE_HEAD) if newest is not None else None,
        result=find_result(message),
    )


def quotas(bodies: Sequence[Json]) -> tuple[QuotaView, ...]:
    """Read ResourceQuotas; those with scopes count only some pods and are left out."""
    specs = {body["metadata"]["name"]: body.get("spec") or {} for body in bodies}
    whole = {
        name: spec for name, spec in specs.items() if not (spec.get("scopes") or spec.get("scopeSelector"))
    }
    return tuple(QuotaView(name, spec.get("hard") or {}) for name, spec in sorted(whole.items()))


def access_modes(claim: Json | None) -> frozenset[str] | None:
    """Return the access modes of a PersistentVolumeClaim, None if it does not exist."""
    return None if claim is None else frozenset((claim.get("spec") or {}).get("accessModes") or ())


def config_map(body: Json) -> ConfigMapView:
    """Read the attempt's ConfigMap."""
    return ConfigMapView(
        owner_uid=controller_uid(body), text=(body.get("data") or {}).get(constants.CONFIG_KEY)
    )


def pod(body: Json) -> PodView:
    """Read a head or host pod."""
    meta, spec, status = body.get("metadata", {}), body.get("spec") or {}, body.get("status") or {}
    labels = labels_of(body)
    role = labels.get(constants.LABEL_ROLE, "")
    index = parse_int(labels.get(LABEL_HOST_INDEX))
    containers = [
        *(status.get("initContainerStatuses") or []),
        *(status.get("containerStatuses") or []),
    ]
    return PodView(
        name=meta.get("name", ""),
        role=role,
        host_index=0 if role == constants.ROLE_HOST and index is None else index,
        slice_index=parse_int(labels.get(constants.LABEL_SLICE)),
        node=spec.get("nodeName"),
        ip=status.get("podIP"),
        phase=status.get("phase", "Pending"),
        created=parse_time(meta.get("creationTimestamp")),
        placed_at=placement_time(status),
        deleting=is_deleting(body),
        waiting=next(filter(None, map(waiting_words, containers)), None),
        unschedulable=unschedulable_words(status),
        ended=termination(status),
        evicted=joined(status.get("reason"), status.get("message")),
        disrupted=disruption(status),
    )


def waiting_words(container: Json) -> str | None:
    """Return why a container cannot start, None while it starts in the ordinary way."""
    waiting = (container.get("state") or {}).get("waiting")
    if not waiting or waiting.get("reason") in QUIET_REASONS:
        return None
    return joined(waiting.get("reason"), waiting.get("message"))


def unschedulable_words(status: Json) -> str | None:
    """Return the scheduler's reason for not placing a pod."""
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return joined(condition.get("reason"), condition.get("message"))
    return None


def placement_time(status: Json) -> datetime | None:
    """Return when the scheduler gave a pod its node."""
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "True":
            return parse_time(condition.get("lastTransitionTime"))
    return None


def disruption(status: Json) -> str | None:
    """Return Kubernetes' reason for taking a pod away, e.g. EvictionByEvictionAPI."""
    for condition in status.get("conditions") or []:
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return condition.get("reason") or "DisruptionTarget"
    return None


def termination(status: Json) -> Termination | None:
    """Return how the Ray container, or a failed init container, ended; None while neither has."""
    failed_init = [c for c in status.get("initContainerStatuses") or [] if exit_code(c) not in (None, 0)]
    ended = [c for c in status.get("containerStatuses") or [] if ended_state(c)]
    for container in (*ended, *failed_init):
        state = ended_state(container)
        return Termination(
            container=container.get("name", ""),
            exit_code=state.get("exitCode"),
            reason=state.get("reason") or "",
            message=state.get("message") or "",
            finished_at=parse_time(state.get("finishedAt")),
        )
    return None


def ended_state(container: Json) -> Json:
    """Return the terminated state of a container, empty while it has not ended."""
    return (container.get("state") or {}).get("terminated") or {}


def exit_code(container: Json) -> int | None:
    """Return the exit code of an ended container."""
    code: int | None = ended_state(container).get("exitCode")
    return code


def joined(reason: str | None, message: str | None) -> str | None:
    """Return ``Reason: message`` with what is there of it."""
    return ": ".join(part for part in (reason, message) if part) or None
