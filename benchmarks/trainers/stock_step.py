"""EasyDeL's own DPO step for shapes instead of arrays: its loss, head and padding, and the reference in every step."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.plan.lowering import Step
from dpojob_trainer.training.batches import Shape

SIDES = ("prompt", "chosen", "rejected")
# EasyDeL's own blocks of positions in splash attention; ours are chosen for short sequences.
BLOCK = 512


def stock_step(config: TrainerConfig, model_dir: Path, shape: Shape, total: int) -> Step:
    """Trace EasyDeL's training step as its trainer would jit it, all sequences padded to `shape`.

    State, places and optimizer are those of our trainer, which has them from EasyDeL too.
    """
    from jax.sharding import NamedSharding, PartitionSpec

    from dpojob_trainer.training import abstract
    from dpojob_trainer.training.arguments import dpo_arguments

    with tempfile.TemporaryDirectory() as scratch:
        arguments = dpo_arguments(config, total, Path(scratch))
    optimizer, scheduler = arguments.get_optimizer_and_scheduler(total)
    policy, frozen = _module(config, model_dir), _module(config, model_dir)
    state, reference = abstract.abstract_state(policy, optimizer), frozen.to_state()
    everywhere = NamedSharding(policy.mesh, PartitionSpec())
    step = _jitted(scheduler, arguments, shape, (state.shardings, everywhere, reference.shardings))
    with policy.mesh, _own_layers(policy, config):
        traced = step.trace(state, _batch(config.training.global_batch_size, shape, everywhere), reference)
    sequences = 2 * config.training.global_batch_size // config.plan.mesh.data_shards
    logits = sequences * shape.sequence // config.plan.mesh.sp * policy.config.vocab_size * 4
    return Step(traced, dict, state, reference, logits)


def _module(config: TrainerConfig, model_dir: Path) -> Any:
    from dpojob_trainer.training import abstract
    from dpojob_trainer.weights.architecture import abstract_module

    precision = config.precision
    module = abstract_module(model_dir, config, dtype=precision.compute, param_dtype=precision.params)
    module.config.blocksize_q = module.config.blocksize_k = BLOCK
    return abstract.placed(module)


@contextmanager
def _own_layers(module: Any, config: TrainerConfig) -> Iterator[None]:
    """Let the layers recompute as EasyDeL makes them, which leaves the order of the gradients to the compiler."""
    from easydel.infra.utils import auto_remat

    kind = type(module.get_decoder().layers[0])
    ours: Any = kind.__call__
    with patch.object(kind, "__call__", ours.__wrapped__):
        auto_remat(kind, policy=config.gradient_checkpointing.value)
        yield


def _jitted(scheduler: Any, arguments: Any, shape: Shape, places: tuple[Any, Any, Any]) -> Any:
    import jax
    from easydel.trainers.direct_preference_optimization_trainer._fn import (
        concatenated_forward,
        training_step,
    )

    state, everywhere, reference = places
    forward = partial(
        concatenated_forward,
        is_encoder_decoder=False,
        label_pad_token_id=arguments.label_pad_token_id,
        padding_value=0,
        max_length=shape.sequence,
        truncation_mode="keep_end",
        aux_loss_enabled=False,
        loss_type="sigmoid",
        logprob_vocab_chunk_size=arguments.logprob_vocab_chunk_size,
    )

    def step(state: Any, batch: Any, reference: Any) -> Any:
        return training_step(
            state,
            batch,
            reference,
            scheduler,
            forward,
            arguments.beta,
            arguments.label_smoothing,
            "sigmoid",
            False,
            arguments.loss_config,
            arguments.step_partition_spec,
            arguments.gradient_accumulation_steps,
            None,
        )

    return jax.jit(
        step,
        in_shardings=(state, everywhere, reference),
        out_shardings=(state, everywhere),
        donate_argnums=(0,),
    )


def _batch(pairs: int, shape: Shape, everywhere: Any) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    lengths = {"prompt": shape.sequence - shape.completion, "chosen": shape.completion}
    return {
        f"{side}_{kind}": jax.ShapeDtypeStruct(
            (pairs, lengths.get(side, shape.completion)), jnp.int32, sharding=everywhere
        )
        for side in SIDES
        for kind in ("input_ids", "attention_mask")
    }
