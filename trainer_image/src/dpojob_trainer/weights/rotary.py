"""Rotary position embeddings: settings in the form EasyDeL understands, and its table in full precision.

EasyDeL 0.3.0 ignores `rope_theta` where transformers 5 writes it, rounds the table to bfloat16, ends llama3's table
at the original length, and scales `dynamic` at every length. Su et al. 2021, arXiv:2104.09864.
"""

from typing import Any

from dpojob_trainer.weights.checkpoint import unsupported

# Types and settings whose tables our tests compare with transformers'.
TYPES = ("default", "linear", "llama3", "yarn")
SETTINGS = {"rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings"}
SETTINGS |= {"low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"}


def checked(settings: dict[str, Any], max_positions: int) -> dict[str, Any]:
    """Return config.json's content with `rope_theta` and `rope_scaling` in the form of transformers 4.

    Raises:
        TrainerError: MODEL_UNSUPPORTED when EasyDeL would compute another table than transformers.
    """
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    theta = rope.get("rope_theta", settings.get("rope_theta"))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if unknown := sorted(set(rope) - SETTINGS):
        raise unsupported(f"the rotary embedding's {', '.join(unknown)} is not supported")
    if kind not in TYPES:
        raise unsupported(f"rotary type {kind} is not supported; supported are {', '.join(TYPES)}")
    if kind in ("llama3", "yarn") and "original_max_position_embeddings" not in rope:
        raise unsupported(f"rotary type {kind} lacks original_max_position_embeddings in config.json")
    if kind == "yarn":
        _check_yarn_length(rope, max_positions)
    scaling = None if kind == "default" else {key: rope[key] for key in rope if key != "rope_theta"}
    rest = {key: value for key, value in settings.items() if key not in ("rope_parameters", "rope_theta")}
    return rest | {"rope_scaling": scaling} | ({} if theta is None else {"rope_theta": float(theta)})


def keep_table_in_float32() -> None:
    """Make every EasyDeL module use :func:`table`; idempotent.

    bfloat16 has 8 significant bits, so every cosine and sine would be off by up to 2e-3. The class is patched, not
    an instance, because EasyDeL builds the configuration anew when it restores a checkpoint.
    """
    from easydel.infra.base_config import EasyDeLBaseConfig

    EasyDeLBaseConfig.get_basic_frequencies = table


def table(
    self: Any, head_size: int | None = None, rotary_dim: int | None = None, base: float | None = None
) -> Any:
    """Return cosines and sines `[positions, rotary_dim]` in float32, replicated over the mesh."""
    import jax
    from easydel.infra.utils import ModuleCaches

    size = head_size or self.head_dim
    arguments = {
        "head_size": size,
        "rotary_dim": rotary_dim or size,
        "max_position": self.granted_freq_max_position_embedding,
        "base": base or self.rope_theta,
        "rope_scaling": self._get_rope_config().to_dict(),
        "partial_rotary_factor": getattr(self, "partial_rotary_factor", 1.0),
    }
    replicated = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())
    return ModuleCaches(jax.device_put(_cosines_and_sines(arguments), replicated))


def _cosines_and_sines(arguments: dict[str, Any]) -> Any:
    import jax.numpy as jnp
    from easydel.layers import get_frequencies, get_inv_frequencies

    if arguments["rope_scaling"].get("rope_type") != "llama3":
        return get_frequencies(**arguments).astype(jnp.float32)
    positions = jnp.arange(arguments["max_position"], dtype=jnp.float32)
    angles = jnp.outer(positions, get_inv_frequencies(**arguments))
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def _check_yarn_length(rope: dict[str, Any], max_positions: int) -> None:
    rows = int(rope["original_max_position_embeddings"] * rope["factor"])
    if max_positions > rows:
        raise unsupported(
            f"its yarn table has {rows} positions and the job needs {max_positions}; "
            "lower dpo.maxPromptLength or dpo.maxCompletionLength"
        )
