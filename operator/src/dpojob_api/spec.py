"""What a user writes: ``DPOJob.spec``, except for what goes in (``input_spec``), steps and optimizer (``training_spec``),
the accelerator and the runtime (``slice_spec``), and retries and limits (``lifecycle_spec``).

These models are the source of the CRD. A description starts with the JSON name; every number has bounds and every
string and list a maximum, which the API server needs to bound the cost of CEL rules.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from dpojob_api.base import ApiModel
from dpojob_api.guards_spec import GuardsSpec
from dpojob_api.input_spec import DatasetSpec, ModelSpec
from dpojob_api.lifecycle_spec import BudgetSpec, PlanSpec, ProgressSpec, RetryPolicySpec
from dpojob_api.slice_spec import AcceleratorSpec, CredentialsSpec, RuntimeSpec
from dpojob_api.training_spec import TrainingSpec
from dpojob_api.uris import OUTPUT_PATTERN

OutputUri = Annotated[str, StringConstraints(pattern=OUTPUT_PATTERN, max_length=1024)]
MeshAxis = Annotated[int, Field(ge=-1, le=16384)]


class LossType(StrEnum):
    """Loss variants that the trainer computes and TRL confirms (``docs/parity.md``)."""

    SIGMOID = "sigmoid"
    HINGE = "hinge"
    IPO = "ipo"
    EXO_PAIR = "exo_pair"
    NCA_PAIR = "nca_pair"
    ROBUST = "robust"
    BCO_PAIR = "bco_pair"
    SPPO_HARD = "sppo_hard"
    AOT = "aot"
    AOT_PAIR = "aot_pair"
    APO_ZERO = "apo_zero"
    APO_DOWN = "apo_down"


SMOOTHED_LOSSES = (
    LossType.SIGMOID,
    LossType.EXO_PAIR,
    LossType.ROBUST,
    LossType.AOT,
    LossType.AOT_PAIR,
)


class DType(StrEnum):
    """Floating point types of parameters and of the computation."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class ReferenceLogProbs(StrEnum):
    """When the reference's log-probabilities are computed."""

    PRECOMPUTED = "precomputed"
    LIVE = "live"


class AttentionMechanism(StrEnum):
    """Attention kernels of EasyDeL 0.3.0 that train on TPU or CPU."""

    AUTO = "auto"
    VANILLA = "vanilla"
    SDPA = "sdpa"
    SPLASH = "splash"
    BLOCKWISE = "blockwise"
    RING = "ring"


class GradientCheckpointing(StrEnum):
    """What the backward pass keeps of the forward pass (JAX checkpoint policies)."""

    NONE = "none"
    NOTHING_SAVEABLE = "nothing_saveable"
    CHECKPOINT_DOTS = "checkpoint_dots"
    CHECKPOINT_DOTS_WITH_NO_BATCH_DIMS = "checkpoint_dots_with_no_batch_dims"


class ShortGradientCheckpointing(ApiModel):
    """Policies for batches of short sequences, which have room for more activations; 0 is no length at all."""

    none: int = Field(
        default=0,
        ge=0,
        le=1048576,
        description="none is the longest static length that keeps every activation.",
    )
    checkpoint_dots: int = Field(
        default=0,
        ge=0,
        le=1048576,
        description="checkpointDots is the longest static length that keeps the results of matrix products.",
    )

    def policy(self, positions: int, usual: GradientCheckpointing) -> GradientCheckpointing:
        """Return the policy for sequences of so many positions that keeps most, the usual one if they are too long for all."""
        if positions <= self.none:
            return GradientCheckpointing.NONE
        return GradientCheckpointing.CHECKPOINT_DOTS if positions <= self.checkpoint_dots else usual


class ExportFormat(StrEnum):
    """How the tuned policy is written."""

    SAFETENSORS = "safetensors"
    NONE = "none"


