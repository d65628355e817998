"""A whole model's training step estimated for a slice: few layers compiled without a TPU, extrapolated as ``dpojob plan`` does.

Import `dpojob_trainer.plan.topology` and call its `prepare` before this module.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpojob_api.accelerator import chips
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.plan import lowering, measure, topology
from dpojob_trainer.plan.extrapolate import Sample, extrapolate, line_through
from dpojob_trainer.plan.lengths import Epoch
from dpojob_trainer.plan.measured import Measured, TooLarge
from dpojob_trainer.plan.probing import CUTS
from dpojob_trainer.plan.timing import mean_step, step_time
from dpojob_trainer.training.plan import total_steps
from dpojob_trainer.training.utilisation import flops_per_token, share_of_peak


@dataclass(frozen=True)
class Cut:
    """A model of few layers: what its step takes, and how many weights a token is multiplied with."""

    layers: int
    step: Measured | TooLarge
    multiplied: int


@dataclass(frozen=True)
class Whole:
    """The model with all its layers: what a step of the longest length takes, and the weights a token is multiplied with."""

    step: Measured
    multiplied: float


def cut_of(step: Callable[..., Any], config: TrainerConfig, model: Path, epoch: Epoch, layers: int) -> Cut:
    """Compile a step with so many layers for the longest length."""
    devices = topology.devices_of(config.plan, config.generation)
    with (
        topology.seen(devices),
        lowering.cut_model(model, layers) as folder,
        lowering.own_recomputation(folder),
    ):
        found = step(config, folder, epoch.longest, total_steps(config.training, epoch.pairs))
        print(f"{config.job.name}: compiling {layers} layers", flush=True)
        taken = measure.measure(found.traced, found.traced.lower(), devices, dict(config.xla_flags))
    return Cut(layers, taken, found.sizes.multiplied)


def whole_of(step: Callable[..., Any], config: TrainerConfig, model: Path, epoch: Epoch) -> Whole | None:
    """Return what a step takes with all layers, None if even few are too large."""
    cuts = [cut_of(step, config, model, epoch, layers) for layers in CUTS]
    samples = [Sample(cut.layers, cut.step) for cut in cuts if isinstance(cut.step, Measured)]
    if len(samples) < len(cuts):
        return None
    few, more = samples
    layers = lowering.layers_of(model)
    weights = line_through(few.layers, more.layers, layers)(cuts[0].multiplied, cuts[-1].multiplied)
    return Whole(extrapolate(few, more, layers), weights)


def timed(config: TrainerConfig, epoch: Epoch, whole: Whole) -> dict[str, float]:
    """Return the seconds of a step on average over the histogram, and the share of the peak on real tokens.

    Useful are 6 FLOP per weight and token: a reference that is computed again in every step is not.
    """
    chip, devices = chips()[config.generation], config.plan.chips
    longest = step_time(whole.step, chip, devices)
    seconds = mean_step(longest, epoch.longest.sequence, epoch.loads)
    useful = flops_per_token(whole.multiplied, reference=False) * epoch.tokens
    return {
        "longest_step_seconds": longest.seconds,
        "step_seconds": seconds,
        "mfu": share_of_peak(useful, seconds, chip, devices),
    }
