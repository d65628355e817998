"""What the operator writes into the attempt's ConfigMap and the trainer reads: the spec, resolved.

The operator serialises it with :meth:`TrainerConfig.to_json`; the driver validates the file before it touches Ray.
"""

from pydantic import Field

from dpojob_api.base import ApiModel
from dpojob_api.input_spec import DatasetSpec, ModelSpec
from dpojob_api.slice_spec import DEFAULT_XLA_FLAGS, Launcher, Platform, XlaFlag, XlaValue
from dpojob_api.spec import (
    AttentionSpec,
    DPOSpec,
    GradientCheckpointing,
    OutputSpec,
    PrecisionSpec,
    ShortGradientCheckpointing,
    TrackingSpec,
)
from dpojob_api.status import PlanEstimate, PlanStatus
from dpojob_api.training_spec import TrainingSpec
from dpojob_api.v1alpha1 import DPOJob, plan_of, shape_of


class JobRef(ApiModel):
    """Which job and attempt this is."""

    name: str = Field(description="name is the DPOJob's name.")
    namespace: str = Field(description="namespace is the DPOJob's namespace.")
    uid: str = Field(description="uid is the DPOJob's uid; it marks the output folder as this job's.")
    attempt: int = Field(ge=1, description="attempt counts from 1.")
    start: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{16}$",
        description="start is a random name of one start of the attempt; the driver gives it to its hosts.",
    )


class TrainerConfig(ApiModel):
    """Everything the trainer needs, except Secrets, which are environment variables."""

    job: JobRef = Field(description="job is which job and attempt this is.")
    model: ModelSpec = Field(description="model is spec.model.")
    dataset: DatasetSpec = Field(description="dataset is spec.dataset.")
    dpo: DPOSpec = Field(description="dpo is spec.dpo with maxLength set.")
    training: TrainingSpec = Field(description="training is spec.training.")
    precision: PrecisionSpec = Field(description="precision is spec.precision.")
    plan: PlanStatus = Field(description="plan is the resolved slice and mesh, and what a plan has found.")
    generation: str = Field(description="generation is the TPU generation, e.g. v4.")
    attention: AttentionSpec = Field(description="attention is spec.attention with maxPositions set.")
    gradient_checkpointing: GradientCheckpointing = Field(description="gradientCheckpointing is the spec's.")
    short_gradient_checkpointing: ShortGradientCheckpointing = Field(
        default=ShortGradientCheckpointing(), description="shortGradientCheckpointing is the spec's."
    )
    output: OutputSpec = Field(description="output is spec.output.")
    tracking: TrackingSpec = Field(description="tracking is spec.tracking.")
    launcher: Launcher = Field(description="launcher is spec.runtime.launcher.")
    platform: Platform = Field(description="platform is spec.runtime.platform.")
    xla_flags: dict[XlaFlag, XlaValue] = Field(
        default_factory=dict,
        description="xlaFlags is spec.runtime.xlaFlags and the defaults; only a TPU takes notice.",
    )

    def checkpointing_of(self, positions: int) -> GradientCheckpointing:
        """Return the policy for batches whose sequences have so many positions."""
        return self.short_gradient_checkpointing.policy(positions, self.gradient_checkpointing)

    def to_json(self) -> str:
        """Return the file's text; equal configurations give equal text."""
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=2)


def trainer_config(job: DPOJob, attempt: int) -> TrainerConfig:
    """Resolve a DPOJob into the trainer's configuration for one attempt."""
    spec = job.spec
    max_length = spec.dpo.max_prompt_length + spec.dpo.max_completion_length
    return TrainerConfig(
        job=JobRef(
            name=job.metadata.name, namespace=job.metadata.namespace, uid=job.metadata.uid, attempt=attempt
        ),
        model=spec.model,
        dataset=spec.dataset,
        dpo=spec.dpo.model_copy(update={"max_length": max_length}),
        training=resolve_training(spec.training, rate_factor(job, attempt)),
        precision=spec.precision,
        plan=planned(job, attempt),
        generation=shape_of(spec).generation,
        attention=spec.attention.model_copy(
            update={"max_positions": spec.attention.max_positions or max_length}
        ),
        gradient_checkpointing=spec.gradient_checkpointing,
        short_gradient_checkpointing=spec.short_gradient_checkpointing,
        output=spec.output,
        tracking=spec.tracking,
        launcher=spec.runtime.launcher,
        platform=spec.runtime.platform,
        xla_flags=DEFAULT_XLA_FLAGS | (spec.runtime.xla_flags or {}),
    )


def planned(job: DPOJob, attempt: int) -> PlanStatus:
    """Return the slice and the mesh with what a plan has found, which holds for the step at its own learning rate."""
    found = {name: getattr(job.status.plan, name, None) for name in PlanEstimate.model_fields}
    if rate_factor(job, attempt) != 1:
        found["fingerprint"] = None
    return plan_of(job.spec).model_copy(update=found)


def rate_factor(job: DPOJob, attempt: int) -> float:
    """Return what an attempt's learning rate is multiplied with: below 1 once a guard has rolled the job back."""
    rollback = job.status.guards.rollback if job.status.guards else None
    return rollback.learning_rate_factor if rollback and rollback.after_attempt < attempt else 1.0


def resolve_training(training: TrainingSpec, factor: float = 1.0) -> TrainingSpec:
    """Fill in what the spec leaves to defaults that depend on other fields; scale the learning rate by a factor."""
    update: dict[str, object] = {}
    if training.epochs is None and training.max_steps is None:
        update["epochs"] = 1
    if training.learning_rate_end is None:
        update["learning_rate_end"] = training.learning_rate / 10 * factor
    elif factor != 1:
        update["learning_rate_end"] = training.learning_rate_end * factor
    if factor != 1:
        update["learning_rate"] = training.learning_rate * factor
    return training.model_copy(update=update)
