"""What has to happen around `import easydel`: settings before it, one repair without torch, one of its numbers.

Every process of the trainer that uses EasyDeL calls :func:`prepare` before anything imports JAX or EasyDeL;
:mod:`dpojob_trainer.weights` calls :func:`keep_rotary_table_in_float32` before it builds a model.
"""

import os
import sys
from typing import Any

ENVIRONMENT = {
    # Libraries that ask then never look for torch, not even when it is installed.
    "USE_TORCH": "0",
    # EasyDeL would otherwise append to XLA_FLAGS and LIBTPU_INIT_ARGS and overwrite NCCL variables.
    "EASYDEL_AUTO": "0",
    # The launcher decides which process has which id; the import must not start a distributed runtime.
    "ENABLE_DISTRIBUTED_INIT": "0",
}
# Flax walks the graph of a module recursively, deeper than Python's default limit for deep models.
RECURSION_LIMIT = 10_000


def prepare() -> None:
    """Make `import easydel` work without torch and free of side effects; idempotent.

    Variables that are already set win, so `runtime.env` can override them.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    sys.setrecursionlimit(max(RECURSION_LIMIT, sys.getrecursionlimit()))
    _answer_probes_with_attribute_error()


def _answer_probes_with_attribute_error() -> None:
    """Turn the ImportError of transformers' placeholders for torch classes into AttributeError.

    Four EasyDeL configuration modules probe such a placeholder with `getattr(..., default)`, which only understands
    AttributeError. `modeling_auto` has callers that rely on ImportError.
    """
    from transformers.utils.import_utils import DummyObject

    original = DummyObject.__getattribute__
    if getattr(original, "answers_probes", False):
        return

    def getattribute(cls: type, key: str) -> Any:
        try:
            return original(cls, key)
        except ImportError:
            if cls.__name__ == "modeling_auto":
                raise
            raise AttributeError(key) from None

    getattribute.answers_probes = True  # type: ignore[attr-defined]
    DummyObject.__getattribute__ = getattribute


def keep_rotary_table_in_float32() -> None:
    """Replace EasyDeL's rotary table, which it rounds to bfloat16, by one in float32; idempotent.

    bfloat16 has 8 significant bits, so every cosine and sine would be off by up to 2e-3. The class is patched, not
    an instance, because EasyDeL builds the configuration anew when it restores a checkpoint.
    """
    from easydel.infra.base_config import EasyDeLBaseConfig

    EasyDeLBaseConfig.get_basic_frequencies = _basic_frequencies


def _basic_frequencies(
    self: Any, head_size: int | None = None, rotary_dim: int | None = None, base: float | None = None
) -> Any:
    """Return cosines and sines `[positions, rotary_dim]` in float32, replicated over the mesh."""
    import jax
    from easydel.infra.utils import ModuleCaches
    from easydel.layers import get_frequencies

    head_size = head_size or self.head_dim
    table = get_frequencies(
        head_size=head_size,
        rotary_dim=rotary_dim or head_size,
        max_position=self.granted_freq_max_position_embedding,
        base=base or self.rope_theta,
        rope_scaling=self._get_rope_config().to_dict(),
        partial_rotary_factor=getattr(self, "partial_rotary_factor", 1.0),
    )
    replicated = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())
    return ModuleCaches(jax.device_put(table.astype("float32"), replicated))
