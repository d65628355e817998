"""``spec.ttlSecondsAfterFinished``: when a job that has ended is deleted."""

from datetime import datetime

from dpojob_api.v1alpha1 import DPOJob


def seconds_left(job: DPOJob, now: datetime) -> float | None:
    """Return the seconds until a job that has ended is deleted, 0 if it is due, None if it stays."""
    ttl, end = job.spec.ttl_seconds_after_finished, job.status.completion_time
    if ttl is None or end is None:
        return None
    return max(0.0, ttl - (now - end).total_seconds())
