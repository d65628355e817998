"""The Job that plans an attempt before a slice is asked for: ``dpojob_trainer plan`` in a pod like the head's."""

from typing import Any

from dpojob_api import constants
from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator.desired import check, metadata

CONTAINER = "plan"
# To be scheduled and to pull the image, beside the time that the plan itself may take.
START_SECONDS = 120


def plan_name(job_name: str) -> str:
    """Return the Job's name."""
    return f"{job_name}-plan"


def command(seconds: int) -> list[str]:
    """Return the trainer's command; it ends by itself before Kubernetes ends it without a word."""
    return [
        *("python", "-m", "dpojob_trainer", "plan", "--config", constants.CONFIG_PATH),
        *("--result", check.TERMINATION_LOG, "--seconds", str(seconds)),
    ]


def build_plan(job: DPOJob, attempt: int, image: str) -> dict[str, Any]:
    """Return the Job; it mounts the configuration of the attempt that is due."""
    seconds = job.spec.plan.timeout_seconds
    container = check.container(job, image, CONTAINER, command(seconds))
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata.metadata(job, attempt) | {"name": plan_name(job.metadata.name)},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": seconds + START_SECONDS,
            "podFailurePolicy": {"rules": [check.DISRUPTED]},
            "template": {
                # Not the label of the job's pods: those hold the slice.
                "metadata": {"labels": {constants.LABEL_PLAN: job.metadata.name}},
                "spec": check.pod_spec(job, attempt, container),
            },
        },
    }
