"""The run on one host: load, resume, train, save, export. Every host of the slice calls :func:`run` with the same
configuration after `jax.distributed.initialize`; only process 0 writes metrics and the model.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from dpojob_api.constants import OUTPUT_METRICS, OUTPUT_MODEL
from dpojob_api.reasons import TrainerReason
from dpojob_api.spec import ExportFormat
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import data, report, sources, store, weights
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.progress import (
    Emit,
    HostReport,
    Numbers,
    Phase,
    Stopwatch,
    peak_rss_bytes,
)
from dpojob_trainer.training import reference, samples, utilisation
from dpojob_trainer.training.agreement import alike, meet
from dpojob_trainer.training.arguments import dpo_arguments
from dpojob_trainer.training.batches import EvalBatches, TrainBatches
from dpojob_trainer.training.checkpoints import Checkpoints
from dpojob_trainer.training.compile_cache import CompileCache
from dpojob_trainer.training.loop import Cadence
from dpojob_trainer.training.losses import initial_loss, pair_loss
from dpojob_trainer.training.plan import micro_batch_size, steps_per_epoch, total_steps
from dpojob_trainer.training.planned import Comparison
from dpojob_trainer.training.preemption import Preemption
from dpojob_trainer.training.recorder import Recorder
from dpojob_trainer.training.shapes import padding_of
from dpojob_trainer.training.tracking import open_tracker
from dpojob_trainer.training.trainer import Hooks, PreferenceTrainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where this process stands: its rank, the host's name and a folder of its own for downloads."""

    rank: int
    host: str
    workdir: Path


def run(config: TrainerConfig, place: Place, emit: Emit) -> HostReport:
    """Train and export; return this host's report.

    Raises:
        TrainerError: any documented reason.
        Exception: anything else, for `failures.explain`.
    """
    with Preemption() as preemption:
        try:
            return _run(config, place, emit, preemption)
        except Exception:
            # The signal may have broken off something that reports it as a failure of its own.
            preemption.leave_if_told()
            raise


def _run(config: TrainerConfig, place: Place, emit: Emit, preemption: Preemption) -> HostReport:
    watch = Stopwatch()
    if place.rank == 0:
        emit(Phase("loading"))
    out = store.output_of(config)
    out.check_fence()
    programs = CompileCache(store.cache_of(config, out), out, config.platform, place.workdir)
    programs.enable()
    with watch("data"):
        model_dir = sources.fetch_model(config.model, place.workdir)
        prepared = data.prepare(config, model_dir, place.workdir, store.pairs_of(out))
    origin = report.lineage_of(config, model_dir, prepared)
    total = total_steps(config.training, len(prepared.train))
    with open_tracker(config, place.rank, out, place.workdir) as tracker, flushed(out):
        recorder = Recorder(config, place.rank == 0, total, out, tracker, emit, programs)
        meet("dpojob-data-ready")
        require_same_pairs(prepared)
        with preemption.postponed():
            checkpoints = Checkpoints(out.root, config.training)
        with watch("load"):
            leaves = Leaving(preemption, checkpoints, out)
            trainer = build(config, model_dir, prepared, recorder, checkpoints, leaves, place.workdir)
            trainer.comparison = comparison_of(config, trainer.batches, recorder)
        with watch("reference"):
            score_reference(config, model_dir, prepared, trainer, out, recorder)
        with watch("load"):
            with preemption.postponed():
                resumed = resume(trainer, checkpoints)
            sampler = samples.sampler(config, prepared, model_dir, trainer.arguments.padding_value)
        with watch("samples"):
            early = samples.of_untrained(sampler, trainer, resumed, out, place.rank)
        preemption.wait_for_steps()
        recorder.begun(resumed, steps_per_epoch(config.training, len(prepared.train)))
        with watch("train"):
            state = trainer.train().state
            done = require_done(state, total)
        with watch("checkpoint"):
            recorder.phase("checkpointing")
            checkpoints.wait()
            checkpoints.close()
        with watch("export"):
            recorder.phase("exporting")
            texts = report.card_texts(config, origin, out) if place.rank == 0 else {}
            export(config, state, model_dir, out, place, texts)
        with watch("samples"):
            told = samples.of_tuned(sampler, trainer, state, early)
    return HostReport(
        rank=place.rank,
        host=place.host,
        step=done,
        total=total,
        resumed_from=resumed,
        last=recorder.last,
        evaluations=recorder.evaluations,
        seconds=watch.seconds,
        peak_rss_bytes=peak_rss_bytes(),
        data=prepared.report.model_dump(by_alias=True),
        lineage=origin,
        samples=told,
        matches_plan=recorder.matches_plan,
    )


