"""EasyDeL's DPOTrainer with our data, our steps and a loop that hides no failure.

EasyDeL builds the state, the optimizer and the shardings. Its own loop returns normally after a TypeError in a hook or
a NaN, restarts from step 0 when a checkpoint cannot be read, ignores the shuffle flag and drops the last batch of an
evaluation; so the loop is ours.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
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
from dpojob_trainer.training.batches import Batch, EvalBatches, TrainBatches, token_counts
from dpojob_trainer.training.logps import completion_logps
from dpojob_trainer.training.losses import InitialLoss, PairLoss
from dpojob_trainer.training.program import Program
from dpojob_trainer.training.reference import Scores
from dpojob_trainer.training.step import StepFunctions

Numbers = dict[str, float]


@dataclass(frozen=True)
class Hooks:
    """What happens around the steps; an exception in a hook ends the run.

    Attributes:
        stepped: called on every process after each step with the number of steps done and its metrics.
        evaluated: called on every process after each evaluation.
        save: called on every process when a checkpoint is due, with the numbers of an evaluation at the same step.
        between: called on every process after each step but the last, when all that is due is done; it may end the run.
        phase: called with the name of the phase that begins.
    """

    stepped: Callable[[Any, int, Numbers], None]
    evaluated: Callable[[int, Numbers], None]
    save: Callable[[Any, int, Numbers | None], None]
    between: Callable[[Any, int], None]
    phase: Callable[[str], None]


@dataclass(frozen=True)
class Cadence:
    """When to evaluate and to save, in optimizer steps; None means only at the end.

    With `rated` an evaluation precedes every checkpoint.
    """

    total: int
    evaluate: int | None
    save: int
    rated: bool = False

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation follows step `step` (0 is before the first)."""
        if step in (0, self.total) or (self.rated and self.saves(step)):
            return True
        return bool(self.evaluate and step % self.evaluate == 0)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint follows step `step`."""
        return step > 0 and (step == self.total or step % self.save == 0)


class PreferenceTrainer(DPOTrainer):  # type: ignore[misc]
    """DPO on tokenised pairs; :meth:`train` raises what goes wrong."""

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
        """Compile both steps on the model's mesh; the state is donated to the training step."""
        arguments, mesh = self.arguments, self.model.mesh
        if self._alone:
            self.reference_state = None
        forward = partial(completion_logps, pad_id=arguments.padding_value)
        steps = StepFunctions(forward, self.loss, arguments.beta, self._micro_batches())
        everywhere = NamedSharding(mesh, PartitionSpec())
        reference = self.reference_state.shardings if self.reference_state is not None else None
        train = jax.jit(
            steps.train,
            in_shardings=(self.state_shardings, everywhere, reference),
            out_shardings=(self.state_shardings, everywhere),
            donate_argnums=(0,),
        )
        evaluate = jax.jit(
            StepFunctions(steps.forward, steps.pair_loss, steps.beta, 1).evaluate,
            in_shardings=(self.state_shardings, everywhere, everywhere, reference),
            out_shardings=everywhere,
        )
        score = jax.jit(
            steps.score, in_shardings=(self.state_shardings, everywhere), out_shardings=everywhere
        )
        self._score = Program("reference", score, self.hooks.phase)
        self._evaluate = Program("evaluating", evaluate, self.hooks.phase)
        return TrainerConfigureFunctionOutput(
            sharded_training_step_function=Program("training", train, self.hooks.phase),
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
            if first == 0:
                self.run_evaluation(state, 0)
            for step in range(first, self.cadence.total):
                state = self._one_step(state, step)
                if step + 1 < self.cadence.total:
                    self.hooks.between(state, step + 1)
        return TrainerOutput(
            state=state, mesh=self.mesh, checkpoint_path=None, last_save_file_name=None
        ), None

    def _one_step(self, state: Any, step: int) -> Any:
        began = time.perf_counter()
        batch = self._with_reference(self.batches[step])
        state, metrics = self.sharded_training_step_function(state, batch, self.reference_state)
        numbers = self._numbers(metrics, step) | token_counts(batch)
        numbers |= {"seconds": time.perf_counter() - began}
        _require_finite(numbers, step + 1)
        if step == 0 and not self.arguments.reference_free:
            _require_reference(numbers["loss"], self.initial, self.scores_from)
        self.hooks.stepped(state, step + 1, numbers)
        evaluation = self.run_evaluation(state, step + 1) if self.cadence.evaluates(step + 1) else None
        if self.cadence.saves(step + 1):
            self.hooks.save(state, step + 1, evaluation)
        return state

    def score(self, batch: Batch) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return the log-probabilities of both sides under the policy as it is, each `[pairs]`."""
        with self.mesh:
            chosen, rejected = self._score(self.model_state, batch)
        return np.asarray(chosen.addressable_data(0)), np.asarray(rejected.addressable_data(0))

    def _with_reference(self, batch: Batch) -> Batch:
        return batch if self.scores is None else self.scores.joined(batch)

    def _numbers(self, metrics: Any, step: int) -> Numbers:
        found = {"loss": metrics.loss} | dict(metrics.other_metrics)
        numbers = {name: float(value) for name, value in jax.device_get(found).items()}
        return numbers | {"learning_rate": float(self.scheduler(step))}

    def run_evaluation(self, state: Any, step: int) -> Numbers | None:
        """Evaluate on the held-out pairs, if there are any; hand the means to the hook and return them."""
        if self.evaluation is None or not len(self.evaluation):
            return None
        self.hooks.phase("evaluating")
        began = time.perf_counter()
        sums: Numbers = {}
        for batch, weights in self.evaluation:
            for name, value in self._evaluate_batch(state, batch, weights).items():
                sums[name] = sums.get(name, 0.0) + value
        pairs = sums.pop("pairs")
        numbers = {name: value / pairs for name, value in sums.items()}
        _require_finite(numbers, step)
        self.hooks.evaluated(step, numbers | {"pairs": pairs, "seconds": time.perf_counter() - began})
        self.hooks.phase("training")
        return numbers

    def _evaluate_batch(self, state: Any, batch: Batch, weights: np.ndarray[Any, Any]) -> Numbers:
        sums = self._evaluate(state, self._with_reference(batch), weights, self.reference_state)
        return {name: float(value) for name, value in jax.device_get(sums).items()}


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
