"""Which nodes an attempt's pods go to, and what they reserve there."""

from typing import Any

from dpojob_api.slice_spec import CapacitySpec, CapacityType, ResourcesSpec
from dpojob_api.v1alpha1 import DPOJob, shape_of

TPU_RESOURCE = "google.com/tpu"
DEFAULT_REQUESTS = {"cpu": "1", "memory": "4Gi"}

LABEL_SPOT = "cloud.google.com/gke-spot"
LABEL_FLEX_START = "cloud.google.com/gke-flex-start"
LABEL_RESERVATION = "cloud.google.com/reservation-name"


def host_node_selector(job: DPOJob) -> dict[str, str]:
    """Return GKE's labels of the node pool that has the slice."""
    shape = shape_of(job.spec)
    return {
        "cloud.google.com/gke-tpu-accelerator": shape.gke_accelerator,
        "cloud.google.com/gke-tpu-topology": shape.topology,
        **capacity_selector(job.spec.accelerator.capacity),
    }


def capacity_selector(capacity: CapacitySpec) -> dict[str, str]:
    """Return GKE's label of the provisioning model; on-demand nodes have none."""
    match capacity.type:
        case CapacityType.SPOT:
            return {LABEL_SPOT: "true"}
        case CapacityType.FLEX_START:
            return {LABEL_FLEX_START: "true"}
        case CapacityType.RESERVATION if capacity.reservation:
            return {LABEL_RESERVATION: capacity.reservation}
        case _:
            return {}


def host_tolerations(job: DPOJob) -> list[dict[str, str]]:
    """Return tolerations of GKE's taints on TPU and Spot nodes."""
    tolerations = [{"key": TPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}]
    if job.spec.accelerator.capacity.type is CapacityType.SPOT:
        tolerations.append({"key": LABEL_SPOT, "operator": "Exists", "effect": "NoSchedule"})
    return tolerations


def resources(spec: ResourcesSpec, chips: int | None = None) -> dict[str, Any]:
    """Return a container's resources.

    Requests that the spec leaves open are its limits, as Kubernetes has it, else the defaults. The device plugin
    refuses less than all chips of a host, so they are not for the spec to say.
    """
    limits = dict(spec.limits or {})
    requests = (
        DEFAULT_REQUESTS | {k: v for k, v in limits.items() if k in DEFAULT_REQUESTS} | (spec.requests or {})
    )
    if chips is not None:
        requests[TPU_RESOURCE] = limits[TPU_RESOURCE] = str(chips)
    return {"requests": requests, "limits": limits} if limits else {"requests": requests}