class Leaving:
    """Ends the run between two steps once a host was told to stop, with a checkpoint of exactly this step."""

    def __init__(self, preemption: Preemption, checkpoints: Checkpoints, out: store.OutputStore) -> None:
        self._preemption, self._checkpoints, self._out = preemption, checkpoints, out

    def told(self) -> bool:
        """Return on all hosts alike whether to leave."""
        return self._preemption.agreed()

    def __call__(self, state: Any, step: int) -> None:
        """Save and raise on all hosts.

        Raises:
            TrainerError: Preempted.
        """
        self._out.check_fence()
        self._checkpoints.save(state, step)
        self._checkpoints.wait()
        self._out.flush()
        # The driver stops all hosts once it hears from one of them.
        meet("dpojob-preempted")
        raise TrainerError(
            TrainerReason.PREEMPTED,
            f"a host was told to stop (SIGTERM); the checkpoint of step {step} is written, and the next attempt on the "
            "same output goes on there",
            step=step,
        )


@contextmanager
def flushed(out: store.OutputStore) -> Iterator[None]:
    """Write the lines that `out` holds back when the run ends, however it ends; a failed run keeps its own error.

    Raises:
        TrainerError: OutputUnwritable, if the run itself did not fail.
    """
    try:
        yield
    except BaseException:
        try:
            out.flush()
        except Exception as error:
            log.warning("the last lines of %s are lost: %s", OUTPUT_METRICS, error)
        raise
    out.flush()


def build(
    config: TrainerConfig,
    model_dir: Path,
    prepared: data.PreparedData,
    recorder: Recorder,
    checkpoints: Checkpoints,
    leaves: Leaving,
    workdir: Path,
) -> PreferenceTrainer:
    """Load policy and reference and build the trainer around them."""
    training, tokenizer = config.training, prepared.tokenizer
    batches = train_batches(config, prepared)
    policy = weights.load_model(model_dir, config)
    arguments = dpo_arguments(config, recorder._total, workdir / "easydel")
    arguments.padding_value = batches.padding.pad_id

    utilised = utilisation.meter(policy, config)

    def stepped(state: Any | None, step: int, numbers: Numbers) -> None:
        recorder.stepped(state, step, numbers | utilised(numbers))

    def save(state: Any, step: int, evaluation: Numbers | None) -> None:
        recorder._out.check_fence()
        recorder.phase("checkpointing")
        checkpoints.save(state, step, evaluation)
        recorder.saved(step)
        recorder.phase("training")

    return PreferenceTrainer(
        arguments=arguments,
        model=policy,
        reference=reference.load(config, model_dir),
        tokenizer=tokenizer,
        loss=pair_loss(config.dpo),
        initial=initial_loss(config.dpo, config.precision.compute),
        batches=batches,
        evaluation=None
        if prepared.evaluation is None
        else EvalBatches(
            prepared.evaluation, micro_batch_size(training), batches.padding, training.max_eval_steps
        ),
        cadence=Cadence(
            recorder._total,
            training.eval_steps,
            training.checkpoint_steps,
            training.keep_best_checkpoint,
            config.tracking.weight_histogram_steps,
        ),
        hooks=Hooks(stepped, recorder.evaluated, save, leaves.told, leaves, recorder.phase),
    )


def comparison_of(config: TrainerConfig, batches: TrainBatches, recorder: Recorder) -> Comparison:
    """Return what compares the steps with the plan's, on host 0; none where training has no batches of the planned length."""
    planned = batches.shapes[-1:] == batches.padding.shapes[-1:] and recorder.first
    return Comparison(config.plan.fingerprint if planned else None, recorder.planned)


