"""The order of steps, batches, numbers, checkpoints and the end: the loop around a recorder in the place of JAX."""

import math
from typing import Any

import pytest

from dpojob_trainer.training.loop import Cadence, Placed, Running, run_steps


class Left(Exception):
    """The run was ended."""


class Recorder:
    """Writes down what the loop asks for. The state is the number of steps done; step `nan` gives no finite loss."""

    def __init__(self, *, leave_after: int | None = None, nan: int | None = None) -> None:
        self.told: list[str] = []
        self._leave_after, self._nan = leave_after, nan

    def place(self, step: int) -> Placed:
        self.told.append(f"place {step}")
        return Placed(step, {}, {})

    def dispatch(self, state: int, batch: Placed) -> tuple[int, float]:
        assert state == batch.step, "a step takes the state of the one before"
        self.told.append(f"step {state}")
        return state + 1, math.nan if state == self._nan else float(state)

    def settle(self, done: Running, state: int | None) -> None:
        if not math.isfinite(done.metrics):
            raise ValueError(f"step {done.step}")
        assert state in (None, done.step + 1)
        self.told.append(f"settle {done.step}" + ("" if state is None else " with state"))

    def do_what_is_due(self, state: int, step: int) -> None:
        assert state == step
        self.told.append(f"due {step}")

    def told_to_leave(self, running: Any) -> bool:
        return self._leave_after is not None and running + 1 >= self._leave_after

    def leave(self, state: int, step: int) -> None:
        self.told.append(f"leave {step} with {state}")
        raise Left


def test_while_a_step_runs_the_next_batch_is_placed_and_the_step_before_settled() -> None:
    told = Recorder()
    assert run_steps(told, Cadence(5, None, 100), 0, 0) == 5
    assert told.told == [
        "place 0", "step 0", "place 1", "settle 0 with state", "due 1",
        "step 1", "place 2",
        "step 2", "place 3", "settle 1",
        "step 3", "place 4", "settle 2",
        "step 4", "settle 3", "settle 4 with state", "due 5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cadence", "held"),
    [
        (Cadence(6, None, 2), [1, 2, 4, 6]),
        (Cadence(6, 3, 100), [1, 3, 6]),
        (Cadence(6, None, 3, rated=True), [1, 3, 6]),
        (Cadence(6, None, 100, examine=5), [1, 5, 6]),
    ],
)
def test_what_needs_a_state_sees_it_after_its_own_numbers(cadence: Cadence, held: list[int]) -> None:
    told = Recorder()
    run_steps(told, cadence, 0, 0)
    assert [int(line.split()[1]) for line in told.told if line.startswith("due")] == held
    for step in held:
        due = told.told.index(f"due {step}")
        assert told.told[due - 1] == f"settle {step - 1} with state"
    settled = [int(line.split()[1]) for line in told.told if line.startswith("settle")]
    assert settled == list(range(6)), "every step is recorded once and in order"


@pytest.mark.parametrize("nan", range(6))
def test_no_checkpoint_follows_a_loss_that_is_not_finite(nan: int) -> None:
    told = Recorder(nan=nan)
    with pytest.raises(ValueError, match=f"step {nan}"):
        run_steps(told, Cadence(6, None, 2), 0, 0)
    assert all(int(line.split()[1]) <= nan for line in told.told if line.startswith(("due", "settle")))


@pytest.mark.parametrize("step", range(1, 6))
def test_who_is_told_to_leave_leaves_with_this_steps_state_and_numbers(step: int) -> None:
    told = Recorder(leave_after=step)
    with pytest.raises(Left):
        run_steps(told, Cadence(6, None, 4), 0, 0)
    assert told.told[-1] == f"leave {step} with {step}"
    assert f"settle {step - 1} with state" in told.told
    assert f"step {step}" not in told.told


def test_the_last_step_ends_the_run_by_itself() -> None:
    told = Recorder(leave_after=6)
    assert run_steps(told, Cadence(6, None, 4), 0, 0) == 6


def test_a_resumed_run_goes_on_and_a_finished_one_does_nothing() -> None:
    told = Recorder()
    assert run_steps(told, Cadence(6, None, 100), 4, 4) == 6
    assert told.told[0] == "place 4"
    assert run_steps(finished := Recorder(), Cadence(6, None, 4), 6, 6) == 6
    assert finished.told == []
