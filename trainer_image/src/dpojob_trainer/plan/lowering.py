"""The trainer's own steps for a configuration and a model's config.json, lowered without weights or data."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from dpojob_api.spec import DType
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.plan.memory import Sizes
from dpojob_trainer.training.batches import Shape
from dpojob_trainer.training.plan import FLOAT32_BYTES, head_blocks, micro_batch_size
from dpojob_trainer.training.utilisation import multiplied
from dpojob_trainer.weights.checkpoint import read_json

LAYERS = "num_hidden_layers"
# Lists with an entry per layer.
PER_LAYER = ("layer_types", "no_rope_layers")


@dataclass(frozen=True)
class Step:
    """What one optimizer step is compiled from.

    Attributes:
        traced: the jitted step, traced.
        passes: gives what runs without gradients, traced, by its name.
        state: shapes and places of the training state.
        reference: those of the reference's state, None without a reference.
        logits: bytes of the logits that one device forms at once.
    """

    traced: Any
    passes: Callable[[], dict[str, Any]]
    state: Any
    reference: Any | None
    logits: float

    @property
    def sizes(self) -> Sizes:
        """What one device holds during the whole run."""
        parameters = parts(self.state.graphstate)
        return Sizes(
            parameters=sum(part.bytes for part in parameters),
            optimizer=sum(part.bytes for part in parts(self.state.opt_state)),
            reference=sum(part.bytes for part in parts(self.reference.graphstate)) if self.reference else 0,
            logits=self.logits,
            elements=sum(part.elements for part in parameters),
            multiplied=multiplied({part.path: part.shape for part in parameters}),
            largest=max(part.bytes for part in parameters),
        )

    def optimizer_start(self) -> Any:
        """Trace the initialisation of the optimizer's state, as EasyDeL's `init_tx` runs it."""
        import jax

        places = jax.tree_util.tree_map(lambda leaf: leaf.sharding, self.state.opt_state)
        with self.state.model.mesh:
            return jax.jit(self.state.tx.init, out_shardings=places).trace(self.state.graphstate)


@dataclass(frozen=True)
class Part:
    """One array: its shape on all devices together, and the bytes of one device's part."""

    path: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


def parts(tree: Any) -> list[Part]:
    """Return the arrays of a tree of shapes and places."""
    import jax

    return [
        Part(
            jax.tree_util.keystr(path),
            leaf.shape,
            prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize,
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def layers_of(model_dir: Path) -> int:
    """Return the number of layers that config.json names.

    Raises:
        TrainerError: ModelNotFound when there is no config.json.
    """
    return int(read_json(model_dir / "config.json")[LAYERS])


def fewer_layers(settings: dict[str, Any], layers: int) -> dict[str, Any]:
    """Return config.json's content with the first `layers` layers alone."""
    lists = {name: settings[name][:layers] for name in PER_LAYER if isinstance(settings.get(name), list)}
    return settings | lists | {LAYERS: layers}


@contextmanager
def cut_model(model_dir: Path, layers: int) -> Iterator[Path]:
    """Yield a folder with the config.json of a model of so many layers."""
    settings = fewer_layers(read_json(model_dir / "config.json"), layers)
    with tempfile.TemporaryDirectory(prefix="dpojob-plan-") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        yield Path(folder)


def train_step(config: TrainerConfig, model_dir: Path, shape: Shape, total: int) -> Step:
    """Trace the optimizer step that the trainer would run on batches of a shape, as one of `total` steps.

    Raises:
        TrainerError: ModelUnsupported, ModelNotFound, or SliceNotReady when JAX sees another number of devices than
            the mesh has.
    """
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from dpojob_trainer.training import abstract
    from dpojob_trainer.training.arguments import dpo_arguments
    from dpojob_trainer.training.logps import completion_logps
    from dpojob_trainer.training.losses import pair_loss
    from dpojob_trainer.training.reference import matrix_dtype
    from dpojob_trainer.training.step import StepFunctions, jitted
    from dpojob_trainer.weights.architecture import abstract_module

    precision = config.precision

    def module(matrix_dtype: DType | None = None) -> Any:
        found = abstract_module(model_dir, config, dtype=precision.compute, param_dtype=precision.params)
        return abstract.placed(found, matrix_dtype and jax.numpy.dtype(matrix_dtype.value))

    policy = module()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = dpo_arguments(config, total, Path(scratch))
    optimizer, _ = arguments.get_optimizer_and_scheduler(total)
    state = abstract.abstract_state(policy, optimizer)
    live = config.dpo.live_reference
    reference = module(matrix_dtype(precision)).to_state() if live else None
    steps = StepFunctions(
        completion_logps, pair_loss(config.dpo), config.dpo.beta, config.training.gradient_accumulation_steps
    )
    mesh = policy.mesh
    train, evaluate, score = jitted(steps, mesh, state.shardings, reference.shardings if reference else None)
    everywhere, ahead = NamedSharding(mesh, PartitionSpec()), config.dpo.precomputed_reference

    def rows(pairs: int, *, scored: bool) -> dict[str, Any]:
        return abstract.abstract_batch(shape, pairs, everywhere, scored=scored)

    with mesh:
        batch = rows(config.training.global_batch_size, scored=ahead)
        traced = train.trace(state, batch, reference)

    def passes() -> dict[str, Any]:
        few = micro_batch_size(config.training)
        found = {}
        if config.dataset.evaluates:
            weights = jax.ShapeDtypeStruct((few,), jax.numpy.float32)
            found["evaluation"] = evaluate.trace(state, rows(few, scored=ahead), weights, reference)
        if ahead:
            found["reference ahead of training"] = score.trace(state, rows(few, scored=False))
        return found

    return Step(
        traced, passes, state, reference, logit_bytes(config, policy.config.vocab_size, shape.completion)
    )


def logit_bytes(config: TrainerConfig, vocabulary: int, positions: int) -> float:
    """Return the bytes of a device's largest block of logits, for completions of so many positions."""
    mesh = config.plan.mesh
    sequences = -(-2 * micro_batch_size(config.training) // mesh.data_shards)
    own, share = -(-positions // mesh.sp), -(-vocabulary // mesh.tp)
    columns, blocks = head_blocks(sequences, own, share)
    return sequences * (own // blocks) * -(-share // columns) * FLOAT32_BYTES
