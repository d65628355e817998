"""``spec.progress.stallSeconds``: a run whose step and phase stand still is lost, whatever its pods look like."""

from datetime import datetime, timedelta

from dpojob_api import metrics
from dpojob_api.reasons import OperatorReason
from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator import history
from dpojob_operator.observed import Observed
from dpojob_operator.policy.failure import Failure

# A single compilation, or one pass of the reference over all pairs, takes as long as it takes.
UNCOUNTED = ("compiling", "reference")


def find_stall(job: DPOJob, observed: Observed, now: datetime) -> Failure | None:
    """Return the failure of a run that stands still; one that compiles or scores the reference does not, and one that has not begun cannot."""
    limit, progress = job.spec.progress.stall_seconds, job.status.progress
    since = history.running_since(job.status)
    if limit is None or since is None or progress is None or progress.change_time is None:
        return None
    if changed(job, observed) or progress.phase in UNCOUNTED:
        return None
    idle = idle_seconds(observed, now - max(since, progress.change_time))
    if idle < limit:
        return None
    seen = "and its metrics cannot be read" if observed.scrape is None else "although its metrics can be read"
    message = (
        f"The run stands at step {progress.steps}, phase {progress.phase}, for {idle} s "
        f"(spec.progress.stallSeconds: {limit}), {seen}."
    )
    return Failure(OperatorReason.PROGRESS_STALLED, message)


def idle_seconds(observed: Observed, seen: timedelta) -> int:
    """Return for how long nothing has changed, in seconds.

    The trainer's own count comes first: the operator's clock may have been set since it saw the last change.
    """
    told = observed.scrape.values.get(metrics.IDLE_SECONDS) if observed.scrape is not None else None
    return round(seen.total_seconds() if told is None else told)


def changed(job: DPOJob, observed: Observed) -> bool:
    """Return whether step or phase differ from what the status has."""
    old, scrape = job.status.progress, observed.scrape
    if scrape is None:
        return False
    return old is None or (old.step, old.phase) != (scrape.progress.step, scrape.progress.phase)
