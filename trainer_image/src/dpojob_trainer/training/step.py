"""One optimizer step and one evaluation step, as JAX functions.

They are EasyDeL's DPO steps (``trainers/direct_preference_optimization_trainer/_fn.py``) with these differences: the
log-probabilities are those of :mod:`logps` and the losses those of :mod:`losses`; the reference's log-probabilities may
come with the batch; rewards are reduced per micro-batch, so accuracy is right under gradient accumulation; the reference
runs per micro-batch too, so its activations do not grow with the global batch; and the gradient norm is the global one,
before clipping.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dpojob_api.mesh import DATA_AXES
from dpojob_trainer.training import lengths
from dpojob_trainer.training.losses import PairLoss, Pairs

Forward = Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]]

BATCH_SPEC = PartitionSpec(DATA_AXES, "sp")
CHOSEN, REJECTED = "ref_chosen_logps", "ref_rejected_logps"


@dataclass(frozen=True)
class StepFunctions:
    """What both steps share.

    Attributes:
        forward: model and batch to the log probabilities of both completions, each `[pairs]`.
        pair_loss: log probabilities under policy and reference to losses `[pairs]`.
        beta: scale of the implicit reward (arXiv:2305.18290, eq. 5).
        micro_batches: how many micro-batches make up one optimizer step.
    """

    forward: Forward
    pair_loss: PairLoss
    beta: float
    micro_batches: int

    def train(self, state: Any, batch: dict[str, jax.Array], reference: Any | None) -> tuple[Any, Any]:
        """Return the state after one update, and EasyDeL's LossMetrics with our scalars in `other_metrics`."""
        from easydel.trainers.training_utils import minibatch_call

        batch = self._placed(batch, reference)
        size = batch[CHOSEN].shape[0] // self.micro_batches
        gradients, metrics = minibatch_call(state, batch, size, self._value_and_grad(state))
        metrics.other_metrics = metrics.other_metrics | {"grad_norm": optax.global_norm(gradients)}
        return state.apply_gradients(grads=gradients), metrics

    def evaluate(
        self, state: Any, batch: dict[str, jax.Array], weights: jax.Array, reference: Any | None
    ) -> dict[str, jax.Array]:
        """Return weighted sums over the batch: loss, all that is compared, and the weights' sum as `pairs`."""
        batch = self._placed(batch, reference)
        losses, numbers = self._compare(state.model, batch)
        columns = numbers | {"loss": losses, "pairs": jnp.ones_like(losses)}
        return {name: jnp.sum(weights * column) for name, column in columns.items()}

    def score(self, state: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Return the log-probabilities of both sides, each `[pairs]`."""
        out = self.forward(state.model, on_data_axes(batch))
        return out["chosen_logps"], out["rejected_logps"]

    def _placed(self, batch: dict[str, jax.Array], reference: Any | None) -> dict[str, jax.Array]:
        """Return the batch on the mesh's data axes, with the reference's log-probabilities."""
        known = {name: batch[name] for name in (CHOSEN, REJECTED) if name in batch}
        batch = on_data_axes({name: array for name, array in batch.items() if name not in known})
        return batch | (known or self._reference_logps(reference, batch))

    def _value_and_grad(self, state: Any) -> Callable[..., Any]:
        from easydel.infra.loss_utils import LossMetrics

        def mean_loss(parameters: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
            losses, numbers = self._compare(state.merge(tree=parameters), batch)
            means = {name: jnp.mean(jax.lax.stop_gradient(column)) for name, column in numbers.items()}
            return losses.mean(), LossMetrics(loss=losses.mean(), other_metrics=means)

        value_and_grad: Callable[..., Any] = jax.value_and_grad(mean_loss, has_aux=True)
        return value_and_grad

    def _compare(self, model: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return losses, and rewards, log probabilities and what :mod:`lengths` is after, each `[pairs]`."""
        out = self.forward(model, batch)
        pairs = Pairs(
            chosen=out["chosen_logps"],
            rejected=out["rejected_logps"],
            ref_chosen=batch[CHOSEN],
            ref_rejected=batch[REJECTED],
            chosen_tokens=batch["chosen_label_mask"].sum(-1),
            rejected_tokens=batch["rejected_label_mask"].sum(-1),
        )
        chosen, rejected = self.beta * pairs.chosen_ratio, self.beta * pairs.rejected_ratio
        numbers = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": (chosen > rejected).astype(jnp.float32),
            "logps/chosen": pairs.chosen,
            "logps/rejected": pairs.rejected,
        }
        drift = lengths.columns(chosen - rejected, pairs.chosen_tokens, pairs.rejected_tokens)
        return self.pair_loss(pairs), numbers | drift

    def _reference_logps(self, reference: Any | None, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        pairs = batch["chosen_input_ids"].shape[0]
        if reference is None:
            return {CHOSEN: jnp.zeros(pairs), REJECTED: jnp.zeros(pairs)}
        size = pairs // self.micro_batches

        def score(start: jax.Array) -> tuple[jax.Array, jax.Array]:
            part = {k: jax.lax.dynamic_slice_in_dim(v, start, size) for k, v in batch.items()}
            out = self.forward(own_model(reference), part)
            return out["chosen_logps"], out["rejected_logps"]

        if self.micro_batches == 1:
            out = self.forward(reference.model, batch)
            chosen, rejected = out["chosen_logps"], out["rejected_logps"]
        else:
            chosen, rejected = jax.lax.map(score, jnp.arange(self.micro_batches) * size)
        return {CHOSEN: chosen.reshape(pairs), REJECTED: rejected.reshape(pairs)}


def jitted(steps: StepFunctions, mesh: Mesh, state: Any, reference: Any | None) -> tuple[Any, Any, Any]:
    """Return training, evaluation and scoring for a mesh, to be compiled; the training step takes the state.

    Args:
        steps: what to compute.
        mesh: the model's.
        state: the shardings of the training state.
        reference: those of the reference's state.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    train = jax.jit(
        steps.train,
        in_shardings=(state, everywhere, reference),
        out_shardings=(state, everywhere),
        donate_argnums=(0,),
    )
    evaluate = jax.jit(
        replace(steps, micro_batches=1).evaluate,
        in_shardings=(state, everywhere, everywhere, reference),
        out_shardings=everywhere,
    )
    score = jax.jit(steps.score, in_shardings=(state, everywhere), out_shardings=everywhere)
    return train, evaluate, score


def own_model(state: Any) -> Any:
    """Return a state's model for the body of a loop: a recomputed layer assigns its parameters there, so they must be
    variables of the body's own trace.
    """
    return state.merge(jax.tree_util.tree_map(lambda leaf: leaf, state.graphstate))


def on_data_axes(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Divide arrays `[rows, positions]` over the mesh's data and sequence axes."""
    from eformer.escale import with_sharding_constraint

    return with_sharding_constraint(arr=batch, sharding=BATCH_SPEC)  # type: ignore[no-any-return]