def train_batches(config: TrainerConfig, prepared: data.PreparedData) -> TrainBatches:
    """Return the batch of every optimizer step."""
    padding = padding_of(config, prepared.train, prepared.evaluation, pad_token_id(prepared.tokenizer))
    training = config.training
    return TrainBatches(prepared.train, training.global_batch_size, padding, training.seed, training.shuffle)


def require_same_pairs(prepared: data.PreparedData) -> None:
    """Stop a slice whose hosts do not have the same pairs in the same order, as their global batches would be none.

    Raises:
        TrainerError: DatasetInvalid.
    """
    if not alike(prepared.pairs_sha256):
        raise TrainerError(
            TrainerReason.DATASET_INVALID,
            "the hosts have read different pairs, so dataset.uri was written while the job started: wait for its writer, "
            "or name a copy or a revision that does not change",
        )


def score_reference(
    config: TrainerConfig,
    model_dir: Path,
    prepared: data.PreparedData,
    trainer: PreferenceTrainer,
    out: store.OutputStore,
    recorder: Recorder,
) -> None:
    """Give the trainer, whose policy is still the base model, the reference's log-probabilities of the pairs it will see.

    Raises:
        TrainerError: Fenced or OutputUnwritable.
    """
    if not config.dpo.precomputed_reference:
        return
    sums = reference.weight_sums(trainer.model_state.graphstate, trainer.mesh)
    cache = reference.Cache(store.cache_of(config, out), out, reference.identity(config, model_dir, sums))
    parts = [
        prepared.train.select(trainer.batches.rows_of(total_steps(config.training, len(prepared.train))))
    ]
    if prepared.evaluation is not None and trainer.evaluation is not None:
        parts.append(prepared.evaluation.select(trainer.evaluation.rows))
    size, padding = micro_batch_size(config.training), trainer.batches.padding
    trainer.scores_from = cache.root
    trainer.scores = reference.scored(
        parts,
        cache,
        lambda pairs: EvalBatches(pairs, size, padding),
        trainer.score,
        lambda: recorder.phase("reference"),
    )


def pad_token_id(tokenizer: Any) -> int:
    """Return the id that fills up sequences; masks hide it, so any id will do where a tokenizer has none."""
    for value in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if value is not None:
            return int(value)
    return 0


def resume(trainer: PreferenceTrainer, checkpoints: Checkpoints) -> int:
    """Put the newest checkpoint that can be read into the trainer; return its step, 0 without any.

    Raises:
        TrainerError: RestoreFailed.
    """
    trainer.model_state, step = checkpoints.restore(trainer.model_state, trainer.state_shardings)
    if step:
        log.info("resumed from the checkpoint of step %d", step)
    return step


def require_done(state: Any, total: int) -> int:
    """Return the steps done, read back from the state.

    Raises:
        TrainerError: StoppedEarly.
    """
    done = int(jax.device_get(state.step))
    if done < total:
        raise TrainerError(
            TrainerReason.STOPPED_EARLY, f"training ended after {done} of {total} steps", step=done
        )
    return done


def export(
    config: TrainerConfig,
    state: Any,
    model_dir: Path,
    out: store.OutputStore,
    place: Place,
    texts: Mapping[str, str],
) -> None:
    """Write the tuned policy and `texts` to ``<output>/model``; every process takes part, process 0 writes.

    Raises:
        TrainerError: ExportFailed, OutputUnwritable or Fenced.
    """
    if config.output.export_format is ExportFormat.NONE:
        return
    out.check_fence()
    target = place.workdir / "export" if out.folder is None else out.folder / OUTPUT_MODEL
    if place.rank == 0:
        # An earlier attempt may have written it and died before it could say so.
        shutil.rmtree(target, ignore_errors=True)
    weights.export_model(state.model, config, model_dir, target, texts=texts)
    if place.rank == 0 and out.folder is None:
        out.upload_dir(target, OUTPUT_MODEL)
        shutil.rmtree(target, ignore_errors=True)
