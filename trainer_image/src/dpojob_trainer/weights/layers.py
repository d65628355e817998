"""Gradients layer by layer: those of a layer's weights are complete before the gradients of the layer before it begin.

EasyDeL unrolls the layers. The backward pass only needs the gradient of a layer's input to go on, so the TPU compiler puts
the products for all weights' gradients off to its end, and what they multiply, everything that was computed again, stays
until then: recomputation then saves next to nothing (docs/plan.md has the bytes). A loop over the layers would not allow
that; an unrolled model needs to be told.
"""

from functools import wraps
from typing import Any

import jax

# What EasyDeL's `auto_remat` leaves on a method that it has wrapped, so that it wraps none twice.
RECOMPUTED = "_easydel_auto_remat_wrapped"
COMPLETED = "complete_by_layer"


def complete_by_layer(module: Any) -> None:
    """Make the recomputed layers of a causal language model finish their gradients one after the other; idempotent.

    It changes the class of the layers, as EasyDeL's recomputation does. Layers that save what they compute stay as they are:
    all of it is there when the backward pass begins, in whatever order that goes.
    """
    layer = type(module.get_decoder().layers[0])
    call = layer.__call__
    if getattr(call, RECOMPUTED, False) and not hasattr(call, COMPLETED):
        layer.__call__ = completed(call)


def completed(call: Any) -> Any:
    """Return a layer's method whose gradients by weights and by its input `[batch, seq, hidden]` are given on together."""
    from flax import nnx

    @wraps(call)
    def layer(self: Any, hidden_states: jax.Array, *args: Any, **named: Any) -> Any:
        definition, weights, rest = nnx.split(self, nnx.Param, ...)
        weights, hidden_states = together(weights, hidden_states)
        return call(nnx.merge(definition, weights, rest), hidden_states, *args, **named)

    setattr(layer, COMPLETED, True)
    return layer


@jax.custom_vjp  # type: ignore[untyped-decorator]
def together(weights: Any, hidden: jax.Array) -> tuple[Any, jax.Array]:
    """Return both; none of their gradients is there before all of them are."""
    return weights, hidden


def _forward(weights: Any, hidden: jax.Array) -> tuple[tuple[Any, jax.Array], None]:
    return (weights, hidden), None


def _backward(_: None, gradients: tuple[Any, jax.Array]) -> Any:
    return jax.lax.optimization_barrier(gradients)


together.defvjp(_forward, _backward)
