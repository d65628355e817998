"""What the operator tells: ``DPOJob.status``."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from dpojob_api.base import ApiModel
from dpojob_api.failure_class import FailureClass
from dpojob_api.guards_spec import GuardAction
from dpojob_api.ledger import LedgerStatus
from dpojob_api.mesh import ResolvedMesh

Text = Annotated[str, StringConstraints(max_length=4096)]
Short = Annotated[str, StringConstraints(max_length=256)]
Truth = Literal["True", "False", "Unknown"]


class Condition(ApiModel):
    """A Kubernetes condition (meta/v1 Condition)."""

    type: Short = Field(description="type is the condition in CamelCase.")
    status: Truth = Field(description="status is True, False or Unknown.")
    reason: Short = Field(
        description="reason is a documented CamelCase word, see docs/reference/conditions.md."
    )
    message: Text = Field(description="message says what happened and what to do about it.")
    last_transition_time: datetime = Field(description="lastTransitionTime is when status last changed.")
    observed_generation: int = Field(
        description="observedGeneration is the generation the condition speaks of."
    )


class PlanEstimate(ApiModel):
    """What a plan has found before the first attempt (``docs/plan.md``); nothing without one."""

    step_seconds: float | None = Field(
        default=None, description="stepSeconds is the estimate of one optimizer step; unset on CPU."
    )
    hours: float | None = Field(default=None, description="hours is the estimate of all steps.")
    chip_hours: float | None = Field(default=None, description="chipHours is the estimate of all steps.")
    peak_bytes: int | None = Field(
        default=None, description="peakBytes is what the largest stage needs on one chip."
    )
    usable_bytes: int | None = Field(
        default=None, description="usableBytes is what programs and arrays can take on one chip."
    )
    fingerprint: Short | None = Field(
        default=None, description="fingerprint is of the step that was planned; the trainer compares its own."
    )
    fix: Text | None = Field(
        default=None,
        description="fix is the smallest change tried that makes the job fit, as field: value, field: value.",
    )


class PlanVerdict(PlanEstimate):
    """What the plan's pod hands over."""

    fits: bool = Field(description="fits tells whether every stage of the run does.")


class PlanStatus(PlanEstimate):
    """What the accelerator and mesh in the spec resolve to, and what a plan has found about them."""

    accelerator_type: Short = Field(description="acceleratorType is the Cloud TPU accelerator type.")
    topology: Short = Field(description="topology is the shape of a slice.")
    slices: int = Field(default=1, description="slices is the number of slices.")
    chips: int = Field(description="chips is the number of chips of all slices, one JAX device each.")
    hosts: int = Field(description="hosts is the number of host pods of all slices.")
    chips_per_host: int = Field(description="chipsPerHost is the number of chips of one host.")
    mesh: ResolvedMesh = Field(description="mesh is the size of every mesh axis.")

    @property
    def hosts_per_slice(self) -> int:
        """Number of hosts of one slice."""
        return self.hosts // self.slices


class AttemptStatus(ApiModel):
    """One attempt, that is one RayJob."""

    number: int = Field(description="number counts from 1.")
    ray_job: Short = Field(description="rayJob is the RayJob's name.")
    outcome: Literal["Active", "Succeeded", "Failed", "Lost", "Stopped"] = Field(
        description="outcome is how the attempt stands; Stopped is by spec.suspend, a guard or Kueue."
    )
    failure_class: FailureClass | None = Field(
        default=None,
        alias="class",
        description="class is the class of its end, see docs/reference/conditions.md.",
    )
    reason: Short | None = Field(default=None, description="reason is why it ended.")
    message: Text | None = Field(default=None, description="message is why it ended, in words.")
    start_time: datetime = Field(description="startTime is when the RayJob was created.")
    slice_time: datetime | None = Field(
        default=None, description="sliceTime is when the first host had a node; chips count from then on."
    )
    end_time: datetime | None = Field(default=None, description="endTime is when it ended.")
    host: Short | None = Field(
        default=None, description="host is the pod, and its node, whose loss ended the attempt."
    )
    from_step: int | None = Field(
        default=None, description="fromStep is the step of the checkpoint it started from, 0 without one."
    )
    to_step: int | None = Field(
        default=None, description="toStep is the last step that was seen; progress is read every few seconds."
    )
    steps_lost: int | None = Field(
        default=None, description="stepsLost is how many of its steps a later attempt had to do again."
    )
    recovery_seconds: int | None = Field(
        default=None, description="recoverySeconds is from its end until a later attempt trained."
    )


class RetriesStatus(ApiModel):
    """Retries used, by class of the end that they followed."""

    preempted: int = Field(default=0, description="preempted counts retries after preemption.")
    infrastructure: int = Field(default=0, description="infrastructure counts retries after a loss.")
    capacity: int = Field(default=0, description="capacity counts retries after waiting in vain for a slice.")
    application: int = Field(default=0, description="application counts retries after a failure of the run.")
    configuration: int = Field(default=0, description="configuration counts retries that no change preceded.")
    fenced: int = Field(default=0, description="fenced counts retries after fencing.")

    def of(self, kind: FailureClass) -> int:
        """Return the retries used after ends of a class."""
        used: int = getattr(self, kind.field)
        return used


