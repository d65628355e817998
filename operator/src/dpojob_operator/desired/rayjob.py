"""The attempt's RayJob: one Ray cluster on one TPU slice for one run of the trainer.

KubeRay's own retries are off: they have no delay, cannot tell an error of the job from a lost node and forget the
reason. An attempt is one RayJob, and the operator decides whether another one follows.
"""

from datetime import datetime
from typing import Any

from dpojob_api import constants
from dpojob_api.v1alpha1 import DPOJob, shape_of
from dpojob_operator.desired import metadata, pods

RAY_VERSION = "2.54.0"
ENTRYPOINT = f"python -m dpojob_trainer drive --config {constants.CONFIG_PATH}"

# KubeRay copies it to the RayCluster. In HTTPMode it would otherwise bring a lost head back and silently submit the
# job again, with nobody to say that the first run is gone.
NO_HEAD_RESTART = {"ray.io/disable-provisioned-head-restart": "true"}

# Ray 2.54 aborts a raylet whose agents have not found a port of their own within 15 s, whatever its configuration says
# (https://github.com/ray-project/ray/issues/65983). It does not wait for ports that are given.
AGENT_PORTS = {"dashboard-agent-grpc-port": "52366", "runtime-env-agent-port": "52367"}

# Fields that RayJob CRDs older than KubeRay 1.6 lack.
REQUIRED_FIELDS = frozenset(
    {"preRunningDeadlineSeconds", "shutdownAfterJobFinishes", "backoffLimit", "submissionMode", "jobId"}
)


def build_rayjob(job: DPOJob, attempt: int, image: str, queued: bool = False) -> dict[str, Any]:
    """Return the RayJob of one attempt; it is created once, because Kueue writes into its spec afterwards.

    Args:
        queued: Kueue decides when it starts. Its webhook suspends a new RayJob too, but may not be there yet.
    """
    meta = metadata.metadata(job, attempt)
    meta["labels"] = meta["labels"] | metadata.kueue_labels(job)
    meta["annotations"] = NO_HEAD_RESTART
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": meta,
        "spec": {
            **({"suspend": True} if queued else {}),
            "submissionMode": "HTTPMode",
            "jobId": metadata.attempt_name(job.metadata.name, attempt),
            "entrypoint": ENTRYPOINT,
            "backoffLimit": 0,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 0,
            "preRunningDeadlineSeconds": job.spec.runtime.startup_deadline_seconds,
            "rayClusterSpec": ray_cluster_spec(job, attempt, image),
        },
    }


def build_stop(uid: str, now: datetime) -> dict[str, Any]:
    """Return the patch that makes KubeRay delete the RayCluster, and remembers that the operator wanted it.

    KubeRay deletes the pods without stopping the Ray job first, so that their preStop hook lets the trainer save. The
    uid makes the server refuse the patch for another object of that name.
    """
    time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    meta = {"uid": uid, "annotations": {constants.ANNOTATION_STOP: time}}
    return {"metadata": meta, "spec": {"suspend": True}}


def ray_cluster_spec(job: DPOJob, attempt: int, image: str) -> dict[str, Any]:
    """Return the cluster: a head that takes no Ray tasks and one worker group per slice."""
    return {
        "rayVersion": RAY_VERSION,
        "enableInTreeAutoscaling": False,
        "headGroupSpec": {
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"} | AGENT_PORTS,
            "template": pods.build_head(job, attempt, image),
        },
        "workerGroupSpecs": [
            worker_group(job, attempt, image, number) for number in range(job.spec.accelerator.slices)
        ],
    }


def worker_group(job: DPOJob, attempt: int, image: str, number: int) -> dict[str, Any]:
    """Return the worker group that is one slice: a replica of all its hosts, which KubeRay makes anew as a whole."""
    return {
        # Short: GKE's webhook makes host names of it, which are DNS labels.
        "groupName": "tpu" if job.spec.accelerator.slices == 1 else f"tpu-{number}",
        "replicas": 1,
        "minReplicas": 1,
        "maxReplicas": 1,
        "numOfHosts": shape_of(job.spec).hosts,
        "rayStartParams": dict(AGENT_PORTS),
        "template": pods.build_host(job, attempt, image, number),
    }
