"""How many bytes a job may need, guessed from config.json: only to decide what is worth compiling. Pure."""

from typing import Any

from dpojob_api.spec import DType, GradientCheckpointing
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.training.batches import Shape
from dpojob_trainer.training.plan import micro_batch_size

BYTES = {DType.FLOAT32: 4, DType.BFLOAT16: 2}
# Parameters, gradients and AdamW's two moments, which have the parameters' type.
COPIES = 4
# A guess that is twice as much as there is may be off by a half.
MARGIN = 2.0


def layer_parameters(settings: dict[str, Any]) -> int:
    """Return the parameters of one layer of a model with attention and a gated feed-forward part."""
    hidden, wide, heads, keys = _widths(settings)
    return hidden * (2 * heads + 2 * keys + 3 * wide)


def layer_activations(settings: dict[str, Any], policy: GradientCheckpointing) -> int:
    """Return the numbers per token that one layer keeps for its gradients.

    Without recomputation the factors are fitted to one extrapolation: 2 GiB per layer of Qwen3-14B with EasyDeL's own step,
    fsdp 32 and 32 pairs of 4096 tokens. No other model has been compared. Of the others, what products return is counted.
    """
    hidden, wide, heads, keys = _widths(settings)
    if policy is GradientCheckpointing.NOTHING_SAVEABLE:
        return hidden
    if policy is not GradientCheckpointing.NONE:
        return 3 * hidden + 2 * wide + heads + 2 * keys
    return 8 * hidden + 4 * wide + 4 * heads + 4 * keys


def _widths(settings: dict[str, Any]) -> tuple[int, int, int, int]:
    hidden, heads = int(settings["hidden_size"]), int(settings["num_attention_heads"])
    size = int(settings.get("head_dim") or hidden // heads)
    keys = int(settings.get("num_key_value_heads") or heads)
    return hidden, int(settings["intermediate_size"]), heads * size, keys * size


def step_bytes(config: TrainerConfig, settings: dict[str, Any], shape: Shape) -> float:
    """Return what a chip takes in a step for the layers alone, without what a part of one takes meanwhile."""
    mesh, precision = config.plan.mesh, config.precision
    resident = COPIES * BYTES[precision.params] * layer_parameters(settings) / (mesh.fsdp * mesh.tp * mesh.sp)
    tokens = 2 * micro_batch_size(config.training) * shape.sequence / (mesh.data_shards * mesh.sp)
    kept = layer_activations(settings, config.checkpointing_of(shape.sequence)) / mesh.tp
    return int(settings["num_hidden_layers"]) * (resident + tokens * kept * BYTES[precision.compute])


def is_hopeless(guessed: float, usable: float) -> bool:
    """Whether a job is so far beyond a chip that compiling it would tell nothing new; it takes minutes and gigabytes."""
    return guessed > MARGIN * usable
