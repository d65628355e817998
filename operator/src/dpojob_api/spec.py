"""What a user writes: ``DPOJob.spec``, except for what goes in (``input_spec``), the accelerator and the runtime
(``slice_spec``), and retries and limits (``lifecycle_spec``).

These models are the source of the CRD. A description starts with the JSON name; every number has bounds and every
string and list a maximum, which the API server needs to bound the cost of CEL rules.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from dpojob_api.base import ApiModel
from dpojob_api.guards_spec import GuardsSpec
from dpojob_api.input_spec import DatasetSpec, ModelSpec
from dpojob_api.lifecycle_spec import BudgetSpec, ProgressSpec, RetryPolicySpec
from dpojob_api.slice_spec import AcceleratorSpec, CredentialsSpec, RuntimeSpec
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


class Optimizer(StrEnum):
    """Optimizers of EasyDeL 0.3.0 that DPOJob carries."""

    ADAMW = "adamw"
    ADAFACTOR = "adafactor"
    LION = "lion"
    RMSPROP = "rmsprop"


class Scheduler(StrEnum):
    """Learning rate schedules of EasyDeL 0.3.0."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


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


class TrainingSpec(ApiModel):
    """Steps, batch, optimizer and schedule."""

    epochs: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="epochs is the number of passes over the data; 1 if maxSteps is unset too.",
    )
    max_steps: int | None = Field(
        default=None,
        ge=1,
        le=10000000,
        description="maxSteps is the number of optimizer steps. It excludes epochs.",
    )
    global_batch_size: int = Field(
        default=32,
        ge=1,
        le=65536,
        description="globalBatchSize is the number of pairs per optimizer step on the whole slice.",
    )
    gradient_accumulation_steps: int = Field(
        default=1,
        ge=1,
        le=4096,
        description="gradientAccumulationSteps splits the global batch into micro-batches that run one after the other.",
    )
    learning_rate: float = Field(
        default=1e-6, gt=0.0, le=1.0, description="learningRate is the peak learning rate."
    )
    learning_rate_end: float | None = Field(
        default=None,
        gt=0.0,
        le=1.0,
        description="learningRateEnd is the learning rate of the last step; a tenth of the peak if unset.",
    )
    scheduler: Scheduler = Field(
        default=Scheduler.COSINE, description="scheduler is the shape of the learning rate after the warm-up."
    )
    warmup_steps: int = Field(
        default=0,
        ge=0,
        le=1000000,
        description="warmupSteps is the number of steps over which the learning rate rises.",
    )
    weight_decay: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="weightDecay is AdamW's decoupled weight decay; norms and biases are left out.",
    )
    clip_grad_norm: float = Field(
        default=1.0,
        gt=0.0,
        le=1000.0,
        description="clipGradNorm is the global gradient norm above which gradients are scaled down.",
    )
    optimizer: Optimizer = Field(default=Optimizer.ADAMW, description="optimizer is the update rule.")
    eval_steps: int | None = Field(
        default=None,
        ge=1,
        le=10000000,
        description="evalSteps evaluates every so many steps; only before and after training if unset.",
    )
    max_eval_steps: int | None = Field(
        default=None,
        ge=1,
        le=10000000,
        description="maxEvalSteps limits the batches of one evaluation; all if unset.",
    )
    checkpoint_steps: int = Field(
        default=500, ge=1, le=10000000, description="checkpointSteps writes a checkpoint every so many steps."
    )
    checkpoints_to_keep: int = Field(
        default=2,
        ge=0,
        le=1000,
        description="checkpointsToKeep is the number of newest checkpoints kept; 0 keeps all.",
    )
    keep_checkpoint_every: int | None = Field(
        default=None,
        ge=1,
        le=10000000,
        description="keepCheckpointEvery keeps the checkpoints of every so many steps for good, beside the newest.",
    )
    keep_best_checkpoint: bool = Field(
        default=False,
        description="keepBestCheckpoint evaluates before each checkpoint and keeps the one of the largest held-out "
        "reward margin, beside the newest.",
    )
    save_optimizer_state: bool = Field(
        default=True,
        description="saveOptimizerState writes the optimizer with each checkpoint; without it a resumed job differs.",
    )
    log_steps: int = Field(
        default=1,
        ge=1,
        le=100000,
        description="logSteps sends the metrics of every so many steps to the trackers; metrics.jsonl has every step.",
    )
    report_steps: int = Field(
        default=10,
        ge=1,
        le=100000,
        description="reportSteps prints the metrics of every so many steps to the driver's log.",
    )
    shuffle: bool = Field(
        default=True,
        description="shuffle gives every epoch a new order that seed decides; false keeps the file's order.",
    )
    length_buckets: int = Field(
        default=6,
        ge=1,
        le=16,
        description="lengthBuckets is the largest number of sequence lengths that steps are compiled for; a batch takes pairs "
        "of similar length and the shortest length that fits. 1 pads every pair to maxPromptLength + maxCompletionLength.",
    )
    seed: int = Field(
        default=42, ge=0, le=2147483647, description="seed decides the order of the training pairs."
    )


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


MUTABLE = frozenset(
    {
        "retryPolicy",
        "suspend",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
        "budget",
        "progress",
        "guards",
    }
)
"""Fields of the spec that may change while a job lives; they take effect without a restart."""
