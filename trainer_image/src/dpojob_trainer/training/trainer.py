"""EasyDeL's DPOTrainer with our data, our steps and a loop that hides no failure.

EasyDeL builds the state, the optimizer and the shardings. Its own loop returns normally after a TypeError in a hook or
a NaN, restarts from step 0 when a checkpoint cannot be read, ignores the shuffle flag and drops the last batch of an
evaluation; so the loop is ours.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from easydel.trainers import DPOTrainer
from easydel.trainers.trainer_protocol import (
    TrainerConfigureDataloaderOutput,
    TrainerConfigureFunctionOutput,
    TrainerOutput,
)
from jax.sharding import NamedSharding, PartitionSpec

from dpojob_api.reasons import TrainerReason
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.training.abstract import abstract_batch
from dpojob_trainer.training.arrays import on_mesh
from dpojob_trainer.training.batches import Batch, EvalBatches, Shape, TrainBatches, token_counts
from dpojob_trainer.training.lengths import centred
from dpojob_trainer.training.logps import completion_logps
from dpojob_trainer.training.loop import Cadence, Placed, Running, run_steps
from dpojob_trainer.training.losses import InitialLoss, PairLoss
from dpojob_trainer.training.planned import Comparison
from dpojob_trainer.training.program import Program, compile_all
from dpojob_trainer.training.reference import Scores
from dpojob_trainer.training.step import StepFunctions, jitted

Numbers = dict[str, float]


@dataclass(frozen=True)
class Hooks:
    """What happens around the steps; an exception in a hook ends the run.

    Attributes:
        stepped: called on every process with the metrics of each step and the number of steps done, in their order, as a
            rule while the next step runs; the state is None then.
        evaluated: called on every process after each evaluation.
        save: called on every process when a checkpoint is due, with the numbers of an evaluation at the same step.
        told_to_leave: asked on every process after each step but the last, when all that is due is done.
        leave: called on every process, if so, after `stepped`; it ends the run.
        phase: called with the name of the phase that begins.
    """

    stepped: Callable[[Any | None, int, Numbers], None]
    evaluated: Callable[[int, Numbers], None]
    save: Callable[[Any, int, Numbers | None], None]
    told_to_leave: Callable[[], bool]
    leave: Callable[[Any, int], None]
    phase: Callable[[str], None]


class PreferenceTrainer(DPOTrainer):  # type: ignore[misc]
    """DPO on tokenised pairs; :meth:`train` raises what goes wrong."""

    reference_state: Any

    def __init__(
        self,
        *,
        arguments: Any,
        model: Any,
        reference: Any | None,
        tokenizer: Any,
        loss: PairLoss,
        initial: InitialLoss,
        batches: TrainBatches,
        evaluation: EvalBatches | None,
        cadence: Cadence,
        hooks: Hooks,
    ) -> None:
        self.loss = loss
        self.initial = initial
        self.batches = batches
        self.evaluation = evaluation
        self.cadence = cadence
        self.hooks = hooks
        self.scores: Scores | None = None
        self.scores_from: str | None = None
        self.comparison = Comparison(None, lambda found: None)
        self._alone = reference is None
        # Without a reference EasyDeL would copy the policy; naming the policy itself avoids the copy.
        super().__init__(arguments, model, reference or model, tokenizer)

    def configure_dataloaders(self) -> TrainerConfigureDataloaderOutput:
        """Tell EasyDeL the number of steps; the batches are ours."""
        return TrainerConfigureDataloaderOutput(
            dataloader_train=None,
            max_training_steps=self.cadence.total,
            dataloader_eval=None,
            max_evaluation_steps=0,
        )

    def configure_functions(self) -> TrainerConfigureFunctionOutput:
        """Make both steps on the model's mesh; the state is donated to the training step."""
        arguments, mesh = self.arguments, self.model.mesh
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        # EasyDeL lays out the policy alone; the reference's counts of random numbers lie where they were made.
        frozen = None if self._alone else on_mesh(self.reference_state, self._everywhere)
        self.reference_state = frozen
        steps = StepFunctions(completion_logps, self.loss, arguments.beta, self._micro_batches())
        places = None if frozen is None else frozen.shardings
        train, evaluate, score = jitted(steps, mesh, self.state_shardings, places)
        self._score = Program("reference", score, self.hooks.phase, _shape)
        self._evaluate = Program("evaluating", evaluate, self.hooks.phase, _shape)
        return TrainerConfigureFunctionOutput(
            sharded_training_step_function=Program("training", train, self.hooks.phase, _shape),
            sharded_evaluation_step_function=None,
            mesh=mesh,
            checkpoint_manager=None,
        )

    def _micro_batches(self) -> int:
        return int(self.arguments.gradient_accumulation_steps)

    def _create_checkpointer(self) -> None:
        """Checkpoints are written by our hooks."""

    def _setup_initial_metrics(self, state: Any) -> None:
        """EasyDeL would report to its own trackers."""

    @staticmethod
    def finish() -> None:
        """EasyDeL would close the W&B run here, before the export."""

    def _run_training_loop(
        self, state: Any, metrics_tracker: Any, step_metrics: Any
    ) -> tuple[TrainerOutput, None]:
        with self.mesh:
            first = int(jax.device_get(state.step))
            if first < self.cadence.total:
                compile_all(self._lowered(state), self.hooks.phase)
            if first == 0:
                self.run_evaluation(state, 0)
            self.hooks.phase("training")
            self._began = time.perf_counter()
            state = run_steps(self, self.cadence, state, first)
        return TrainerOutput(
            state=state, mesh=self.mesh, checkpoint_path=None, last_save_file_name=None
        ), None

    def _lowered(self, state: Any) -> Iterator[Callable[[], None]]:
        """Trace the steps of all shapes, the longest first; yield what compiles them."""
        training, reference = self.sharded_training_step_function, self.reference_state
        longest_first = reversed(self.batches.shapes)
        yield from training.lowered(
            [(state, self._blank(shape, self.batches.size), reference) for shape in longest_first],
            self.comparison.see,
        )
        self.comparison.conclude()
        if self.evaluation is not None:
            size = self.evaluation.size
            weights = jax.ShapeDtypeStruct((size,), jnp.float32)
            blanks = [self._blank(shape, size) for shape in self.evaluation.shapes]
            yield from self._evaluate.lowered([(state, batch, weights, reference) for batch in blanks])

    def _blank(self, shape: Shape, pairs: int) -> dict[str, jax.ShapeDtypeStruct]:
        return abstract_batch(
            shape, pairs, self._everywhere, scored=self._alone and not self.arguments.reference_free
        )

    def place(self, step: int) -> Placed:
        """Put a step's batch on the devices."""
        batch = self._with_reference(self.batches[step])
        arrays = {
            # Unlike device_put, this does not make the hosts compare what they place.
            name: jax.make_array_from_callback(array.shape, self._everywhere, array.__getitem__)
            for name, array in batch.items()
        }
        return Placed(step, arrays, token_counts(batch))

    def dispatch(self, state: Any, batch: Placed) -> tuple[Any, Any]:
        """Begin a step, which takes the state; return the state and the metrics to come."""
        return self.sharded_training_step_function(state, batch.arrays, self.reference_state)  # type: ignore[no-any-return]

    def settle(self, done: Running, state: Any | None) -> None:
        """Wait for a step's numbers, check and record them.

        Raises:
            TrainerError: NonFiniteLoss or ReferenceMismatch.
        """
        numbers = self._numbers(done.metrics, done.step) | done.counts
        now = time.perf_counter()
        numbers |= {"seconds": now - self._began}
        self._began = now
        _require_finite(numbers, done.step + 1)
        if done.step == 0 and not self.arguments.reference_free:
            _require_reference(numbers["loss"], self.initial, self.scores_from)
        self.hooks.stepped(state, done.step + 1, numbers)

    def do_what_is_due(self, state: Any, step: int) -> None:
        """Evaluate and save."""
        evaluation = self.run_evaluation(state, step) if self.cadence.evaluates(step) else None
        if self.cadence.saves(step):
            self.hooks.save(state, step, evaluation)
        self._began = time.perf_counter()

    def told_to_leave(self, running: Any) -> bool:
        """Return on all hosts alike whether to end the run after the step whose metrics are `running`."""
        if jax.process_count() > 1:
            # The hosts agree by a collective, which must not meet those of a step that still runs.
            jax.block_until_ready(running.loss)
        return self.hooks.told_to_leave()

    def leave(self, state: Any, step: int) -> None:
        """End the run."""
        self.hooks.leave(state, step)

    def score(self, batch: Batch) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return the log-probabilities of both sides under the policy as it is, each `[pairs]`."""
        with self.mesh:
            chosen, rejected = self._score(self.model_state, batch)
        return np.asarray(chosen.addressable_data(0)), np.asarray(rejected.addressable_data(0))

    def _with_reference(self, batch: Batch) -> Batch:
        return batch if self.scores is None else self.scores.joined(batch)

    def _numbers(self, metrics: Any, step: int) -> Numbers:
        found = {"loss": metrics.loss} | dict(metrics.other_metrics)
        numbers = centred({name: float(value) for name, value in jax.device_get(found).items()})
        # On a chip the schedule would wait for the step that runs.
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            return numbers | {"learning_rate": float(self.scheduler(step))}

    def run_evaluation(self, state: Any, step: int) -> Numbers | None:
        """Evaluate on the held-out pairs, if there are any; hand the means to the hook and return them."""
        if self.evaluation is None or not len(self.evaluation):
            return None
        self.hooks.phase("evaluating")
        began = time.perf_counter()
        sums = self._sums_over(state, self.evaluation)
        pairs = sums.pop("pairs")
        numbers = centred({name: value / pairs for name, value in sums.items()})
        _require_finite(numbers, step)
        self.hooks.evaluated(step, numbers | {"pairs": pairs, "seconds": time.perf_counter() - began})
        self.hooks.phase("training")
        return numbers

    def _sums_over(self, state: Any, batches: EvalBatches) -> Numbers:
        """Return the sums over all pairs; while a batch is computed, the next one is made."""
        total: Numbers = {}
        pending = iter(batches)
        following = next(pending, None)
        while following is not None:
            batch, weights = following
            sums = self._evaluate(state, self._with_reference(batch), weights, self.reference_state)
            following = next(pending, None)
            for name, value in jax.device_get(sums).items():
                total[name] = total.get(name, 0.0) + float(value)
        return total


def _shape(state: Any, batch: dict[str, Any], *_: Any) -> tuple[int, ...]:
    return (*batch["chosen_input_ids"].shape, batch["chosen_labels"].shape[1])


def _require_finite(numbers: Numbers, step: int) -> None:
    """Raise NonFiniteLoss if the loss or the gradient norm is NaN or infinite."""
    for name in ("loss", "grad_norm"):
        value = numbers.get(name, 0.0)
        if not math.isfinite(value):
            raise TrainerError(
                TrainerReason.NON_FINITE_LOSS,
                f"{name} became {value} at step {step}: lower training.learningRate or training.clipGradNorm, "
                "lengthen training.warmupSteps, or use precision.compute float32",
                step=step,
            )


def _require_reference(loss: float, initial: InitialLoss, scores_from: str | None) -> None:
    """Raise ReferenceMismatch unless the first loss is that of a policy that equals its reference."""
    if not initial.matches(loss):
        raise TrainerError(
            TrainerReason.REFERENCE_MISMATCH,
            f"the loss of step 1 is {loss:.7g} and must be {initial.value:.7g} (within {initial.tolerance:.2g}) while "
            "the policy equals its reference; leave attention.mechanism and mesh at their defaults or use "
            "precision.compute float32, and report the job's spec if the message stays"
            + (f"; the reference's log-probabilities are those of {scores_from}" if scores_from else ""),
            step=1,
        )
