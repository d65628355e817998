"""``spec.activeDeadlineSeconds``: how long the whole job may take. Time suspended does not count."""

from datetime import datetime, timedelta

from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator import history


def deadline_of(job: DPOJob, now: datetime) -> datetime | None:
    """Return when a job is over, None without a deadline or before the operator first acted on it."""
    if job.spec.active_deadline_seconds is None or job.status.start_time is None:
        return None
    allowed = job.spec.active_deadline_seconds + history.suspended_seconds(job.status, now)
    return job.status.start_time + timedelta(seconds=allowed)


def is_over(job: DPOJob, now: datetime) -> bool:
    """Return whether a job has taken too long."""
    due = deadline_of(job, now)
    return due is not None and now >= due
