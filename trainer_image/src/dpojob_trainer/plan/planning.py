"""Plans a job: compiles its step for its slice, and if that does not fit, what could. The shell around the pure parts."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpojob_api.accelerator import ChipSpec
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.data.lengths import PairLengths
from dpojob_trainer.plan import lowering, measure, topology
from dpojob_trainer.plan.answer import Answer
from dpojob_trainer.plan.extrapolate import Sample, extrapolate, line_through
from dpojob_trainer.plan.fixes import Fix, candidates, words_of
from dpojob_trainer.plan.lengths import Epoch, epoch_of
from dpojob_trainer.plan.measured import Measured, TooLarge
from dpojob_trainer.plan.memory import Sizes, judge
from dpojob_trainer.plan.stages import stages_of
from dpojob_trainer.plan.telling import Probe, answer_of, tried
from dpojob_trainer.training.plan import total_steps
from dpojob_trainer.training.planned import fingerprint

# A model of at most so many layers is compiled whole; of a larger one two cuts, and the line through them.
CUTS = (2, 4)
# The schedule needs a number of steps, which changes constants alone, while that of the job is not known.
SOME_STEPS = 100


@dataclass(frozen=True)
class Request:
    """What is asked.

    Attributes:
        config: the job.
        model_dir: has its config.json.
        lengths: of the pairs, None if they are not known; then every batch has the longest length.
        price: of a chip-hour.
        seconds: no further change is tried after so many.
        held_out: of the pairs that are only evaluated, None if there are none or they are not known.
    """

    config: TrainerConfig
    model_dir: Path
    lengths: PairLengths | None
    price: float | None
    seconds: float
    held_out: PairLengths | None = None


def plan(request: Request, tell: Callable[[str], None]) -> Answer:
    """Return what the job needs; `tell` is called with what begins.

    Raises:
        TrainerError: ConfigInvalid for a slice that libtpu does not know, ModelUnsupported or ModelNotFound.
        jax.errors.JaxRuntimeError: the compiler fails for another reason than memory.
    """
    began = time.monotonic()
    config, epoch = request.config, epoch_of(request.config, request.lengths, request.held_out)
    total = total_steps(config.training, epoch.pairs) if epoch.pairs or config.training.max_steps else None
    tell("the job as it is")
    own = probe(config, request.model_dir, epoch, total, tell)
    attempts: list[tuple[Fix, Probe]] = []
    if not own.verdict.fits:
        for fix in candidates(config):
            if time.monotonic() - began > request.seconds:
                tell("out of time: further changes are not tried")
                break
            tell(words_of(fix.changes))
            attempts.append((fix, probe(fix.config, request.model_dir, epoch, total, tell)))
            if attempts[-1][1].verdict.fits:
                break
    fixes = [tried(fix, found) for fix, found in attempts]
    return answer_of(request.config, own, epoch, total, request.price, fixes, time.monotonic() - began)


def probe(
    config: TrainerConfig, model_dir: Path, epoch: Epoch, total: int | None, tell: Callable[[str], None]
) -> Probe:
    """Compile a configuration with few layers and return what it takes with all of them."""
    layers = lowering.layers_of(model_dir)
    chip = topology.chip_of(config)
    devices = topology.devices_of(config.plan, config.generation, config.platform)
    cuts = CUTS if layers > CUTS[-1] else (layers,)
    with topology.seen(devices):
        found = [cut_of(config, model_dir, epoch, total or SOME_STEPS, devices, cut, tell) for cut in cuts]
    return _whole(config, found, layers, chip)


@dataclass(frozen=True)
class Cut:
    """What a model of few layers takes: the step, the optimizer's initialisation, and the arrays' sizes."""

    layers: int
    step: Measured | TooLarge
    start: Measured | TooLarge
    sizes: Sizes
    fingerprint: str


def cut_of(
    config: TrainerConfig,
    model_dir: Path,
    epoch: Epoch,
    total: int,
    devices: list[Any],
    layers: int,
    tell: Callable[[str], None],
) -> Cut:
    """Compile a model's first layers for devices that are seen (:func:`topology.seen`)."""
    with lowering.cut_model(model_dir, layers) as folder, lowering.own_recomputation(folder):
        step = lowering.train_step(config, folder, epoch.longest, total)
    tell(f"compiling {layers} layers")
    lowered, start = step.traced.lower(), step.optimizer_start()
    return Cut(
        layers,
        measure.measure(step.traced, lowered, devices),
        measure.measure(start, start.lower(), devices),
        step.sizes,
        fingerprint(lowered),
    )


def _whole(config: TrainerConfig, cuts: list[Cut], layers: int, chip: ChipSpec) -> Probe:
    usable = chip.usable_hbm_bytes
    sizes = _all_layers([Sample(cut.layers, cut.sizes) for cut in cuts], layers)
    steps, starts = [(cut.layers, cut.step) for cut in cuts], [(cut.layers, cut.start) for cut in cuts]
    step, start = _measured(steps, layers), _measured(starts, layers)
    needed = step.total if step else _refused(steps, layers, usable)
    # The arguments of the initialisation are the parameters, which are there already.
    begun = start.total - start.arguments if start else _refused(starts, layers, usable)
    stages = stages_of(config, sizes, needed, begun)
    verdict = judge(stages, usable, at_least=step is None or start is None)
    return Probe(layers, [cut.layers for cut in cuts], sizes, step, stages, verdict, cuts[-1].fingerprint)


def _measured(found: list[tuple[int, Measured | TooLarge]], layers: int) -> Measured | None:
    """Return what all layers take; None if the compiler refused one of the cuts."""
    samples = [Sample(cut, one) for cut, one in found if isinstance(one, Measured)]
    return _all_layers(samples, layers) if len(samples) == len(found) else None


def _all_layers(samples: list[Sample[Any]], layers: int) -> Any:
    return samples[0].measured if len(samples) == 1 else extrapolate(samples[0], samples[-1], layers)


def _refused(found: list[tuple[int, Measured | TooLarge]], layers: int, usable: int) -> float:
    """Return the bytes that all layers need at least, by what the compiler says it lacks."""
    totals = list(_totals(found))
    if len(totals) < 2:
        return max([usable, *(total for _, total in totals)])
    (low, first), (high, second) = totals
    return line_through(low, high, layers)(first, second)


def _totals(found: list[tuple[int, Measured | TooLarge]]) -> Iterator[tuple[int, float]]:
    for layers, one in found:
        total = one.total if isinstance(one, Measured) else one.needed
        if total is not None:
            yield layers, total
