"""What has to happen before `import easydel`: environment settings, and a repair that lets it import without torch.

Every process of the trainer that uses EasyDeL calls :func:`prepare` first, before JAX is imported.
"""

import os

ENVIRONMENT = {
    # EasyDeL and transformers then never look for torch, not even when it is installed.
    "USE_TORCH": "0",
    "USE_TF": "0",
    # EasyDeL would otherwise append to XLA_FLAGS and LIBTPU_INIT_ARGS and call jax.distributed.initialize itself.
    "EASYDEL_AUTO": "0",
    "ENABLE_DISTRIBUTED_INIT": "0",
    "WANDB_SILENT": "true",
}


def prepare() -> None:
    """Make `import easydel` work without torch and free of side effects; idempotent.

    Variables that are already set win, so `runtime.env` can override them.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _answer_probes_with_attribute_error()


def _answer_probes_with_attribute_error() -> None:
    """Turn the ImportError of transformers' torch placeholders into AttributeError.

    Four EasyDeL configuration modules probe such a placeholder with `getattr(..., default)`, which only understands
    AttributeError. `modeling_auto` has callers that rely on ImportError.
    """
    from transformers.utils.import_utils import DummyObject

    original = DummyObject.__getattribute__
    if getattr(original, "answers_probes", False):
        return

    def getattribute(cls: type, key: str) -> object:
        try:
            return original(cls, key)
        except ImportError:
            if cls.__name__ == "modeling_auto":
                raise
            raise AttributeError(key) from None

    getattribute.answers_probes = True  # type: ignore[attr-defined]
    DummyObject.__getattribute__ = getattribute
