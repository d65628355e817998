"""A run's state and batches as shapes and places: what the steps are compiled for, without a weight or a token."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dpojob_trainer.training.batches import Shape, blank
from dpojob_trainer.training.step import CHOSEN, REJECTED
from dpojob_trainer.weights.architecture import is_tied, shardings
from dpojob_trainer.weights.names import is_head


def abstract_batch(
    shape: Shape, pairs: int, everywhere: NamedSharding, *, scored: bool
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return a batch of a shape, which every device has whole; `scored` if it has the reference's log-probabilities."""
    scores = dict.fromkeys((CHOSEN, REJECTED), np.zeros(pairs, np.float32)) if scored else {}
    return {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=everywhere)
        for name, array in (blank(shape, pairs) | scores).items()
    }


def placed(module: Any, matrix_dtype: Any | None = None) -> Any:
    """Return an abstract module with its parameters' places, as `load_model` returns one with arrays.

    Args:
        module: what `abstract_module` returned.
        matrix_dtype: type of the parameters with two axes or more, as in `load_model`.
    """
    from easydel.utils.traversals import recreate_meta_values
    from flax import nnx

    graph, params, others = nnx.split(module, nnx.Param, ...)
    places, tied = shardings(module), is_tied(module)
    for path, leaf in nnx.to_flat_state(params):
        value = leaf.get_value()
        dtype = matrix_dtype if matrix_dtype is not None and len(value.shape) > 1 else value.dtype
        at = jax.ShapeDtypeStruct(value.shape, dtype, sharding=places[path])
        leaf.set_value(None if tied and is_head(path) else at)
    return nnx.merge(graph, params, recreate_meta_values(others))


def abstract_state(module: Any, optimizer: Any) -> Any:
    """Return the training state of a placed module as EasyDeL's `init_tx` and `shard_state` would lay it out."""
    state = module.to_state()
    state = state.replace(
        step=jax.ShapeDtypeStruct((), jnp.int32),
        tx=optimizer,
        opt_state=jax.eval_shape(optimizer.init, state.graphstate),
    )
    return _laid_out(state, module)


def _laid_out(tree: Any, module: Any) -> Any:
    """Return a tree of shapes with the places that EasyDeL's partition rules give them."""
    import eformer.escale as es
    from easydel.infra.utils import sanitize_partition_spec_for_shape

    mesh = module.mesh
    specs = es.match_partition_rules(module._get_partition_rules(None), tree)

    def place(spec: Any, leaf: Any) -> Any:
        if not isinstance(spec, PartitionSpec) or not hasattr(leaf, "shape"):
            return leaf
        shape = tuple(leaf.shape)
        divided = sanitize_partition_spec_for_shape(spec=spec, shape=shape, mesh=mesh)
        sharding = es.get_corrected_named_sharding(shape, divided)
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)

    with mesh:
        return jax.tree_util.tree_map(place, specs, tree)
