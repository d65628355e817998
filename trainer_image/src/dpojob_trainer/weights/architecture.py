"""From config.json and the job's configuration to an EasyDeL module whose parameters are only shapes yet."""

from pathlib import Path
from typing import Any

from dpojob_api.reasons import TrainerReason
from dpojob_api.spec import AttentionMechanism, DType
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import easydel_compat
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.weights import attention, layers, rotary
from dpojob_trainer.weights.checkpoint import read_json, unsupported

# Dense decoders whose logits our tests compare with transformers'. Others may need transforms beyond renaming and
# transposing (fused or expert tensors, Conv1D), which a shape check alone would not notice for square matrices.
VERIFIED = ("gemma", "llama", "mistral", "qwen2", "qwen3", "smollm3")
# The policy must compute what the reference computes.
NO_DROPOUT = dict.fromkeys(("attention_dropout", "embd_pdrop", "resid_pdrop"), 0.0)
# Positions that splash attention takes at once (ejkernel's heuristic on TPU); lengths of batches are multiples of it.
SPLASH_BLOCK = 128
# EasyDeL reads these as its own settings or as types that only torch has.
FOREIGN_KEYS = {"torch_dtype", "dtype", "auto_map", "transformers_version", "_name_or_path"}


def abstract_module(model_dir: Path, config: TrainerConfig, *, dtype: DType, param_dtype: DType) -> Any:
    """Return the module of `model_dir` with `jax.ShapeDtypeStruct` in place of arrays.

    Raises:
        TrainerError: MODEL_UNSUPPORTED.
    """
    easydel_compat.prepare()
    import jax
    import jax.numpy as jnp
    from flax import nnx

    settings = read_json(model_dir / "config.json")
    config_class, module_class = classes_of(settings)
    _check_devices(config, jax.device_count())
    rotary.keep_table_in_float32()
    attention.use_on_cpu()
    own = {key: value for key, value in settings.items() if key not in FOREIGN_KEYS} | NO_DROPOUT
    positions = config.attention.max_positions or 0
    module_config = config_class.from_dict(rotary.checked(full_attention(own, positions), positions))
    module_config.add_basic_configurations(**_settings(config, jnp.dtype(dtype.value)))
    module = module_class.lazy_init(
        config=module_config,
        dtype=jnp.dtype(dtype.value),
        param_dtype=jnp.dtype(param_dtype.value),
        precision=_precision(dtype),
        rngs=nnx.Rngs(0),
    )
    layers.recompute(module, config)
    return module


def classes_of(settings: dict[str, Any]) -> tuple[Any, Any]:
    """Return EasyDeL's classes of configuration and model for config.json's content.

    Raises:
        TrainerError: MODEL_UNSUPPORTED.
    """
    from easydel.modules.auto.auto_configuration import get_modules_by_type

    found: tuple[Any, Any] = get_modules_by_type(_supported_type(settings), _causal_lm())
    return found


def full_attention(settings: dict[str, Any], positions: int) -> dict[str, Any]:
    """Return config.json's content without its sliding window, which sequences up to `positions` do not notice.

    EasyDeL 0.3.0 masks another window than transformers.

    Raises:
        TrainerError: MODEL_UNSUPPORTED when the window is shorter than `positions`.
    """
    window = settings.get("sliding_window")
    if window is not None and settings.get("use_sliding_window", True) and window < positions:
        raise unsupported(
            f"its sliding window of {window} tokens is shorter than the {positions} positions of the job; "
            "lower dpo.maxPromptLength or dpo.maxCompletionLength"
        )
    rest = {key: value for key, value in settings.items() if key != "layer_types"}
    return rest | {"sliding_window": None, "use_sliding_window": False}


def is_tied(module: Any) -> bool:
    """Whether the output head is the embedding."""
    return bool(getattr(module.config, "tie_word_embeddings", False))


def shardings(module: Any) -> dict[tuple[str | int, ...], Any]:
    """Return the NamedSharding of every parameter by path, as EasyDeL's `shard_model` would choose it."""
    from easydel.infra.utils import sanitize_partition_specs_for_shape_tree
    from eformer.escale import match_partition_rules
    from flax.traverse_util import flatten_dict
    from jax.sharding import NamedSharding

    shapes = module.graphtree_params_shape
    specs = match_partition_rules(rules=module._get_partition_rules(None), tree=shapes)
    specs, _ = sanitize_partition_specs_for_shape_tree(
        partition_specs=specs, shape_tree=shapes, mesh=module.mesh
    )
    return {path: NamedSharding(module.mesh, spec) for path, spec in flatten_dict(specs).items()}


def _causal_lm() -> Any:
    from easydel.infra.factory import TaskType

    return TaskType.CAUSAL_LM


def _supported_type(settings: dict[str, Any]) -> str:
    model_type = str(settings.get("model_type"))
    if model_type not in VERIFIED:
        raise unsupported(
            f"model_type {model_type} is not supported. Use a model of type {', '.join(VERIFIED)}; "
            "custom code of a repository is never run"
        )
    if "quantization_config" in settings:
        raise unsupported("the weights are quantised. Use the model's bfloat16 or float32 weights")
    return model_type


def _check_devices(config: TrainerConfig, devices: int) -> None:
    if devices != config.plan.chips:
        raise TrainerError(
            TrainerReason.SLICE_NOT_READY,
            f"The mesh needs {config.plan.chips} devices and JAX sees {devices}; "
            "a host is missing or accelerator.type does not describe the slice.",
        )


def _settings(config: TrainerConfig, compute: Any) -> dict[str, Any]:
    """EasyDeL's own configuration: mesh, attention, types and lengths."""
    return {
        "sharding_axis_dims": config.plan.mesh.dims(),
        "attn_mechanism": attention_mechanism(config.attention.mechanism),
        "attn_dtype": compute,
        "kvdtype": compute,
        "freq_max_position_embeddings": config.attention.max_positions,
        "mask_max_position_embeddings": config.attention.max_positions,
        # EasyDeL leaves splash attention for lengths that these do not divide; its own 512 are more than the kernel needs.
        "blocksize_q": SPLASH_BLOCK,
        "blocksize_k": SPLASH_BLOCK,
    }


def attention_mechanism(mechanism: AttentionMechanism) -> Any:
    """Return EasyDeL's kernel; its own `auto` would also overwrite the attention's type by bfloat16."""
    import jax
    from easydel.layers.attention import AttentionMechanisms

    if mechanism is AttentionMechanism.AUTO:
        on_tpu = jax.default_backend() == "tpu"
        mechanism = AttentionMechanism.SPLASH if on_tpu else AttentionMechanism.VANILLA
    return AttentionMechanisms[mechanism.name]


def _precision(dtype: DType) -> Any:
    """Return the precision of matrix products; a TPU multiplies float32 in bfloat16 unless told otherwise."""
    import jax

    return jax.lax.Precision.HIGHEST if dtype is DType.FLOAT32 else None
