"""What a user may ask of training itself: ``spec.guards``. The operator judges the numbers that the trainer serves."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from dpojob_api.base import ApiModel


class GuardAction(StrEnum):
    """What happens when a guard's bound is broken."""

    SUSPEND = "Suspend"
    FAIL = "Fail"
    ROLLBACK = "RollbackAndReduceLR"


def action() -> Any:
    """Return the field ``action``."""
    return Field(
        default=GuardAction.FAIL,
        description="action is Suspend, which saves the step and holds the job until its spec is edited, Fail, which saves the "
        "step and ends it, or RollbackAndReduceLR, which once starts the next attempt from the newest checkpoint with a lower "
        "learning rate and the second time fails.",
    )


def after_steps(default: int) -> Any:
    """Return the field ``afterSteps``."""
    return Field(
        default=default,
        ge=0,
        le=1000000000,
        description="afterSteps is the number of steps after which the guard begins to look.",
    )


class RewardAccuracyGuard(ApiModel):
    """The policy does not learn to prefer the chosen completions."""

    minimum: float = Field(
        default=0.5,
        ge=0.0,
        le=1.0,
        description="minimum is the lowest mean of the reward accuracy; 0.5 is a coin's.",
    )
    after_steps: int = after_steps(100)
    action: GuardAction = action()


class ChosenLogProbGuard(ApiModel):
    """Both completions become unlikely, the chosen one only less so."""

    max_drop: float = Field(
        default=0.5,
        gt=0.0,
        le=100.0,
        description="maxDrop is the largest fall of the chosen completions' log-probability, as a share of what it was before "
        "training (under the reference).",
    )
    after_steps: int = after_steps(20)
    action: GuardAction = action()


class GradNormGuard(ApiModel):
    """The gradient is much larger than it has been, and stays so."""

    max_ratio: float = Field(
        default=10.0,
        gt=1.0,
        le=1000000.0,
        description="maxRatio is the largest gradient norm, before clipping, in medians of the steps seen before.",
    )
    after_steps: int = after_steps(20)
    action: GuardAction = action()


class LengthDriftGuard(ApiModel):
    """The policy prefers a completion for its length."""

    max_correlation: float = Field(
        default=0.8,
        gt=0.0,
        lt=1.0,
        description="maxCorrelation is the largest correlation of the reward margin with the chosen completion's length less "
        "the rejected one's; its square is the share of the margins' variance that goes with length.",
    )
    after_steps: int = after_steps(100)
    action: GuardAction = action()


class NonFiniteLossGuard(ApiModel):
    """What follows when the trainer ends as NonFiniteLoss, which it always does by itself."""

    action: GuardAction = action()


class GuardsSpec(ApiModel):
    """Rules on training itself; each is off unless it is set, and ``{}`` sets it with its defaults."""

    reward_accuracy: RewardAccuracyGuard | None = Field(
        default=None, description="rewardAccuracy bounds the mean reward accuracy of the newest steps seen."
    )
    chosen_log_prob: ChosenLogProbGuard | None = Field(
        default=None,
        description="chosenLogProb bounds how far the chosen completions' log-probability may fall.",
    )
    length_drift: LengthDriftGuard | None = Field(
        default=None,
        description="lengthDrift bounds how far the reward margins of the newest steps seen follow the completions' lengths.",
    )
    grad_norm: GradNormGuard | None = Field(
        default=None, description="gradNorm bounds the gradient norm of three steps seen in a row."
    )
    non_finite_loss: NonFiniteLossGuard | None = Field(
        default=None,
        description="nonFiniteLoss is what follows a loss or gradient norm that is not finite; without it the job fails.",
    )
    learning_rate_factor: float = Field(
        default=0.5,
        gt=0.0,
        lt=1.0,
        description="learningRateFactor is what RollbackAndReduceLR multiplies the learning rate with.",
    )

    @property
    def is_set(self) -> bool:
        """Whether any guard looks at the numbers of a run."""
        return any((self.reward_accuracy, self.chosen_log_prob, self.length_drift, self.grad_norm))
