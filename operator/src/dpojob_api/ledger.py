"""The chip-second ledger of ``DPOJob.status``: what the chips of the slice have been there for."""

from datetime import datetime
from typing import Final

from pydantic import Field

from dpojob_api import metrics
from dpojob_api.base import ApiModel
from dpojob_api.reasons import Documented


class Activity(Documented):
    """What a chip-second goes to; the values are the fields of ``status.ledger.chipSeconds``."""

    QUEUED = "queued", "the attempt waits for Kueue, or for somebody, to let it start"
    PROVISIONING = "provisioning", "no host has a node yet"
    STARTING = "starting", "from the first host's node until the trainer runs: image, container, Ray"
    COMPILING = "compiling", "a step is being compiled"
    DATA = "data", "model and data are fetched, examined and loaded"
    REFERENCE = "reference", "the reference's log-probabilities are computed ahead of training"
    TRAINING = "training", "optimizer steps that no attempt had done before"
    EVALUATING = "evaluating", "the held-out pairs are evaluated"
    CHECKPOINTING = "checkpointing", "the run waits for a checkpoint"
    EXPORTING = "exporting", "the model is exported"
    LOST = "lost", "optimizer steps are done again after a restart"
    IDLE = "idle", "the slice is held and nothing is done with it"


ACTIVITY_OF_PHASE: Final = dict(
    zip(
        metrics.PHASES,
        (
            Activity.STARTING,
            Activity.DATA,
            Activity.COMPILING,
            Activity.REFERENCE,
            Activity.TRAINING,
            Activity.EVALUATING,
            Activity.CHECKPOINTING,
            Activity.EXPORTING,
            Activity.IDLE,
        ),
        strict=True,
    )
)
"""What the time of each of the trainer's phases goes to."""
BEFORE_SLICE: Final = frozenset({Activity.QUEUED, Activity.PROVISIONING})
"""Activities without a slice: they are time, but no chip is held."""


def _seconds(activity: Activity) -> int:
    field: int = Field(default=0, ge=0, description=f"{activity.value}: {activity.doc}.")
    return field


class ChipSeconds(ApiModel):
    """Chips of the slice times seconds, by activity."""

    queued: int = _seconds(Activity.QUEUED)
    provisioning: int = _seconds(Activity.PROVISIONING)
    starting: int = _seconds(Activity.STARTING)
    compiling: int = _seconds(Activity.COMPILING)
    data: int = _seconds(Activity.DATA)
    reference: int = _seconds(Activity.REFERENCE)
    training: int = _seconds(Activity.TRAINING)
    evaluating: int = _seconds(Activity.EVALUATING)
    checkpointing: int = _seconds(Activity.CHECKPOINTING)
    exporting: int = _seconds(Activity.EXPORTING)
    lost: int = _seconds(Activity.LOST)
    idle: int = _seconds(Activity.IDLE)

    def of(self, activity: Activity) -> int:
        """Return the chip-seconds of one activity."""
        found: int = getattr(self, activity.value)
        return found

    @property
    def total(self) -> int:
        """The chip-seconds of all activities."""
        return sum(self.of(activity) for activity in Activity)

    @property
    def used(self) -> int:
        """The chip-seconds for which a slice was held."""
        return sum(self.of(activity) for activity in Activity if activity not in BEFORE_SLICE)


class LedgerStatus(ApiModel):
    """What the time of all attempts has gone to."""

    chip_seconds: ChipSeconds = Field(
        default=ChipSeconds(), description="chipSeconds are chips times seconds until `since`, by activity."
    )
    activity: Activity | None = Field(
        default=None,
        description="activity is what the time from `since` on goes to; unset while no attempt has or awaits a slice.",
    )
    since: datetime = Field(description="since is until when chipSeconds are counted.")
    total: int = Field(default=0, ge=0, description="total is the sum of chipSeconds.")
    chip_hours: float = Field(
        default=0.0,
        description="chipHours are those for which a slice was held, i.e. not queued or provisioning.",
    )
    goodput: float | None = Field(
        default=None, description="goodput is chipSeconds.training / total, 0 to 1."
    )
