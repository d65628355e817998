"""Which statuses wait to be written and which do not. Pure logic; whole lives are in ``test_operator_lives``."""

from datetime import timedelta

import pytest
from tests.unit import operator_builders as b

from dpojob_api.ledger import Activity
from dpojob_api.reasons import OperatorReason
from dpojob_api.status import DPOJobStatus, FinalMetrics, ProgressStatus
from dpojob_operator import pacing
from dpojob_operator.drafts import NUMBERS_SECONDS, WORDS_SECONDS, Drafts, patience
from dpojob_operator.observed import Observed
from dpojob_operator.plan import POLL_SECONDS, Plan, Stage

KEY = ("ns", "j")
BODY = {"metadata": {"resourceVersion": "7"}, "status": {"summary": "Running"}}


def at(step, message="m", **more):
    status = b.active(b.make_condition("Running", message=message))
    return status.model_copy(
        update={
            "progress": ProgressStatus(phase="training", step=step, total_steps=40, steps=f"{step}/40"),
            **more,
        }
    )


@pytest.mark.parametrize(
    ("new", "seconds"),
    [
        (at(8), NUMBERS_SECONDS),
        (at(8, message="other words"), WORDS_SECONDS),
        (at(8, final_metrics=FinalMetrics(step=8)), 0),
        (at(8, ledger=b.make_ledger(0, Activity.TRAINING)), 0),
        (at(8, attempt=2), 0),
        (at(8, conditions=[]), 0),
    ],
)
def test_numbers_wait_and_news_does_not(new, seconds):
    assert patience(at(7), new) == seconds


def starting(reason):
    return b.active(b.make_condition("Reconciling", reason=reason, message=str(reason)))


def test_how_far_a_start_has_come_is_words_and_its_end_is_news():
    created, waiting = starting(OperatorReason.ATTEMPT_CREATED), starting(OperatorReason.WAITING_FOR_PODS)
    assert patience(created, waiting) == WORDS_SECONDS
    assert patience(waiting, starting(OperatorReason.EVICTED_BY_KUEUE)) == 0
    assert patience(waiting, at(0)) == 0


def test_start_whose_words_wait_is_looked_at_soon_and_a_queue_is_not():
    def pause(stage, held):
        plan = Plan(stage, 1, OperatorReason.WAITING_FOR_PODS, "m")
        return pacing.next_look(plan, Observed(1), running=0, jobs=1000, held=held)

    assert pause(Stage.STARTING, held=True) == POLL_SECONDS < pause(Stage.STARTING, held=False)
    assert pause(Stage.QUEUED, held=True) == pause(Stage.QUEUED, held=False)


def test_first_status_is_written_at_once_and_numbers_after_their_time():
    drafts = Drafts()
    assert not drafts.holds(KEY, at(7), at(8), b.NOW)
    drafts.wrote(KEY, b.NOW)
    soon = b.NOW + timedelta(seconds=NUMBERS_SECONDS - 1)
    assert drafts.holds(KEY, at(7), at(8), soon)
    assert not drafts.holds(KEY, at(7), at(8), soon + timedelta(seconds=1))


def test_nothing_waits_for_a_clock_that_was_set_back():
    drafts = Drafts()
    drafts.wrote(KEY, b.NOW)
    before = b.NOW - timedelta(minutes=10)
    assert not drafts.holds(KEY, at(7), at(8, attempt=2), before)
    assert not drafts.holds(KEY, at(7), at(8), before)


def test_draft_stands_in_for_the_status_that_it_continues_and_no_other():
    drafts = Drafts()
    drafts.hold(KEY, "7", at(8))
    assert DPOJobStatus.model_validate(drafts.apply(KEY, BODY)["status"]) == at(8)
    other = {**BODY, "metadata": {"resourceVersion": "8"}}
    assert drafts.apply(KEY, other) is other
    drafts.wrote(KEY, b.NOW)
    assert (drafts.apply(KEY, BODY), drafts.has(KEY)) == (BODY, False)
