"""The run against its plan: the step's fingerprint, and what the board serves of it. Programs are stand-ins with a text."""

from collections.abc import Iterable
from types import SimpleNamespace

import pytest

from dpojob_api import metrics
from dpojob_trainer.board import STEPS_OF_A_MEAN, Board
from dpojob_trainer.progress import Planned, Step
from dpojob_trainer.training.planned import Comparison, fingerprint


def program(text: str) -> SimpleNamespace:
    return SimpleNamespace(as_text=lambda: text)


def compared(wanted: str | None, texts: Iterable[str]) -> list[bool]:
    told: list[bool] = []
    comparison = Comparison(wanted, told.append)
    for text in texts:
        comparison.see(program(text))
    comparison.conclude()
    return told


@pytest.mark.parametrize(("texts", "told"), [("cab", [True]), ("bc", [False])])
def test_the_planned_step_is_among_those_lowered_or_not(texts: str, told: list[bool]) -> None:
    assert compared(fingerprint(program("a")), texts) == told


def test_without_a_plan_nothing_is_said() -> None:
    assert compared(None, "abc") == []


def gauges(board: Board) -> dict[str, float]:
    samples = (sample for family in board.collect() for sample in family.samples)
    return {sample.name: sample.value for sample in samples if not sample.labels}


def test_the_board_serves_whether_the_step_is_the_planned_one() -> None:
    board = Board()
    assert metrics.PLAN_MATCHES not in gauges(board)
    board.keep(Planned(False))
    assert gauges(board)[metrics.PLAN_MATCHES] == 0


def test_the_mean_leaves_out_the_first_step_and_waits_for_some() -> None:
    board = Board()
    for step in range(1, STEPS_OF_A_MEAN + 1):
        assert metrics.MEAN_STEP_SECONDS not in gauges(board)
        board.keep(Step(step, 100, {"seconds": 90.0 if step == 1 else 2.0}))
    assert gauges(board)[metrics.MEAN_STEP_SECONDS] == 2.0