class DPOSpec(ApiModel):
    """The preference loss (Rafailov et al. 2023, arXiv:2305.18290) and the lengths in tokens."""

    beta: float = Field(
        default=0.1,
        gt=0.0,
        le=100.0,
        description="beta scales the implicit reward; larger stays closer to the reference.",
    )
    loss_type: LossType = Field(default=LossType.SIGMOID, description="lossType is the loss variant.")
    label_smoothing: float = Field(
        default=0.0,
        ge=0.0,
        lt=0.5,
        description="labelSmoothing is the assumed share of flipped preference labels, for lossType sigmoid, exo_pair, "
        "robust, aot and aot_pair.",
    )
    reference_free: bool = Field(
        default=False,
        description="referenceFree leaves the reference model out; its log-probabilities count as 0.",
    )
    reference_log_probs: ReferenceLogProbs = Field(
        default=ReferenceLogProbs.PRECOMPUTED,
        description="referenceLogProbs is precomputed (once per pair ahead of training, kept in the output for later attempts) "
        "or live (in every step, with the reference model in memory).",
    )
    max_prompt_length: int = Field(
        default=1024,
        ge=1,
        le=1048576,
        description="maxPromptLength is the number of prompt tokens kept; longer prompts lose their beginning.",
    )
    max_completion_length: int = Field(
        default=1024,
        ge=1,
        le=1048576,
        description="maxCompletionLength is the number of completion tokens kept; longer completions lose their end.",
    )
    max_length: int | None = Field(
        default=None,
        ge=2,
        le=2097152,
        description="maxLength is maxPromptLength + maxCompletionLength; it may be left out.",
    )

    @property
    def live_reference(self) -> bool:
        """Whether every step computes the reference."""
        return not self.reference_free and self.reference_log_probs is ReferenceLogProbs.LIVE

    @property
    def precomputed_reference(self) -> bool:
        """Whether the reference's log-probabilities come with the pairs."""
        return not self.reference_free and self.reference_log_probs is ReferenceLogProbs.PRECOMPUTED


class PrecisionSpec(ApiModel):
    """Number formats. bfloat16 parameters lose updates at usual DPO learning rates."""

    params: DType = Field(
        default=DType.FLOAT32,
        description="params is the type of parameters and optimizer state; status warns (Discouraged) of bfloat16.",
    )
    compute: DType = Field(
        default=DType.BFLOAT16, description="compute is the type of activations and matrix products."
    )


class MeshSpec(ApiModel):
    """The device mesh; the axes multiply to the chips of all slices, one of them may be -1 (the rest)."""

    dp: MeshAxis = Field(default=1, description="dp is data parallelism with replicated parameters.")
    fsdp: MeshAxis = Field(default=-1, description="fsdp is data parallelism with sharded parameters.")
    ep: MeshAxis = Field(default=1, description="ep is expert parallelism.")
    tp: MeshAxis = Field(default=1, description="tp is tensor parallelism.")
    sp: MeshAxis = Field(default=1, description="sp is sequence parallelism.")


class AttentionSpec(ApiModel):
    """The attention kernel."""

    mechanism: AttentionMechanism = Field(
        default=AttentionMechanism.AUTO,
        description="mechanism is the kernel; auto is splash on TPU and vanilla on CPU.",
    )
    max_positions: int | None = Field(
        default=None,
        ge=2,
        le=2097152,
        description="maxPositions is the length of the rotary table and of the attention mask; maxLength if unset.",
    )


class OutputSpec(ApiModel):
    """Where checkpoints, metrics and the tuned model go."""

    uri: OutputUri = Field(
        description="uri is the folder of this job alone: gs://bucket/path or pvc://claim/path. The tuned model is in its model/."
    )
    cache_uri: OutputUri | None = Field(
        default=None,
        description="cacheUri is a folder that jobs share: gs://bucket/path or pvc://claim/path. It holds the reference's "
        "log-probabilities and compiled programs, which are in this job's own folder if unset.",
    )
    export_format: ExportFormat = Field(
        default=ExportFormat.SAFETENSORS,
        description="exportFormat is safetensors (Hugging Face layout with tokenizer) or none (checkpoints only).",
    )
    sample_completions: int = Field(
        default=4,
        ge=0,
        le=64,
        description="sampleCompletions is how many held-out prompts the base and the tuned model complete for "
        "report.html; 0 for none. It costs up to 2 x sampleTokens forward passes after the export.",
    )
    sample_tokens: int = Field(
        default=64,
        ge=1,
        le=1024,
        description="sampleTokens is the largest number of tokens of such a completion.",
    )


