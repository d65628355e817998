"""First stage of training on every host: a Hugging Face model directory becomes a sharded EasyDeL module."""

from pathlib import Path
from typing import Any

from dpojob_api.spec import DType
from dpojob_api.trainer_config import TrainerConfig


def load_model(
    model_dir: Path,
    config: TrainerConfig,
    *,
    dtype: DType | None = None,
    param_dtype: DType | None = None,
) -> Any:
    """Return the causal language model of `model_dir` on the mesh of `config.plan`.

    Every process of the slice calls it with the same arguments, after `jax.distributed.initialize`; each reads only
    the slices that its own devices hold. `dtype` (of the computation) and `param_dtype` default to
    `config.precision`; pass both to load the reference model in another precision.
    Parameters are bit-exact when `param_dtype` is the stored type.

    Raises:
        TrainerError: MODEL_NOT_FOUND when files are missing, MODEL_UNSUPPORTED when EasyDeL has no such
            architecture or a tensor is missing, unexpected or has another shape.
    """
    raise NotImplementedError
