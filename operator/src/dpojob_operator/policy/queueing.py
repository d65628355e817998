"""What Kueue does with an attempt: holds it back, admits it, takes it away again. Queue and priority class are labels."""

from datetime import timedelta

from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator import history
from dpojob_operator.observed import Observed, RayJobView, WorkloadView

# KubeRay sets a new start time at every resume. The two clocks may differ, and hosts come up after the start.
RESTART_MARGIN = timedelta(seconds=30)
# Every move is a status write, of every job of the queue; far behind, the exact place is not worth one.
LAST_POSITION = 10


def find_eviction(job: DPOJob, observed: Observed, ray_job: RayJobView) -> str | None:
    """Return in words that Kueue has taken the slice from an attempt that had one, None if it has not.

    Kueue reuses the RayJob when it admits it again, and both may happen between two looks; the start time tells.
    """
    known = history.active_attempt(job.status)
    if ray_job.queue is None or known is None or known.slice_time is None:
        return None
    if ray_job.suspended:
        why = observed.workload.evicted if observed.workload else None
        return f"Kueue has taken the slice back: {why}" if why else "Kueue has taken the slice back."
    if ray_job.started is not None and ray_job.started > known.slice_time + RESTART_MARGIN:
        return "Kueue has taken the slice back and given it again."
    return None


def describe_queue(queue: str, workload: WorkloadView | None) -> str:
    """Return what a suspended RayJob waits for, in Kueue's words."""
    here = f"Waiting in queue {queue!r}"
    if workload is None:
        return f"{here}: Kueue has no Workload for the RayJob; its integration ray.io/rayjob must be enabled."
    if not workload.active:
        return f"{here}: Workload {workload.name} is deactivated; set its spec.active to true."
    if workload.reserved:
        return f"{here}: quota is reserved, admission checks are not done{suffix(workload.checks)}."
    words = [words for words in (workload.evicted, workload.pending) if words]
    return f"{here}{place(workload.position)}{suffix('; '.join(words))}"


def place(position: int | None) -> str:
    """Return where in the queue of its namespace a job waits."""
    if position is None:
        return ""
    return (
        f", position {position}" if position <= LAST_POSITION else f", behind {LAST_POSITION} others or more"
    )


def suffix(words: str) -> str:
    """Return words after a colon, nothing if there are none."""
    return f": {words}" if words else ""
