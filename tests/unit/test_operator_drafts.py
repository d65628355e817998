"""Which statuses wait to be written and which do not. Pure logic; whole lives are in ``test_operator_lives``."""

from datetime import timedelta

import pytest
from tests.unit import operator_builders as b

from dpojob_api.ledger import Activity
from dpojob_api.status import DPOJobStatus, FinalMetrics, ProgressStatus
from dpojob_operator.drafts import NUMBERS_SECONDS, WORDS_SECONDS, Drafts, patience

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