class ProgressStatus(ApiModel):
    """The newest numbers that the trainer served."""

    phase: Short = Field(
        description="phase is what the trainer is doing: starting, loading, compiling, reference, training, evaluating, checkpointing, exporting."
    )
    step: int = Field(description="step is the number of optimizer steps done.")
    total_steps: int = Field(description="totalSteps is the number of optimizer steps of the whole run.")
    steps: Short = Field(description="steps is step/totalSteps for display.")
    loss: float | None = Field(default=None, description="loss is the newest training loss.")
    reward_accuracy: float | None = Field(
        default=None,
        description="rewardAccuracy is the share of pairs whose chosen reward exceeds the rejected one.",
    )
    reward_margin: float | None = Field(
        default=None, description="rewardMargin is the mean difference of chosen and rejected rewards."
    )
    mfu: float | None = Field(
        default=None,
        description="mfu is the model FLOPs utilisation of the newest step as a share of 1, padding left out; unset on a CPU.",
    )
    eta: Short | None = Field(
        default=None, description="eta is the estimated time to the last step, e.g. 12m30s."
    )
    change_time: datetime | None = Field(
        default=None, description="changeTime is when step or phase was last seen to change."
    )


class FinalMetrics(ApiModel):
    """The trainer's last numbers; the eval ones are of the held-out pairs."""

    step: int = Field(description="step is the number of optimizer steps done.")
    loss: float | None = Field(default=None, description="loss is the last training loss.")
    reward_accuracy: float | None = Field(default=None, description="rewardAccuracy is the last batch's.")
    reward_margin: float | None = Field(default=None, description="rewardMargin is the last batch's.")
    eval_loss: float | None = Field(default=None, description="evalLoss is the loss on the held-out pairs.")
    eval_reward_accuracy: float | None = Field(
        default=None, description="evalRewardAccuracy is of the held-out pairs."
    )
    eval_reward_margin: float | None = Field(
        default=None, description="evalRewardMargin is of the held-out pairs."
    )


class OutputStatus(ApiModel):
    """Where the results are."""

    uri: Text = Field(description="uri is the output folder.")
    model: Text | None = Field(default=None, description="model is the folder of the tuned model.")


class LengthMoments(ApiModel):
    """Moments of the reward margin and of chosen less rejected length in tokens, over the pairs of a step."""

    difference: float = Field(description="difference is the mean of chosen less rejected tokens.")
    margin: float = Field(description="margin is the mean reward margin.")
    difference_variance: float = Field(
        description="differenceVariance is the variance of chosen less rejected tokens."
    )
    margin_variance: float = Field(description="marginVariance is the variance of the reward margin.")
    covariance: float = Field(description="covariance is that of both.")


class GuardSample(ApiModel):
    """What one step is judged by."""

    step: int = Field(description="step is the optimizer step.")
    reward_accuracy: float | None = Field(
        default=None, description="rewardAccuracy is the batch's reward accuracy."
    )
    chosen_drop: float | None = Field(
        default=None,
        description="chosenDrop is the fall of the chosen log-probability as a share of the reference's.",
    )
    grad_norm: float | None = Field(
        default=None, description="gradNorm is the gradient norm before clipping."
    )
    lengths: LengthMoments | None = Field(
        default=None, description="lengths is how the reward margins go with the completions' lengths."
    )


class BrokenGuard(ApiModel):
    """A bound that was not kept, and what is done about it."""

    reason: Short = Field(description="reason is a documented CamelCase word.")
    message: Text = Field(description="message has the number and the bound.")
    action: GuardAction = Field(description="action is what is done.")
    observed_generation: int = Field(
        description="observedGeneration is the generation of the spec it was judged by; an edit of the spec undoes it."
    )


class RollbackStatus(ApiModel):
    """The one rollback that a job has."""

    after_attempt: int = Field(
        description="afterAttempt is the attempt that was rolled back; later ones take the lower rate."
    )
    learning_rate_factor: float = Field(
        description="learningRateFactor is what the learning rate of later attempts is multiplied with."
    )


class GuardsStatus(ApiModel):
    """What spec.guards is judged by."""

    samples: list[GuardSample] = Field(
        default=[], max_length=16, description="samples are the newest steps seen of the active attempt."
    )
    broken: BrokenGuard | None = Field(default=None, description="broken is the bound that was not kept.")
    rollback: RollbackStatus | None = Field(
        default=None, description="rollback is that of RollbackAndReduceLR."
    )


class DPOJobStatus(ApiModel):
    """The observed state."""

    observed_generation: int | None = Field(
        default=None, description="observedGeneration is the generation last acted on."
    )
    summary: Short | None = Field(
        default=None, description="summary is one word for display; programs use conditions."
    )
    conditions: list[Condition] = Field(
        default=[],
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        description="conditions are those of docs/reference/conditions.md: Complete, Failed, Running, DataValid, FitsHBM and others.",
    )
    plan: PlanStatus | None = Field(default=None, description="plan is what the spec resolves to.")
    attempt: int | None = Field(default=None, description="attempt is the number of the newest attempt.")
    attempts: list[AttemptStatus] = Field(
        default=[], max_length=20, description="attempts are the newest attempts."
    )
    retries: RetriesStatus | None = Field(
        default=None, description="retries are those used of spec.retryPolicy."
    )
    ledger: LedgerStatus | None = Field(
        default=None, description="ledger is what the time of all attempts has gone to, see docs/ledger.md."
    )
    suspended_seconds: int = Field(
        default=0, description="suspendedSeconds is how long the job was suspended; it is no active time."
    )
    progress: ProgressStatus | None = Field(
        default=None, description="progress is the newest numbers of the run."
    )
    final_metrics: FinalMetrics | None = Field(
        default=None, description="finalMetrics are the numbers of the finished run."
    )
    guards: GuardsStatus | None = Field(default=None, description="guards is what spec.guards is judged by.")
    output: OutputStatus | None = Field(default=None, description="output is where the results are.")
    start_time: datetime | None = Field(
        default=None, description="startTime is when the job was first acted on."
    )
    completion_time: datetime | None = Field(
        default=None, description="completionTime is when the job ended."
    )
