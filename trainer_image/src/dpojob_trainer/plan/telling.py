"""From what was compiled to the answer. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dpojob_api.accelerator import chips
from dpojob_api.slice_spec import Platform
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.plan.answer import Answer, FixAnswer, StageAnswer, TimeAnswer, TrialAnswer, TuneAnswer
from dpojob_trainer.plan.fixes import Fix
from dpojob_trainer.plan.lengths import Epoch
from dpojob_trainer.plan.measured import Measured
from dpojob_trainer.plan.memory import Sizes, Stage, Verdict, breakdown
from dpojob_trainer.plan.timing import mean_step, step_time
from dpojob_trainer.plan.tuning import Trial, fastest, merge_patch
from dpojob_trainer.training.utilisation import flops_per_token, share_of_peak


@dataclass(frozen=True)
class Probe:
    """What was found about one configuration.

    Attributes:
        layers: of the model.
        cuts: with how many layers it was compiled; none if a rough count was enough.
        sizes: of the arrays with all layers.
        step: what the step takes with all layers; None if the compiler refused it.
        stages: of the run.
        verdict: on them.
        fingerprint: of the whole model's lowered step, None where only cuts of it were.
        shorter: what steps take that keep more, by their positions; None where the compiler refused them or was not asked.
    """

    layers: int
    cuts: list[int]
    sizes: Sizes
    step: Measured | None
    stages: list[Stage]
    verdict: Verdict
    fingerprint: str | None
    shorter: dict[int, Measured | None] = field(default_factory=dict)

    @property
    def largest(self) -> Measured | None:
        """The step that needs most bytes, if all were compiled."""
        if self.step is None or None in self.shorter.values():
            return None
        return max((self.step, *filter(None, self.shorter.values())), key=lambda step: step.total)


def answer_of(
    config: TrainerConfig,
    probe: Probe,
    epoch: Epoch,
    total: int | None,
    price: float | None,
    fixes: list[FixAnswer],
    seconds: float,
    tuning: TuneAnswer | None = None,
) -> Answer:
    """Return the answer; the last of the fixes is the one that fits, if there is one."""
    verdict = probe.verdict
    kinds = breakdown(probe.largest, probe.sizes) if probe.largest else {}
    return Answer(
        job=config.job.name,
        plan=config.plan,
        parameters=round(probe.sizes.elements),
        layers=probe.layers,
        compiled_layers=probe.cuts,
        sequence=epoch.longest.sequence,
        lengths={load.sequence: load.batches for load in epoch.loads} if epoch.pairs else {},
        usable_bytes=round(verdict.usable),
        needed_bytes=round(verdict.needed),
        at_least=verdict.at_least,
        guessed=not probe.cuts,
        fits=verdict.fits,
        tight=verdict.tight,
        stage=verdict.stage,
        ends_in=verdict.ends_in,
        bytes={name: round(size) for name, size in kinds.items()},
        stages=[_stage(stage) for stage in probe.stages],
        time=time_of(config, probe, epoch, total, price),
        fix=fixes[-1] if fixes and fixes[-1].fits else None,
        tried=fixes,
        fingerprint=probe.fingerprint,
        remarks=list(_remarks(probe, epoch)),
        seconds=round(seconds, 1),
        tuning=tuning,
    )


def tuned(trials: Sequence[Trial]) -> TuneAnswer | None:
    """Return how a search turned out; None if nothing was tried."""
    best = fastest(trials)
    if best is None:
        return None
    return TuneAnswer(
        trials=[
            TrialAnswer(
                axis=trial.axis,
                changes=trial.fix.changes,
                fits=trial.fits,
                needed_bytes=round(trial.needed),
                step_seconds=trial.seconds,
                utilisation=trial.utilisation,
                kept=trial.kept,
            )
            for trial in trials
        ],
        changes=best.fix.changes,
        patch=merge_patch(best.fix.changes),
    )


def tried(fix: Fix, probe: Probe) -> FixAnswer:
    """Return how a change turned out."""
    seconds = None
    if probe.step:
        chip = chips()[fix.config.generation]
        seconds = step_time(probe.step, chip, fix.config.plan.chips).seconds
    return FixAnswer(
        changes=fix.changes,
        fits=probe.verdict.fits,
        needed_bytes=round(probe.verdict.needed),
        at_least=probe.verdict.at_least,
        guessed=not probe.cuts,
        step_seconds=seconds,
    )


def _stage(stage: Stage) -> StageAnswer:
    return StageAnswer(
        name=stage.name,
        device_bytes=round(stage.device),
        host_bytes=None if stage.host is None else round(stage.host),
        compiled=stage.compiled,
    )


def time_of(
    config: TrainerConfig, probe: Probe, epoch: Epoch, total: int | None, price: float | None
) -> TimeAnswer | None:
    """Return the seconds of a job and what follows; None if its step was not compiled."""
    if probe.largest is None or config.platform is Platform.CPU:
        return None
    chip, devices = chips()[config.generation], config.plan.chips
    steps = probe.shorter | {epoch.longest.sequence: probe.step}
    times = {positions: step_time(step, chip, devices) for positions, step in steps.items() if step}
    longest, seconds = times[epoch.longest.sequence], mean_step(times, epoch.loads)
    per_token = flops_per_token(probe.sizes.multiplied, reference=config.dpo.live_reference)
    hours = None if total is None else total * seconds / 3600
    chip_hours = None if hours is None else hours * devices
    return TimeAnswer(
        step_seconds=seconds,
        floor_seconds=longest.floor,
        compute_seconds=longest.compute,
        waiting_seconds=longest.waiting,
        hidden_seconds=longest.hidden,
        utilisation=share_of_peak(per_token * epoch.tokens, seconds, chip, devices),
        tokens_per_step=epoch.tokens,
        steps=total,
        hours=hours,
        chip_hours=chip_hours,
        cost=None if chip_hours is None or price is None else chip_hours * price,
    )


def _remarks(probe: Probe, epoch: Epoch) -> list[str]:
    found = []
    if not probe.cuts:
        found.append(
            "bytes: a rough count of what the layers keep; so far beyond the chip nothing was compiled"
        )
    elif len(probe.cuts) > 1:
        words = " and ".join(str(cut) for cut in probe.cuts)
        found.append(f"bytes: compiled for this slice with {words} layers, extrapolated to {probe.layers}")
    else:
        found.append("bytes: the whole model was compiled for this slice")
    if probe.shorter:
        words = ", ".join(str(positions) for positions in sorted(probe.shorter))
        found.append(f"batches of up to {words} tokens keep more activations: their steps were compiled too")
    if probe.verdict.at_least:
        found.append("the compiler refused a part of the layers already: the bytes are at least these")
    found.append("loading and export: modelled from the sizes of the arrays")
    found.append(
        "seconds: modelled from the compiler's cycles and the collectives' bytes; not calibrated on a TPU"
    )
    if not epoch.pairs:
        found.append(
            "lengths of the pairs are not known: every sequence counts as the longest; give --data or --lengths"
        )
    return found
