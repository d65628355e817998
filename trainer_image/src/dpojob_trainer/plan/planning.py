"""Plans a job: compiles its step for its slice, and if that does not fit, what could. The shell around the pure parts."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.data.lengths import PairLengths
from dpojob_trainer.errors import in_one_line
from dpojob_trainer.plan.answer import Answer
from dpojob_trainer.plan.fixes import Fix, candidates, words_of
from dpojob_trainer.plan.lengths import Epoch, epoch_of
from dpojob_trainer.plan.lowering import layers_of
from dpojob_trainer.plan.probing import Prober, Tell, compiler
from dpojob_trainer.plan.telling import Probe, answer_of, tried, tuned
from dpojob_trainer.plan.tune import tune
from dpojob_trainer.plan.tuning import Trial
from dpojob_trainer.training.plan import total_steps
from dpojob_trainer.weights.checkpoint import read_json

# The schedule needs a number of steps, which changes constants alone, while that of the job is not known.
SOME_STEPS = 100
# Of a failure that is told.
MAX_WORDS = 300
Found = TypeVar("Found")


@dataclass(frozen=True)
class Request:
    """What is asked.

    Attributes:
        config: the job.
        model_dir: has its config.json.
        lengths: of the pairs, None if they are not known; then every batch has the longest length.
        price: of a chip-hour.
        seconds: no further change is tried after so many.
        tune: whether to search for a faster job.
        held_out: of the pairs that are only evaluated, None if there are none or they are not known.
    """

    config: TrainerConfig
    model_dir: Path
    lengths: PairLengths | None
    price: float | None
    seconds: float
    tune: bool = False
    held_out: PairLengths | None = None


def plan(request: Request, tell: Tell, unfit: Callable[[Answer], None] | None = None) -> Answer:
    """Return what the job needs; if the search for changes fails, what it had found.

    Args:
        request: what is asked.
        tell: takes what begins.
        unfit: takes the answer on a job that does not fit, before changes are tried.

    Raises:
        TrainerError: ConfigInvalid for a slice that libtpu does not know, ModelUnsupported or ModelNotFound.
        jax.errors.JaxRuntimeError: the compiler fails for another reason than memory.
        TimeoutError: it does not end.
        concurrent.futures.process.BrokenProcessPool: it was ended from outside, as where memory is scarce.
    """
    began = time.monotonic()
    until = began + request.seconds
    epoch_for = partial(epoch_of, lengths=request.lengths, held_out=request.held_out)
    config, epoch = request.config, epoch_for(request.config)
    total = steps_of(config, epoch)
    with compiler(layers_of(request.model_dir)) as where:
        prober = Prober(request.model_dir, epoch_for, total or SOME_STEPS, where, tell)
        tell("the job as it is")
        own = prober.identified(config, prober.probe(config))
        if unfit and not own.verdict.fits:
            unfit(answer_of(config, own, epoch, total, request.price, [], time.monotonic() - began))
        attempts = [] if own.verdict.fits else _found(_attempts(prober, config, until), tell)
        trials = _found(_trials(prober, request, own, attempts, until), tell) if request.tune else []
    fixes = [tried(fix, found) for fix, found in attempts]
    seconds = time.monotonic() - began
    return answer_of(config, own, epoch, total, request.price, fixes, seconds, tuned(trials))


def steps_of(config: TrainerConfig, epoch: Epoch) -> int | None:
    """Return the steps of the whole job, if they can be known."""
    return total_steps(config.training, epoch.pairs) if epoch.pairs or config.training.max_steps else None


def _attempts(prober: "Prober", config: TrainerConfig, until: float) -> Iterator[tuple[Fix, Probe]]:
    """Yield every change that is tried; the last one fits, or time or changes have run out."""
    for fix in candidates(config):
        if time.monotonic() > until:
            prober.tell("out of time: further changes are not tried")
            return
        prober.tell(words_of(fix.changes))
        found = prober.probe(fix.config)
        yield fix, found
        if found.verdict.fits:
            return


def _trials(
    prober: Prober, request: Request, own: Probe, attempts: list[tuple[Fix, Probe]], until: float
) -> Iterator[Trial]:
    """Search from the job, or from the change that makes it fit; without one there is nothing to begin with."""
    fitting = [Fix({}, request.config)] if own.verdict.fits else []
    fitting += [fix for fix, found in attempts if found.verdict.fits]
    if fitting:
        settings = read_json(request.model_dir / "config.json")
        yield from tune(prober, fitting[0], settings, until)


def _found(search: Iterator[Found], tell: Tell) -> list[Found]:
    """Return what a search yields; a failure, such as of a process that was ended where memory is scarce, only ends it."""
    found: list[Found] = []
    try:
        for one in search:
            found.append(one)
    except Exception as error:
        tell(f"nothing further is tried: {in_one_line(error, MAX_WORDS)}")
    return found