class WandbSpec(ApiModel):
    """A Weights & Biases run; the key comes from credentials.wandb."""

    project: str = Field(min_length=1, max_length=128, description="project is the W&B project.")
    entity: str | None = Field(
        default=None, min_length=1, max_length=128, description="entity is the W&B user or team."
    )


class TrackingSpec(ApiModel):
    """Experiment tracking beside the Prometheus metrics and metrics.jsonl."""

    wandb: WandbSpec | None = Field(
        default=None, description="wandb logs the run to Weights & Biases; off if unset."
    )
    weight_histogram_steps: int | None = Field(
        default=None,
        ge=1,
        le=1000000,
        description="weightHistogramSteps logs weight histograms to W&B every so many steps; off if unset.",
    )


class DPOJobSpec(ApiModel):
    """The desired run. Fields that are not in ``MUTABLE`` are fixed once the job is created."""

    model: ModelSpec = Field(description="model is the base model.")
    dataset: DatasetSpec = Field(description="dataset is the preference data.")
    dpo: DPOSpec = Field(default=DPOSpec(), description="dpo is the loss and the lengths.")
    training: TrainingSpec = Field(
        default=TrainingSpec(), description="training is steps, batch, optimizer and schedule."
    )
    precision: PrecisionSpec = Field(default=PrecisionSpec(), description="precision is the number formats.")
    mesh: MeshSpec = Field(default=MeshSpec(), description="mesh is how the work is divided over the chips.")
    attention: AttentionSpec = Field(
        default=AttentionSpec(), description="attention is the attention kernel."
    )
    gradient_checkpointing: GradientCheckpointing = Field(
        default=GradientCheckpointing.NOTHING_SAVEABLE,
        description="gradientCheckpointing trades computation for memory; none keeps every activation.",
    )
    short_gradient_checkpointing: ShortGradientCheckpointing = Field(
        default=ShortGradientCheckpointing(),
        description="shortGradientCheckpointing lets batches up to a static length keep more than gradientCheckpointing does; "
        "dpojob plan --tune finds what fits.",
    )
    accelerator: AcceleratorSpec = Field(description="accelerator is the TPU slice.")
    output: OutputSpec = Field(description="output is where results go.")
    tracking: TrackingSpec = Field(default=TrackingSpec(), description="tracking is experiment tracking.")
    credentials: CredentialsSpec = Field(default=CredentialsSpec(), description="credentials names Secrets.")
    runtime: RuntimeSpec = Field(default=RuntimeSpec(), description="runtime is how the pods run.")
    retry_policy: RetryPolicySpec = Field(
        default=RetryPolicySpec(),
        description="retryPolicy is when a failed attempt is followed by another one.",
    )
    suspend: bool = Field(
        default=False,
        description="suspend stops the attempt with a checkpoint and releases the slice; false lets the job go on.",
    )
    active_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=31536000,
        description="activeDeadlineSeconds is how long the whole job may take, all attempts and waits included, time "
        "suspended not. No limit if unset.",
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=31536000,
        description="ttlSecondsAfterFinished deletes the DPOJob so long after its end; its output stays. Never if unset.",
    )
    budget: BudgetSpec = Field(default=BudgetSpec(), description="budget is what the job may use.")
    progress: ProgressSpec = Field(
        default=ProgressSpec(), description="progress is when a run that says nothing counts as lost."
    )
    guards: GuardsSpec = Field(
        default=GuardsSpec(), description="guards are rules on training itself, all off by default."
    )
    plan: PlanSpec = Field(
        default=PlanSpec(),
        description="plan is what is found out before a slice is asked for, see docs/plan.md.",
    )


MUTABLE = frozenset(
    {
        "retryPolicy",
        "suspend",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
        "budget",
        "progress",
        "guards",
        "plan",
    }
)
"""Fields of the spec that may change while a job lives; they take effect without a restart."""
