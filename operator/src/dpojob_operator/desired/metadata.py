"""Names, labels and owner references of an attempt's objects."""

from typing import Any

from dpojob_api import constants
from dpojob_api.v1alpha1 import DPOJob

KUEUE_LABEL_PREFIX = "kueue.x-k8s.io/"


def attempt_name(job_name: str, attempt: int) -> str:
    """Return the name that an attempt's RayJob and ConfigMap share."""
    return f"{job_name}-a{attempt}"


def job_name(attempt_name: str) -> str:
    """Return the name of the job that an attempt's objects are named after."""
    return attempt_name.rpartition("-a")[0]


def owner_reference(job: DPOJob) -> dict[str, Any]:
    """Return the reference through which Kubernetes deletes a child with its DPOJob."""
    return {
        "apiVersion": constants.API_VERSION,
        "kind": constants.KIND,
        "name": job.metadata.name,
        "uid": job.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def labels(job: DPOJob, attempt: int) -> dict[str, str]:
    """Return the labels by which the operator finds an attempt's objects."""
    return {constants.LABEL_JOB: job.metadata.name, constants.LABEL_ATTEMPT: str(attempt)}


def kueue_labels(job: DPOJob) -> dict[str, str]:
    """Return the DPOJob's Kueue labels (queue, priority class); Kueue reads them on the RayJob."""
    return {key: value for key, value in job.metadata.labels.items() if key.startswith(KUEUE_LABEL_PREFIX)}


def metadata(job: DPOJob, attempt: int) -> dict[str, Any]:
    """Return the metadata that every child of an attempt has."""
    return {
        "name": attempt_name(job.metadata.name, attempt),
        "namespace": job.metadata.namespace,
        "labels": labels(job, attempt),
        "ownerReferences": [owner_reference(job)],
    }
