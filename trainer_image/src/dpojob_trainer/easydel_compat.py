"""What has to happen before `import easydel`: environment settings, and a repair that lets it import without torch.

Every process of the trainer that uses EasyDeL calls :func:`prepare` before anything imports JAX or EasyDeL.
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
    # Attention kernels would otherwise be timed while the step is traced, when nothing runs, so that every host and every
    # start could choose other blocks, that is another program.
    "EJKERNEL_AUTOTUNE_POLICY": "heuristics",
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
