"""Searches for a faster job under a time budget: each axis in turn, keeping what is faster. The shell around `tuning`."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from dpojob_trainer.plan import tuning
from dpojob_trainer.plan.fixes import Fix, words_of
from dpojob_trainer.plan.probing import Prober
from dpojob_trainer.plan.telling import time_of
from dpojob_trainer.plan.tuning import Trial

OWN = "start"


def tune(prober: Prober, start: Fix, settings: dict[str, Any], until: float) -> Iterator[Trial]:
    """Yield what is tried, the start first.

    Args:
        prober: of the job's model.
        start: a configuration that fits.
        settings: the model's config.json.
        until: no trial is begun after this time of the monotonic clock.
    """
    trials = [replace(_trial(prober, OWN, start), kept=True)]
    yield trials[0]
    for axis, moves in tuning.AXES_OF_SEARCH:
        while move := _next(moves, prober, settings, trials):
            if time.monotonic() > until:
                prober.tell("out of time: nothing further is tried")
                return
            prober.tell(words_of(move.changes))
            found = _trial(prober, axis, move)
            trials.append(replace(found, kept=tuning.better(found, tuning.best_seconds(trials))))
            yield trials[-1]


def _best(trials: list[Trial]) -> Fix:
    found = tuning.fastest(trials)
    return (found or trials[0]).fix


def _next(moves: tuning.Moves, prober: Prober, settings: dict[str, Any], trials: list[Trial]) -> Fix | None:
    best, known = _best(trials), [trial.fix.config for trial in trials]
    found = moves(best, settings, prober.epoch_of(best.config))
    return next((move for move in found if move.config not in known), None)


def _trial(prober: Prober, axis: str, fix: Fix) -> Trial:
    probe = prober.probe(fix.config)
    took = time_of(fix.config, probe, prober.epoch_of(fix.config), None, None)
    return Trial(
        axis=axis,
        fix=fix,
        fits=probe.verdict.fits,
        needed=probe.verdict.needed,
        seconds=took.step_seconds if took else None,
        utilisation=took.utilisation if took else None,
    )
