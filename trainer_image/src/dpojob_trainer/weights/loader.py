"""First stage of training on every host: a Hugging Face model directory becomes a sharded EasyDeL module."""

from pathlib import Path
from typing import Any

from dpojob_api.reasons import TrainerReason
from dpojob_api.spec import DType
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.weights.architecture import abstract_module, is_tied, shardings
from dpojob_trainer.weights.checkpoint import (
    Checkpoint,
    contiguous,
    floating,
    open_checkpoint,
    transposed,
    whole,
)
from dpojob_trainer.weights.names import Parameter, parameters, unexpected

NAMES_IN_MESSAGE = 5


def load_model(model_dir: Path, config: TrainerConfig, *, matrix_dtype: DType | None = None) -> Any:
    """Return the causal language model of `model_dir` on the mesh of `config.plan`.

    Every process of the slice calls it with the same arguments, after `jax.distributed.initialize`; each reads only
    the slices that its own devices hold. Parameters have the type `config.precision.params`, those with two axes or
    more `matrix_dtype` if it is given; they are bit-exact when that is the stored type. With tied embeddings the
    head's parameter is None, as after EasyDeL's own restore.

    Raises:
        TrainerError: MODEL_NOT_FOUND when files are missing or broken; MODEL_UNSUPPORTED when the architecture is
            not supported or a tensor is missing, unexpected or has another shape; SLICE_NOT_READY when JAX sees
            another number of devices than the plan.
    """
    kind = config.precision.params
    module = abstract_module(model_dir, config, dtype=config.precision.compute, param_dtype=kind)
    wanted = parameters(_leaves(module), tied=is_tied(module))
    placement = shardings(module)
    with open_checkpoint(model_dir) as checkpoint:
        check_tensors(checkpoint, wanted, tied=is_tied(module))
        arrays = {}
        for item in wanted:
            stored_as = matrix_dtype if matrix_dtype and len(item.shape) > 1 else kind
            arrays[item.path] = _place(checkpoint, item, placement[item.path], stored_as)
    return _filled(module, arrays)


def check_tensors(checkpoint: Checkpoint, wanted: list[Parameter], *, tied: bool) -> None:
    """Raise MODEL_UNSUPPORTED unless the checkpoint holds exactly the wanted tensors with their shapes."""
    present, expected = checkpoint.names(), {item.name for item in wanted}
    if missing := sorted(expected - present):
        raise _misfit(f"it lacks {_listed(missing)}")
    if extra := unexpected(present, expected, tied=tied):
        raise _misfit(f"the architecture has no {_listed(extra)}")
    for item in wanted:
        if (stored := checkpoint.shape(item.name)) != item.stored_shape:
            raise _misfit(f"{item.name} has shape {list(stored)} instead of {list(item.stored_shape)}")
        if not floating(checkpoint.dtype(item.name)):
            raise _misfit(f"{item.name} is stored as {checkpoint.dtype(item.name)}, which is quantised")


def _leaves(module: Any) -> list[tuple[tuple[str | int, ...], Any]]:
    from flax import nnx

    state = nnx.split(module, nnx.Param, ...)[1]
    return [(path, leaf.get_value()) for path, leaf in nnx.to_flat_state(state)]


def _place(checkpoint: Checkpoint, item: Parameter, sharding: Any, kind: DType) -> Any:
    """Return the global array of one parameter; this process reads the parts of its own devices."""
    import jax
    import jax.numpy as jnp

    def read(index: tuple[slice, ...]) -> Any:
        part = whole(index, item.shape)
        stored = checkpoint.read(item.name, transposed(part) if item.transposed else part)
        return contiguous(stored.T if item.transposed else stored, jnp.dtype(kind.value))

    return jax.make_array_from_callback(item.shape, sharding, read).block_until_ready()


def _filled(module: Any, arrays: dict[tuple[str | int, ...], Any]) -> Any:
    """Return the module with arrays for its parameters and fresh counters for its random streams."""
    from easydel.utils.traversals import recreate_meta_values
    from flax import nnx

    graph, params, others = nnx.split(module, nnx.Param, ...)
    for path, leaf in nnx.to_flat_state(params):
        leaf.set_value(arrays.get(path))
    return nnx.merge(graph, params, recreate_meta_values(others))


def _listed(names: list[str]) -> str:
    rest = len(names) - NAMES_IN_MESSAGE
    return ", ".join(names[:NAMES_IN_MESSAGE]) + (f" and {rest} more" if rest > 0 else "")


def _misfit(problem: str) -> TrainerError:
    return TrainerError(
        TrainerReason.MODEL_UNSUPPORTED,
        f"The weights do not fit config.json: {problem}. Use a complete, unquantised checkpoint of this architecture.",
    )
