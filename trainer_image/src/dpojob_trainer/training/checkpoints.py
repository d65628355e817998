"""Checkpoints below ``<output>/checkpoints``, written by Orbax: whole or absent, one folder per step.

EasyDeL's own checkpoints are not used: several processes race on their index file on a shared file system, a folder
that another mesh wrote cannot be written again, and a half-written one is not told from a whole one.
"""

import re
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from dpojob_api.constants import OUTPUT_CHECKPOINTS
from dpojob_api.reasons import TrainerReason
from dpojob_api.spec import TrainingSpec
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.training.failures import lost_peer

PARAMETERS, OPTIMIZER, STEP_PREFIX = "parameters", "optimizer", "step"
Arrays = dict[str, Any]


class Checkpoints:
    """Saves and restores the parameters, the optimizer and the step of an EasyDeL state.

    Raises:
        TrainerError: CheckpointFailed if the folder cannot be made.
    """

    def __init__(self, root: str, training: TrainingSpec) -> None:
        self.folder = f"{root}/{OUTPUT_CHECKPOINTS}"
        self._with_optimizer = training.save_optimizer_state
        options = ocp.CheckpointManagerOptions(
            max_to_keep=training.checkpoints_to_keep or None,
            step_prefix=STEP_PREFIX,
            cleanup_tmp_directories=True,
        )
        try:
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        except Exception as error:
            raise _failed(error, None) from error

    def latest(self) -> int | None:
        """Return the step of the newest whole checkpoint, None without one."""
        step = self._manager.latest_step()
        return None if step is None else int(step)

    def save(self, state: Any, step: int) -> None:
        """Write a checkpoint; the arrays are copied at once and written in the background.

        Raises:
            TrainerError: CheckpointFailed, also for the background writing of an earlier one.
        """
        items = {PARAMETERS: ocp.args.StandardSave(named(state.graphstate))}
        if self._with_optimizer:
            items[OPTIMIZER] = ocp.args.StandardSave(named(state.opt_state))
        try:
            self._manager.check_for_errors()
            if step not in self._manager.all_steps():
                self._manager.save(step, args=ocp.args.Composite(**items))
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

    def restore(self, state: Any, shardings: Any, step: int) -> Any:
        """Return `state` as it was after `step` steps, on the shardings of this run's mesh.

        Raises:
            TrainerError: ResumeFailed.
        """
        try:
            return self._restore(state, shardings, step)
        except Exception as error:
            raise TrainerError(
                TrainerReason.RESUME_FAILED,
                f"the checkpoint of step {step} in {self.folder} could not be restored ({_first_line(error)[:300]}); "
                "delete that folder to fall back to an older one or to start again",
                step=step,
            ) from error

    def _restore(self, state: Any, shardings: Any, step: int) -> Any:
        wanted = {PARAMETERS: _abstract(state.graphstate, shardings.graphstate)}
        if (self._manager.directory / f"{STEP_PREFIX}_{step}" / OPTIMIZER).exists():
            wanted[OPTIMIZER] = _abstract(state.opt_state, shardings.opt_state)
        items = {name: ocp.args.StandardRestore(arrays) for name, arrays in wanted.items()}
        found = self._manager.restore(step, args=ocp.args.Composite(**items))
        parameters = unnamed(state.graphstate, found[PARAMETERS])
        if OPTIMIZER in wanted:
            optimizer = unnamed(state.opt_state, found[OPTIMIZER])
        else:
            optimizer = advanced(state.opt_state, step)
        return state.replace(graphstate=parameters, opt_state=optimizer, step=_like(state.step, step))


def named(tree: Any) -> Arrays:
    """Return the arrays of a pytree by readable names that are unique and fit for file names."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = {_name(path): leaf for path, leaf in leaves}
    if len(arrays) != len(leaves):
        raise ValueError("two arrays of the state have the same name")
    return arrays


def unnamed(tree: Any, arrays: Arrays) -> Any:
    """Return `tree` with its arrays replaced by those of the same name."""
    return jax.tree_util.tree_map_with_path(lambda path, _: arrays[_name(path)], tree)


def advanced(optimizer: Any, step: int) -> Any:
    """Return a fresh optimizer state that counts from `step`, so that the learning rate goes on where it was.

    Every count gets an array of its own: the training step donates them all, and donating one twice crashes.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _like(leaf, step) if _name(path).endswith("count") else leaf, optimizer
    )


def _name(path: Any) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", ".", jax.tree_util.keystr(path)).strip(".")


def _abstract(tree: Any, shardings: Any) -> Arrays:
    places = named(shardings)
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places[name])
        for name, leaf in named(tree).items()
    }


def _like(leaf: Any, value: int) -> Any:
    return jax.device_put(np.asarray(value, leaf.dtype), leaf.sharding)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _failed(error: Exception, step: int | None) -> TrainerError:
    return lost_peer(error) or TrainerError(
        TrainerReason.CHECKPOINT_FAILED,
        f"a checkpoint could not be written ({_first_line(error)}); check space and permissions of output.uri",
        step=step,
    )
