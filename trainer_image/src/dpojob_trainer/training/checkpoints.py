"""Checkpoints below ``<output>/checkpoints``, written by Orbax: whole or absent, one folder per step.

EasyDeL's own checkpoints are not used: several processes race on their index file on a shared file system, a folder
that another mesh wrote cannot be written again, and a half-written one is not told from a whole one.
"""

import logging
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from dpojob_api.constants import OUTPUT_CHECKPOINTS
from dpojob_api.reasons import TrainerReason
from dpojob_api.training_spec import TrainingSpec
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.training.agreement import everyone, meet
from dpojob_trainer.training.arrays import Arrays, abstract, advanced, bit_sums, like, named, unnamed
from dpojob_trainer.training.failures import last_line, lost_peer, out_of_memory, outage
from dpojob_trainer.training.program import Program
from dpojob_trainer.training.retention import STEP_PREFIX, Metrics, manager_options

log = logging.getLogger(__name__)

PARAMETERS, OPTIMIZER, SUMS = "parameters", "optimizer", "sums"


class Manager(ocp.CheckpointManager):  # type: ignore[misc]
    """Orbax's manager, for which a checkpoint whose metrics cannot be read is one without metrics."""

    def metrics(self, step: int) -> Metrics | None:
        """Return the metrics that were saved with a checkpoint."""
        try:
            found: Metrics | None = super().metrics(step)
        except ValueError as error:
            log.warning("the metrics of the checkpoint of step %d cannot be read: %s", step, last_line(error))
            return None
        return found


