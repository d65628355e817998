"""From a model's cuts to the whole model. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from dpojob_api.accelerator import ChipSpec
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.plan.cuts import Cut
from dpojob_trainer.plan.extrapolate import Sample, extrapolate, line_through
from dpojob_trainer.plan.measured import Measured, TooLarge
from dpojob_trainer.plan.memory import Sizes, judge
from dpojob_trainer.plan.stages import stages_of
from dpojob_trainer.plan.telling import Probe

Found = list[tuple[int, Measured | TooLarge]]


def whole(config: TrainerConfig, cuts: Sequence[Cut], layers: int, chip: ChipSpec) -> Probe:
    """Return what all layers take, by one cut that has them all, or by two, the smaller one first."""
    usable = chip.usable_hbm_bytes
    sizes = _all_layers([Sample(cut.layers, cut.sizes) for cut in cuts], layers)
    steps: Found = [(cut.layers, cut.step) for cut in cuts]
    starts: Found = [(cut.layers, cut.start) for cut in cuts]
    step, start = _measured(steps, layers), _measured(starts, layers)
    # The arguments of the initialisation are the parameters, which are there already.
    begun = start.total - start.arguments if start else _refused(starts, layers, usable)
    passes = {name: _pass(one, sizes, usable) for name, one in cuts[0].passes.items()}
    stages = stages_of(config, sizes, _bytes(steps, layers, usable), begun, passes)
    verdict = judge(stages, usable, at_least=step is None or start is None)
    fingerprint = cuts[-1].fingerprint if cuts[-1].layers == layers else None
    return Probe(layers, [cut.layers for cut in cuts], sizes, step, stages, verdict, fingerprint)


def joined(found: Probe, sequence: int, shorter: Probe) -> Probe:
    """Return what a job takes whose shorter batches, of so many positions, keep more of their activations."""
    of_shorter = {stage.name: stage for stage in shorter.stages}
    stages = [
        max(stage, of_shorter.get(stage.name, stage), key=lambda one: one.device) for stage in found.stages
    ]
    at_least = found.verdict.at_least or shorter.verdict.at_least
    return replace(
        found,
        shorter=found.shorter | {sequence: shorter.step},
        stages=stages,
        verdict=judge(stages, found.verdict.usable, at_least=at_least),
    )


def guessed(config: TrainerConfig, cuts: Sequence[Cut], layers: int, chip: ChipSpec, needed: float) -> Probe:
    """Return what is known of a job of which nothing was compiled: the arrays' sizes, and a rough count of all bytes."""
    sizes = _all_layers([Sample(cut.layers, cut.sizes) for cut in cuts], layers)
    stages = stages_of(config, sizes, needed, sizes.optimizer, {}, compiled=False)
    verdict = judge(stages, chip.usable_hbm_bytes, at_least=False)
    return Probe(layers, [], sizes, None, stages, verdict, None)


def _pass(one: Measured | TooLarge, sizes: Sizes, usable: int) -> float:
    """Return the bytes during a pass without gradients by the smaller cut, beside all arrays that stay meanwhile."""
    if isinstance(one, TooLarge):
        return float(max(usable, one.needed or 0))
    return sizes.resident + one.total - one.arguments


def _bytes(found: Found, layers: int, usable: int) -> float:
    measured = _measured(found, layers)
    return measured.total if measured else _refused(found, layers, usable)


def _measured(found: Found, layers: int) -> Measured | None:
    """Return what all layers take; None if the compiler refused one of the cuts."""
    samples = [Sample(cut, one) for cut, one in found if isinstance(one, Measured)]
    return _all_layers(samples, layers) if len(samples) == len(found) else None


def _all_layers(samples: list[Sample[Any]], layers: int) -> Any:
    return samples[0].measured if len(samples) == 1 else extrapolate(samples[0], samples[-1], layers)


def _refused(found: Found, layers: int, usable: int) -> float:
    """Return the bytes that all layers need at least, by what the compiler says it lacks."""
    totals = list(_totals(found))
    if len(totals) < 2:
        return max([usable, *(total for _, total in totals)])
    (low, first), (high, second) = totals
    return line_through(low, high, layers)(first, second)


def _totals(found: Found) -> Iterator[tuple[int, float]]:
    for layers, one in found:
        total = one.total if isinstance(one, Measured) else one.needed
        if total is not None:
            yield layers, total
