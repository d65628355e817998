"""What a model of few layers takes: the programs of a run, compiled. Runs in a process of its own (:mod:`workers`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpojob_api.slice_spec import Platform
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.plan import lowering, measure, topology
from dpojob_trainer.plan.measured import Measured, TooLarge
from dpojob_trainer.plan.memory import Sizes
from dpojob_trainer.training.batches import Shape
from dpojob_trainer.training.planned import fingerprint


@dataclass(frozen=True)
class Task:
    """What to compile.

    Attributes:
        config: the job.
        model_dir: has the whole model's config.json.
        shape: of the longest batches.
        steps: of the whole job.
        layers: how many of the model's first layers.
        passes: whether to compile the passes without gradients too.
        compiled: whether to compile anything; the arrays' sizes are known without.
    """

    config: TrainerConfig
    model_dir: Path
    shape: Shape
    steps: int
    layers: int
    passes: bool = False
    compiled: bool = True


@dataclass(frozen=True)
class Cut:
    """What was found.

    Attributes:
        layers: how many.
        step: one optimizer step.
        start: the initialisation of the optimizer's state.
        passes: by name, what runs without gradients: the evaluation, or the reference's scores ahead of training.
        sizes: of the arrays that stay.
        fingerprint: of the lowered step.
    """

    layers: int
    step: Measured | TooLarge
    start: Measured | TooLarge
    passes: dict[str, Measured | TooLarge]
    sizes: Sizes
    fingerprint: str

    @property
    def refused(self) -> bool:
        """Whether the compiler says that the step does not fit."""
        return isinstance(self.step, TooLarge)


def compile_cut(task: Task) -> Cut:
    """Compile a model's first layers; what was compiled before is not compiled again.

    Raises:
        TrainerError: as `topology.devices_of` and `lowering.train_step`.
        jax.errors.JaxRuntimeError: the compiler fails for another reason than memory.
    """
    config = task.config
    devices = topology.devices_of(config.plan, config.generation, config.platform)
    options = dict(config.xla_flags) if config.platform is Platform.TPU else {}
    with topology.seen(devices), lowering.cut_model(task.model_dir, task.layers) as folder:
        step = lowering.train_step(config, folder, task.shape, task.steps)
        lowered = step.traced.lower()
        if not task.compiled:
            unknown = TooLarge(None, "not compiled")
            return Cut(task.layers, unknown, unknown, {}, step.sizes, fingerprint(lowered))
        start = step.optimizer_start()
        found = measure.measure(step.traced, lowered, devices, options)
        wanted = task.passes and isinstance(found, Measured)
        return Cut(
            layers=task.layers,
            step=found,
            start=measure.measure(start, start.lower(), devices, options),
            passes=_passes(step, devices, options) if wanted else {},
            sizes=step.sizes,
            fingerprint=fingerprint(lowered),
        )


def _passes(
    step: lowering.Step, devices: list[Any], options: dict[str, str]
) -> dict[str, Measured | TooLarge]:
    with step.state.model.mesh:
        return {
            name: measure.measure(traced, traced.lower(), devices, options)
            for name, traced in step.passes().items()
        }


def begin() -> None:
    """Make a fresh process ready to compile."""
    topology.prepare()
    from dpojob_trainer import easydel_compat

    easydel_compat.prepare()
