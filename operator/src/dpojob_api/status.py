"""What the operator tells: ``DPOJob.status``."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from dpojob_api.base import ApiModel
from dpojob_api.mesh import ResolvedMesh

Text = Annotated[str, StringConstraints(max_length=4096)]
Short = Annotated[str, StringConstraints(max_length=256)]


class Condition(ApiModel):
    """A Kubernetes condition (meta/v1 Condition)."""

    type: Short = Field(description="type is the condition in CamelCase.")
    status: Literal["True", "False", "Unknown"] = Field(description="status is True, False or Unknown.")
    reason: Short = Field(
        description="reason is a documented CamelCase word, see docs/reference/conditions.md."
    )
    message: Text = Field(description="message says what happened and what to do about it.")
    last_transition_time: datetime = Field(description="lastTransitionTime is when status last changed.")
    observed_generation: int = Field(
        description="observedGeneration is the generation the condition speaks of."
    )


class PlanStatus(ApiModel):
    """What the accelerator and mesh in the spec resolve to."""

    accelerator_type: Short = Field(description="acceleratorType is the Cloud TPU accelerator type.")
    topology: Short = Field(description="topology is the shape of the slice.")
    chips: int = Field(description="chips is the number of chips, one JAX device each.")
    hosts: int = Field(description="hosts is the number of host pods.")
    chips_per_host: int = Field(description="chipsPerHost is the number of chips of one host.")
    mesh: ResolvedMesh = Field(description="mesh is the size of every mesh axis.")


class AttemptStatus(ApiModel):
    """One attempt, that is one RayJob."""

    number: int = Field(description="number counts from 1.")
    ray_job: Short = Field(description="rayJob is the RayJob's name.")
    outcome: Literal["Active", "Succeeded", "Failed", "Lost"] = Field(
        description="outcome is how the attempt stands."
    )
    reason: Short | None = Field(default=None, description="reason is why it ended.")
    message: Text | None = Field(default=None, description="message is why it ended, in words.")
    start_time: datetime = Field(description="startTime is when the RayJob was created.")
    end_time: datetime | None = Field(default=None, description="endTime is when it ended.")


class ProgressStatus(ApiModel):
    """The newest numbers that the trainer served."""

    phase: Short = Field(
        description="phase is what the trainer is doing: starting, loading, training, evaluating, exporting."
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
    eta: Short | None = Field(
        default=None, description="eta is the estimated time to the last step, e.g. 12m30s."
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
        description="conditions are Complete, Failed, Running, DataValid, Reconciling and Stalled.",
    )
    plan: PlanStatus | None = Field(default=None, description="plan is what the spec resolves to.")
    attempt: int | None = Field(default=None, description="attempt is the number of the newest attempt.")
    attempts: list[AttemptStatus] = Field(
        default=[], max_length=20, description="attempts are the newest attempts."
    )
    progress: ProgressStatus | None = Field(
        default=None, description="progress is the newest numbers of the run."
    )
    final_metrics: FinalMetrics | None = Field(
        default=None, description="finalMetrics are the numbers of the finished run."
    )
    output: OutputStatus | None = Field(default=None, description="output is where the results are.")
    start_time: datetime | None = Field(
        default=None, description="startTime is when the job was first acted on."
    )
    completion_time: datetime | None = Field(
        default=None, description="completionTime is when the job ended."
    )
