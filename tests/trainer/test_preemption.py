"""SIGTERM to this process: what it does while a run loads, restores and trains. No run; `test_kills.py` has whole ones."""

import os
import signal

import pytest

from dpojob_api.reasons import TrainerReason
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.training.preemption import Preemption

pytestmark = pytest.mark.jax


def told() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_while_it_loads_it_ends_at_once() -> None:
    with Preemption(), pytest.raises(TrainerError) as caught:
        told()
    assert caught.value.reason is TrainerReason.PREEMPTED


def test_a_restore_is_not_broken_off() -> None:
    done = []
    with Preemption() as preemption, pytest.raises(TrainerError) as caught, preemption.postponed():
        told()
        done.append("restored")
    assert done == ["restored"] and caught.value.reason is TrainerReason.PREEMPTED


def test_while_it_trains_it_is_noted() -> None:
    with Preemption() as preemption:
        preemption.wait_for_steps()
        assert not preemption.agreed()
        told()
        preemption.leave_if_told()
        assert preemption.agreed()


def test_the_handler_of_before_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Preemption():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) is before
