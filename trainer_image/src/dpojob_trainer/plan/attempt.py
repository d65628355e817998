"""The plan of an attempt, in the pod that comes before its slice: as ``dpojob plan`` makes it, told in one line."""

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dpojob_api.constants import OUTPUT_PLANS, USABLE_BYTES_VARIABLE
from dpojob_api.reasons import TrainerReason
from dpojob_api.result import TrainerResult
from dpojob_api.slice_spec import Platform
from dpojob_api.status import PlanVerdict
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import data, easydel_compat, sources, store
from dpojob_trainer.data.lengths import PairLengths, lengths_of
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.plan import topology
from dpojob_trainer.plan.answer import Answer
from dpojob_trainer.plan.fixes import words_of

log = logging.getLogger(__name__)

GIB = 2**30
PACKAGES = ("easydel", "jax", "jaxlib", "libtpu")
VARIABLES = (USABLE_BYTES_VARIABLE, "LIBTPU_INIT_ARGS", "XLA_FLAGS")
# Of the configuration: which job it is and where it goes, neither of which a step depends on.
ELSEWHERE = {"job", "output", "tracking", "launcher"}


@dataclass(frozen=True)
class Question:
    """Everything that an answer depends on beside the software: configuration, config.json, lengths of the pairs."""

    config: TrainerConfig
    model_dir: Path
    lengths: PairLengths | None
    held_out: PairLengths | None

    def digest(self) -> str:
        """Return a digest of it, of the trainer's own code and of what computes."""
        found = hashlib.sha256(self.config.model_dump_json(exclude=ELSEWHERE).encode())
        found.update((self.model_dir / "config.json").read_bytes())
        for lengths in (self.lengths, self.held_out):
            for column in (lengths.prompt, lengths.chosen, lengths.rejected) if lengths else ():
                found.update(column.tobytes())
        settings = (os.environ.get(name, "") for name in VARIABLES)
        found.update(" ".join([*map(topology.version_of, PACKAGES), *settings]).encode())
        for source in sorted(Path(__file__).parents[1].rglob("*.py")):
            found.update(source.read_bytes())
        return found.hexdigest()


def plan_attempt(
    config: TrainerConfig, workdir: Path, seconds: float, tell: Callable[[TrainerResult], None]
) -> TrainerResult:
    """Plan an attempt and return what the operator is to know.

    Args:
        config: the attempt's configuration.
        workdir: for downloads.
        seconds: no further change is tried after so many.
        tell: takes the verdict on a job that does not fit, before changes are tried.

    Raises:
        TrainerError: as `planning.plan`, or the model cannot be had.
        jax.errors.JaxRuntimeError: the compiler fails for another reason than memory.
    """
    topology.prepare()
    if config.platform is Platform.CPU:
        topology.prepare_cpu(config)
    easydel_compat.prepare()
    workdir.mkdir(parents=True, exist_ok=True)
    model = sources.fetch_tokenizer(config.model, workdir)
    question = Question(config, model, *lengths_of_data(config, model, workdir))
    kept = Kept(config, question.digest())
    answer = kept.find()
    if answer is None:
        answer = answered(question, seconds, tell)
        kept.keep(answer)
    return result_of(config, answer, known=question.lengths is not None)


def answered(question: Question, seconds: float, tell: Callable[[TrainerResult], None]) -> Answer:
    """Compile; `tell` takes the verdict on a job that does not fit before changes are tried."""
    from dpojob_trainer.plan import planning

    known = question.lengths is not None
    request = planning.Request(
        question.config, question.model_dir, question.lengths, None, seconds, held_out=question.held_out
    )
    return planning.plan(
        request, log.info, lambda answer: tell(result_of(question.config, answer, known=known))
    )


def lengths_of_data(
    config: TrainerConfig, model: Path, workdir: Path
) -> tuple[PairLengths | None, PairLengths | None]:
    """Return the tokens of the training pairs and of the held-out ones; what is wrong with the data is not said here."""
    try:
        prepared = data.examine(config, model, workdir)
        held_out = prepared.evaluation
        return lengths_of(prepared.train), None if held_out is None else lengths_of(held_out)
    except TrainerError as error:
        log.warning("every sequence counts as the longest: %s: %s", error.reason, error.message)
        return None, None


class Kept:
    """Answers in the folder that jobs share (``output.cacheUri``), by all that they depend on; none without one."""

    def __init__(self, config: TrainerConfig, digest: str) -> None:
        shared = config.output.cache_uri is not None
        self._store = store.cache_of(config, store.output_of(config)) if shared else None
        self._path = f"{OUTPUT_PLANS}/{digest}.json"

    def find(self) -> Answer | None:
        """Return the answer that was kept, None without one that can be read."""
        try:
            if self._store is None or not self._store.exists(self._path):
                return None
            found = Answer.model_validate_json(self._store.read_bytes(self._path))
        except (TrainerError, ValueError) as error:
            log.warning("the plan that was kept cannot be read: %s", error)
            return None
        log.info("planned before: %s", self._path)
        return found

    def keep(self, answer: Answer) -> None:
        """Keep an answer; a failure is only logged."""
        try:
            if self._store is not None:
                self._store.write_bytes(self._path, answer.model_dump_json(by_alias=True).encode())
        except TrainerError as error:
            log.warning("the plan is not kept: %s", error)


def result_of(config: TrainerConfig, answer: Answer, *, known: bool) -> TrainerResult:
    """Return what the operator is to know of an answer.

    Args:
        config: the attempt's configuration.
        answer: the plan.
        known: whether the lengths of the pairs are; otherwise the trainer's shapes may be others, and so its step.
    """
    time = answer.time
    alone = config.platform is Platform.TPU or config.plan.hosts == 1
    verdict = PlanVerdict(
        fits=answer.fits,
        step_seconds=rounded(time.step_seconds) if time else None,
        hours=rounded(time.hours) if time else None,
        chip_hours=rounded(time.chip_hours) if time else None,
        peak_bytes=answer.needed_bytes,
        usable_bytes=answer.usable_bytes,
        # Devices of several hosts on CPU are those of one process here.
        fingerprint=answer.fingerprint if known and alone else None,
        fix=words_of(answer.fix.changes) if answer.fix else None,
    )
    return TrainerResult(reason=TrainerReason.SUCCEEDED, message=words_on(answer), plan=verdict)


def rounded(value: float | None) -> float | None:
    """Return an estimate in four digits."""
    return None if value is None else float(f"{value:.4g}")


def words_on(answer: Answer) -> str:
    """Say what is needed of what, how long a step takes, and what would make it fit."""
    least = "at least " if answer.at_least else ""
    needed, usable = answer.needed_bytes / GIB, answer.usable_bytes / GIB
    words = f"stage {answer.stage} needs {least}{needed:.4g} of {usable:.4g} GiB per chip"
    if answer.time is not None:
        words += f", a step takes {answer.time.step_seconds:.3g} s"
        if answer.time.chip_hours is not None:
            words += f", the job {answer.time.chip_hours:.3g} chip-hours"
    if answer.fits:
        return f"The job fits: {words}."
    if answer.fix is None:
        tried = (
            f"none of the {len(answer.tried)} changes tried is enough"
            if answer.tried
            else "no change was tried"
        )
        return f"The job does not fit: {words}; {tried}."
    return f"The job does not fit: {words}. Smallest change tried that fits: {words_of(answer.fix.changes)}."
