"""The trainer's last line: written, found in a log, and never mistaken."""

import pytest

from dpojob_api.constants import RESULT_PREFIX
from dpojob_api.reasons import TrainerReason
from dpojob_api.result import TrainerResult, find_result

FAILED = TrainerResult(
    reason=TrainerReason.NON_FINITE_LOSS,
    message='loss is NaN at step 3; lower "learningRate"\nor warm up',
    step=3,
)


def test_line_is_found_again() -> None:
    assert find_result(f"noise\n{FAILED.to_line()}\nmore noise\n") == FAILED


def test_line_is_one_line() -> None:
    assert "\n" not in FAILED.to_line()


def test_prefix_of_ray_before_the_line_does_not_matter() -> None:
    assert find_result("(driver pid=7) " + FAILED.to_line()) == FAILED


def test_last_line_wins() -> None:
    first = TrainerResult(reason=TrainerReason.SUCCEEDED, message="done")
    assert find_result(f"{first.to_line()}\n{FAILED.to_line()}") == FAILED


@pytest.mark.parametrize(
    "broken",
    ["{", '{"reason":"NoSuchReason","message":"x"}', '{"reason":"Succeeded"}', "[]", FAILED.to_line()[16:40]],
)
def test_broken_line_is_passed_over(broken: str) -> None:
    assert find_result(f"{FAILED.to_line()}\n{RESULT_PREFIX}{broken}") == FAILED
    assert find_result(RESULT_PREFIX + broken) is None


def test_log_without_a_result_has_none() -> None:
    assert find_result("Traceback (most recent call last):\n  ...") is None
