"""How often to look at a job again: pure. Watches tell of every change of an object; what is polled has a budget.

A budget is looks per second over all jobs, so that the load of the operator and of the API server stays the same however
many jobs there are; each job is then looked at less often.
"""

from dpojob_api import metrics
from dpojob_operator.observed import Observed
from dpojob_operator.plan import POLL_SECONDS, Plan, Stage

SCRAPES_PER_SECOND = 60.0
LONGEST_SCRAPE_SECONDS = 60.0
UNTOLD_SCRAPE_SECONDS = 15.0
"""While nobody knows when the run ends; the trainer then waits two minutes for its last numbers to be recorded."""
RECHECKS_PER_SECOND = 30.0
RECHECK_SECONDS = 10.0
LONGEST_RECHECK_SECONDS = 60.0
WAITING = frozenset({Stage.STARTING, Stage.QUEUED})


def clamp(low: float, value: float, high: float) -> float:
    """Return the value, or the bound that it exceeds."""
    return max(low, min(value, high))


def recheck_seconds(jobs: int) -> float:
    """Return after how long to look again at what has no watch and no hurry, such as deadlines and ConfigMaps."""
    return clamp(RECHECK_SECONDS, jobs / RECHECKS_PER_SECOND, LONGEST_RECHECK_SECONDS)


def scrape_seconds(running: int, observed: Observed) -> float:
    """Return after how long to read a trainer's metrics again: soon enough to see its last numbers."""
    budgeted = clamp(POLL_SECONDS, running / SCRAPES_PER_SECOND, LONGEST_SCRAPE_SECONDS)
    left = observed.scrape.values.get(metrics.ETA_SECONDS) if observed.scrape is not None else None
    if left is None:
        return min(budgeted, UNTOLD_SCRAPE_SECONDS)
    return clamp(POLL_SECONDS, left / 2, budgeted)


def is_scraped(observed: Observed) -> bool:
    """Return whether there is a trainer whose metrics tell something new."""
    ray_job, head = observed.ray_job, observed.head
    return ray_job is not None and ray_job.deployment_status == "Running" and head is not None and head.alive


def next_look(plan: Plan, observed: Observed, running: int, jobs: int, held: bool = False) -> float | None:
    """Return after how many seconds to look at a job again, None for only after an event.

    Args:
        running: the number of jobs whose trainers are read.
        jobs: the number of all jobs.
        held: whether something waits to be written (see ``drafts``); a start is then told soon.
    """
    if plan.requeue_after != POLL_SECONDS:
        return plan.requeue_after
    if is_scraped(observed):
        return scrape_seconds(running, observed)
    soon = held and plan.stage is Stage.STARTING
    return recheck_seconds(jobs) if plan.stage in WAITING and not soon else POLL_SECONDS
