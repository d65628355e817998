"""The Job that examines the data before a slice is asked for: ``dpojob_trainer check`` in a pod like the head's."""

from collections.abc import Sequence
from typing import Any

from dpojob_api import constants
from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator.desired import env, metadata, placement, pods, storage

CONTAINER = "check"
TERMINATION_LOG = "/dev/termination-log"
COMMAND = (
    *("python", "-m", "dpojob_trainer", "check"),
    *("--config", constants.CONFIG_PATH, "--result", TERMINATION_LOG),
)
# Of the trainer (docs/run.md): a wrong configuration and refused data stay what they are, anything else may pass.
FINAL_EXIT_CODES = [2, 3]
# Does not count as a failure.
DISRUPTED = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
RETRIES = 3
DEADLINE_SECONDS = 7200
GRACE_SECONDS = 5


def check_name(job_name: str) -> str:
    """Return the Job's name."""
    return f"{job_name}-check"


def build_check(job: DPOJob, attempt: int, image: str) -> dict[str, Any]:
    """Return the Job; it mounts the configuration of the attempt that is due."""
    rules = [
        DISRUPTED,
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": FINAL_EXIT_CODES}},
    ]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata.metadata(job, attempt) | {"name": check_name(job.metadata.name)},
        "spec": {
            "backoffLimit": RETRIES,
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "podFailurePolicy": {"rules": rules},
            "template": {
                # Not the label of the job's pods: those hold the slice.
                "metadata": {"labels": {constants.LABEL_CHECK: job.metadata.name}},
                "spec": pod_spec(job, attempt, container(job, image, CONTAINER, COMMAND)),
            },
        },
    }


def pod_spec(job: DPOJob, attempt: int, container: dict[str, Any]) -> dict[str, Any]:
    """Return a pod with the head's volumes, account, secrets and place, and no chip."""
    head = job.spec.runtime.head
    spec = pods.pod_spec(job, attempt) | {
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [container],
    }
    if head.node_selector:
        spec["nodeSelector"] = dict(head.node_selector)
    if head.tolerations:
        spec["tolerations"] = [toleration.to_wire() for toleration in head.tolerations]
    return spec


def container(job: DPOJob, image: str, name: str, command: Sequence[str]) -> dict[str, Any]:
    """Return a container with the head's resources; its termination message is the trainer's result line."""
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": job.spec.runtime.image_pull_policy,
        "command": list(command),
        "env": env.head_env(job, image),
        "resources": placement.resources(job.spec.runtime.head.resources),
        "securityContext": pods.SECURITY_CONTEXT,
        "volumeMounts": storage.mounts(job.spec),
        "terminationMessagePath": TERMINATION_LOG,
    }
