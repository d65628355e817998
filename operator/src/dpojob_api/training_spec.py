"""Which steps are taken with which optimizer, and what is kept and told of them: ``spec.training``."""

from enum import StrEnum

from pydantic import Field

from dpojob_api.base import ApiModel


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
