"""What the store keeps of an object: the part that ``parse`` and ``DPOJob`` read, a tenth of what a watch shows. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from dpojob_api import constants
from dpojob_operator import parse

Json = Mapping[str, Any]

META = ("name", "namespace", "uid", "generation", "creationTimestamp", "deletionTimestamp", "labels")
LABELS = (
    constants.LABEL_JOB,
    constants.LABEL_ATTEMPT,
    constants.LABEL_ROLE,
    constants.LABEL_SLICE,
    parse.LABEL_HOST_INDEX,
    parse.LABEL_ORIGIN,
    parse.LABEL_QUEUE,
)
RAY_JOB_STATUS = ("startTime", "endTime", "jobStatus", "jobDeploymentStatus", "reason", "message")
POD_STATUS = ("podIP", "phase", "reason", "message")
CONDITION = ("type", "status", "reason", "message")
POD_CONDITIONS = ("PodScheduled", "DisruptionTarget")
ENDED = ("exitCode", "reason", "message", "finishedAt")


def job(body: Json) -> Json:
    """Return what is kept of a DPOJob."""
    meta = pick(body["metadata"], (*META, "annotations"))
    return pick(body, ("apiVersion", "kind", "spec", "status")) | {"metadata": meta}


def ray_job(body: Json) -> Json:
    """Return what is kept of a RayJob."""
    stop = pick(body["metadata"].get("annotations"), (constants.ANNOTATION_STOP,))
    return {
        "metadata": child_meta(body) | ({"annotations": stop} if stop else {}),
        "spec": pick(body.get("spec"), ("suspend",)),
        "status": pick(body.get("status"), RAY_JOB_STATUS),
    }


def ray_cluster(body: Json) -> Json:
    """Return what is kept of a RayCluster."""
    status = body.get("status") or {}
    return {"metadata": child_meta(body), "status": {"conditions": conditions(status, ("ReplicaFailure",))}}


def pod(body: Json) -> Json:
    """Return what is kept of a pod."""
    status = body.get("status") or {}
    kept = pick(status, POD_STATUS)
    if found := conditions(status, POD_CONDITIONS, (*CONDITION, "lastTransitionTime")):
        kept["conditions"] = found
    for kind in ("initContainerStatuses", "containerStatuses"):
        if found := [container(c) for c in status.get(kind) or []]:
            kept[kind] = found
    return {"metadata": child_meta(body), "spec": pick(body.get("spec"), ("nodeName",)), "status": kept}


def config_map(body: Json) -> Json:
    """Return what is kept of an attempt's ConfigMap."""
    return {"metadata": child_meta(body), "data": pick(body.get("data"), (constants.CONFIG_KEY,))}


def container(status: Json) -> Json:
    """Return what is kept of a container's status."""
    state = status.get("state") or {}
    kept = {
        "waiting": pick(state.get("waiting"), ("reason", "message")),
        "terminated": pick(state.get("terminated"), ENDED),
    }
    return {"name": status.get("name"), "state": {key: value for key, value in kept.items() if value}}


def conditions(status: Json, types: Iterable[str], fields: Iterable[str] = CONDITION) -> list[Json]:
    """Return what is kept of some conditions."""
    return [pick(c, fields) for c in status.get("conditions") or [] if c.get("type") in types]


def child_meta(body: Json) -> dict[str, Any]:
    """Return what is kept of the metadata of a job's child."""
    kept = pick(body["metadata"], META)
    kept["labels"] = pick(kept.get("labels"), LABELS)
    owners = body["metadata"].get("ownerReferences") or []
    kept["ownerReferences"] = [
        pick(owner, ("uid", "controller")) for owner in owners if owner.get("controller")
    ]
    return kept


def pick(value: Json | None, keys: Iterable[str]) -> dict[str, Any]:
    """Return some keys of an object, those that are there."""
    return {key: value[key] for key in keys if key in value} if value else {}