class Checkpoints:
    """Saves and restores the parameters, the optimizer and the step of an EasyDeL state.

    Raises:
        TrainerError: CheckpointFailed if the folder cannot be made.
    """

    def __init__(self, root: str, training: TrainingSpec) -> None:
        self.folder = f"{root}/{OUTPUT_CHECKPOINTS}"
        self._with_optimizer = training.save_optimizer_state
        self._bit_sums = Program("bit-sums", jax.jit(bit_sums), lambda _: None)
        try:
            self._manager = Manager(self.folder, options=manager_options(training))
        except Exception as error:
            raise _failed(error, None) from error

    def steps(self) -> list[int]:
        """Return the steps of the whole checkpoints, the newest first."""
        return sorted((int(step) for step in self._manager.all_steps()), reverse=True)

    def save(self, state: Any, step: int, metrics: Metrics | None = None) -> None:
        """Write a checkpoint; the arrays are copied at once and written in the background.

        Args:
            state: the state after `step` steps.
            step: the number of steps done.
            metrics: means of the evaluation after `step`, None without one.

        Raises:
            TrainerError: CheckpointFailed, also for the background writing of an earlier one.
        """
        try:
            self._manager.check_for_errors()
            if step in self._manager.all_steps():
                return
            trees = self._trees(state)
            items = {item: ocp.args.StandardSave(arrays) for item, arrays in trees.items()}
            items[SUMS] = ocp.args.JsonSave(self._sums(trees))
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics, force=True)
        except Exception as error:
            raise _failed(error, step) from error

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            TrainerError: CheckpointFailed.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise _failed(error, None) from error

    def close(self) -> None:
        """Release the background threads."""
        self._manager.close()

    def restore(self, state: Any, shardings: Any) -> tuple[Any, int]:
        """Return the newest state that can be read, on the shardings of this run's mesh, and its step.

        Without a checkpoint that is `state` itself and 0. All hosts use the same checkpoint; newer ones that one of
        them could not read are removed, so that their steps can be saved again.

        Raises:
            TrainerError: RestoreFailed if there are checkpoints and none can be read; DownloadFailed if the storage
                does not answer, and then nothing is skipped or removed.
        """
        steps, damage = self.steps(), ""
        for tried, step in enumerate(steps):
            found, words = self._attempt(state, shardings, step)
            if found is not None:
                self._remove(steps[:tried])
                return found, step
            damage = damage or words
        if not steps:
            return state, 0
        raise TrainerError(
            TrainerReason.RESTORE_FAILED,
            f"none of the checkpoints in {self.folder} could be restored (steps {', '.join(map(str, steps))}; the newest: "
            f"{damage[:300]}); delete that folder to start again from the base model",
            step=steps[0],
        )

    def _attempt(self, state: Any, shardings: Any, step: int) -> tuple[Any | None, str]:
        """Return the state of a checkpoint that every host could read, or None and why this one could not."""
        found: Any = None
        words = "another host could not read it"
        try:
            found = self._read(state, shardings, step)
        except Exception as error:
            if out_of_memory(error) or lost_peer(error):
                raise
            if outage(error):
                raise _unread(error, step) from error
            words = last_line(error)
        meet(f"dpojob-restored-{step}")
        if everyone(found is not None):
            if self._sums(found) == found[SUMS]:
                return self._filled(state, found, step), ""
            words = "its arrays are not those that were saved"
        log.warning("the checkpoint of step %d is damaged and is skipped: %s", step, words)
        return None, words

    def _read(self, state: Any, shardings: Any, step: int) -> Any:
        """Return the items of a checkpoint as this host can read them, without waiting for others."""
        wanted, places = self._trees(state), self._trees(shardings)
        items = {item: ocp.args.StandardRestore(abstract(wanted[item], places[item])) for item in wanted}
        with _reader(tuple(items)) as reader:
            return reader.restore(
                self._manager.directory / f"{STEP_PREFIX}_{step}",
                args=ocp.args.Composite(**items, **{SUMS: ocp.args.JsonRestore()}),
            )

    def _filled(self, state: Any, found: Any, step: int) -> Any:
        """Return `state` with the arrays that were read."""
        parameters = unnamed(state.graphstate, found[PARAMETERS])
        if self._with_optimizer:
            optimizer = unnamed(state.opt_state, found[OPTIMIZER])
        else:
            optimizer = advanced(state.opt_state, step)
        return state.replace(graphstate=parameters, opt_state=optimizer, step=like(state.step, step))

    def _trees(self, state: Any) -> dict[str, Arrays]:
        """Return the arrays, or the shardings, of a state by item and name."""
        trees = {PARAMETERS: named(state.graphstate)}
        return trees | {OPTIMIZER: named(state.opt_state)} if self._with_optimizer else trees

    def _sums(self, trees: Any) -> dict[str, list[int]]:
        """Return what tells the same arrays from others; all hosts take part and get the same."""
        arrays = {f"{item}/{name}": a for item in self._items() for name, a in trees[item].items()}
        return {"uint32": np.asarray(self._bit_sums(arrays)).tolist()}

    def _items(self) -> tuple[str, ...]:
        return (PARAMETERS, OPTIMIZER) if self._with_optimizer else (PARAMETERS,)

    def _remove(self, steps: list[int]) -> None:
        for step in steps:
            log.warning("the damaged checkpoint of step %d is removed", step)
            self._manager.delete(step)


def _reader(items: tuple[str, ...]) -> Any:
    """Return a checkpointer of this process alone.

    The manager's own meets the other hosts after reading, so one that cannot read would leave them waiting.
    """
    rank = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=rank, active_processes={rank}, barrier_sync_key_prefix=f"host{rank}"
    )
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        **{name: ocp.StandardCheckpointHandler(multiprocessing_options=alone) for name in items},
        **{SUMS: ocp.JsonCheckpointHandler(multiprocessing_options=alone)},
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _unread(error: Exception, step: int) -> TrainerError:
    return TrainerError(
        TrainerReason.DOWNLOAD_FAILED,
        f"the checkpoint of step {step} cannot be read at the moment ({last_line(error)}); all checkpoints stay, and the next "
        "attempt on the same output tries again",
        step=step,
    )


def _failed(error: Exception, step: int | None) -> TrainerError:
    return lost_peer(error) or TrainerError(
        TrainerReason.CHECKPOINT_FAILED,
        f"a checkpoint could not be written ({last_line(error)}); check space and permissions of output.uri",
        step=step,
    )
