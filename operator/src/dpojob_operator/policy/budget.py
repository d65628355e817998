"""``spec.budget.chipHours``: chips of the slice times hours, from the first host that has a node to the attempt's end."""

from datetime import datetime

from dpojob_api.v1alpha1 import DPOJob, chips_of
from dpojob_operator import ledger
from dpojob_operator.desired.pods import GRACE_SECONDS
from dpojob_operator.ledger import SECONDS_PER_HOUR

# Between two looks at a run, and for KubeRay to delete the pods.
REACTION_SECONDS = 15


def chip_seconds(job: DPOJob, now: datetime) -> int:
    """Return the chip-seconds that all attempts have used, by the ledger."""
    return ledger.used(job.status.ledger, chips_of(job.spec), now)


def reserve(job: DPOJob) -> int:
    """Return the chip-seconds that stopping takes at most: the slice is held while the trainer saves."""
    return (GRACE_SECONDS + REACTION_SECONDS) * chips_of(job.spec)


def used_up(job: DPOJob, now: datetime) -> float | None:
    """Return the chip-hours used if the rest of the budget only suffices to stop, None otherwise."""
    limit = job.spec.budget.chip_hours
    if limit is None:
        return None
    used = chip_seconds(job, now)
    return used / SECONDS_PER_HOUR if used + reserve(job) >= limit * SECONDS_PER_HOUR else None
