"""The order of things around the steps: what runs while a step runs, and what must have been seen before the next one.

Nothing here knows JAX; the steps and all that is done around them are given.
"""

from dataclasses import dataclass
from typing import Any, Protocol

Numbers = dict[str, float]


@dataclass(frozen=True)
class Cadence:
    """When to evaluate and to save, in optimizer steps; None means only at the end.

    With `rated` an evaluation precedes every checkpoint; `examine` is when the trackers want the parameters.
    """

    total: int
    evaluate: int | None
    save: int
    rated: bool = False
    examine: int | None = None

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation follows step `step` (0 is before the first)."""
        if step in (0, self.total) or (self.rated and self.saves(step)):
            return True
        return bool(self.evaluate and step % self.evaluate == 0)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint follows step `step`."""
        return step > 0 and (step == self.total or step % self.save == 0)

    def holds(self, step: int) -> bool:
        """Whether the state after step `step`, or its numbers, are needed before the next step takes the state."""
        examined = self.examine is not None and step % self.examine == 0
        return step == 1 or examined or self.evaluates(step) or self.saves(step)


@dataclass(frozen=True)
class Placed:
    """The batch of step `step` (counted from 0) on the devices, and its numbers of tokens."""

    step: int
    arrays: dict[str, Any]
    counts: Numbers


@dataclass(frozen=True)
class Running:
    """A step that was dispatched, its metrics on their way."""

    step: int
    metrics: Any
    counts: Numbers


class Steps(Protocol):
    """What :func:`run_steps` puts in order; steps done count from 1, steps to do from 0."""

    def place(self, step: int) -> Placed:
        """Put a step's batch on the devices."""
        ...

    def dispatch(self, state: Any, batch: Placed) -> tuple[Any, Any]:
        """Begin a step, which takes the state; return the state and the metrics to come."""
        ...

    def settle(self, done: Running, state: Any | None) -> None:
        """Wait for a step's numbers, check and record them; the state is there if no other step has taken it yet."""
        ...

    def do_what_is_due(self, state: Any, step: int) -> None:
        """Evaluate and save after `step` steps."""
        ...

    def told_to_leave(self, running: Any) -> bool:
        """Whether the run ends after the step whose metrics are `running`."""
        ...

    def leave(self, state: Any, step: int) -> None:
        """End the run after `step` steps."""
        ...


def run_steps(steps: Steps, cadence: Cadence, state: Any, first: int) -> Any:
    """Do the steps from `first` on and return the last state.

    While a step runs, the next batch goes to the devices and the numbers of the step before are recorded. Where the state is
    needed, or the run ends, the step's own numbers are seen first.
    """
    batch = steps.place(first) if first < cadence.total else None
    before: Running | None = None
    while batch is not None:
        done = batch.step + 1
        state, metrics = steps.dispatch(state, batch)
        running, held = Running(batch.step, metrics, batch.counts), cadence.holds(done)
        batch = steps.place(done) if done < cadence.total else None
        if before is not None:
            steps.settle(before, None)
        if held:
            steps.settle(running, state)
            steps.do_what_is_due(state, done)
        if batch is not None and steps.told_to_leave(metrics):
            if not held:
                steps.settle(running, state)
            steps.leave(state, done)
        before = None if held else running
    return state
