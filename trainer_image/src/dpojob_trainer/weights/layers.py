"""What the backward pass keeps of a layer, by the length of the batch, and the order in which gradients are completed.

Long batches need their activations computed again; short ones have room for them, and most batches are short. EasyDeL gives
a class of layers one policy for the whole process, the first that it sees, so the policies are given here.

EasyDeL unrolls the layers. The backward pass only needs the gradient of a layer's input to go on, so the TPU compiler puts
the products for all weights' gradients off to its end, and what they multiply, everything that was computed again, stays
until then: recomputation then saves next to nothing (docs/plan.md has the bytes). A loop over the layers would not allow
that; an unrolled model needs to be told.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any

import jax

from dpojob_api.spec import GradientCheckpointing, ShortGradientCheckpointing
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.weights.sharing import traced_once

# Of a method that recomputes by its layer's own policies.
RECOMPUTING = "recomputing"

Call = Callable[..., Any]


@dataclass(frozen=True)
class Policies:
    """Of the layers of a job: for batches that are too long for the others, and for short ones."""

    usual: GradientCheckpointing
    short: ShortGradientCheckpointing

    def of(self, hidden: jax.Array) -> GradientCheckpointing:
        """Return the policy for an input `[batch, seq, hidden]`."""
        return self.short.policy(hidden.shape[1], self.usual)


def recompute(module: Any, config: TrainerConfig) -> None:
    """Give the layers of a causal language model their policies.

    It changes the class of the layers, once, as EasyDeL's recomputation does; each layer has its own policies.
    """
    layers = module.get_decoder().layers
    policies = Policies(config.gradient_checkpointing, config.short_gradient_checkpointing)
    for layer in layers:
        layer.policies = policies
    kind = type(layers[0])
    if not hasattr(kind.__call__, RECOMPUTING):
        kind.__call__ = recomputing(kind)


def recomputing(kind: type) -> Call:
    """Return the method of a class of layers that recomputes by each layer's own policies.

    Layers that keep everything leave the order of the gradients to the compiler: all of it is there when the backward pass
    begins, in whatever order that goes. The others recompute as EasyDeL's `auto_remat` makes them do for one policy.
    """
    from easydel.infra.utils import extract_static_parameters, get_gradient_checkpoint_policy
    from flax import nnx

    call: Call = kind.__call__
    static = extract_static_parameters(module=kind)

    @cache
    def under(policy: GradientCheckpointing) -> Call:
        if policy is GradientCheckpointing.NONE:
            return traced_once(call)
        keeps = get_gradient_checkpoint_policy(policy.value)
        return traced_once(completed(nnx.remat(call, static_argnums=static, policy=keeps)))

    @wraps(call)
    def layer(self: Any, hidden_states: jax.Array, *args: Any, **named: Any) -> Any:
        return under(self.policies.of(hidden_states))(self, hidden_states, *args, **named)

    setattr(layer, RECOMPUTING, True)
    return layer


def completed(call: Call) -> Call:
    """Return a layer's method whose gradients by weights and by its input `[batch, seq, hidden]` are given on together."""
    from flax import nnx

    @wraps(call)
    def layer(self: Any, hidden_states: jax.Array, *args: Any, **named: Any) -> Any:
        definition, weights, rest = nnx.split(self, nnx.Param, ...)
        weights, hidden_states = together(weights, hidden_states)
        return call(nnx.merge(definition, weights, rest), hidden_states, *args, **named)

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
