"""Statuses that wait to be written: numbers that move all the time are told every so often, news at once.

A draft stands in for the job's status in the next reconcile, so nothing that has been seen is forgotten before it is
written; a restart of the operator forgets at most half a minute of it.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dpojob_api.ledger import Activity
from dpojob_api.reasons import OperatorReason
from dpojob_api.status import AttemptStatus, Condition, DPOJobStatus

Json = dict[str, Any]
Key = tuple[str, str]

NUMBERS_SECONDS = 30.0
"""Between two writes that bring only numbers."""
WORDS_SECONDS = 5.0
"""Between two writes that bring only other words for the same conditions."""
ON_THE_WAY = frozenset({OperatorReason.ATTEMPT_CREATED, OperatorReason.WAITING_FOR_PODS})
"""Reasons that are words: how far a start has come. Whatever it waits for, the next step of it is seconds away or minutes."""
COUNTED = ("from_step", "to_step", "steps_lost", "recovery_seconds")


@dataclass(frozen=True, slots=True)
class Draft:
    """A status and the version of the job that it continues."""

    version: str
    blob: bytes


class Drafts:
    """Drafts by job, and when each job's status was last written."""

    def __init__(self) -> None:
        self._drafts: dict[Key, Draft] = {}
        self._written: dict[Key, datetime] = {}

    def apply(self, key: Key, body: Json) -> Json:
        """Return a job with its draft for a status, if the draft continues this version of the job."""
        draft = self._drafts.get(key)
        if draft is None or draft.version != body["metadata"].get("resourceVersion"):
            return body
        return {**body, "status": json.loads(draft.blob)}

    def has(self, key: Key) -> bool:
        """Return whether something of a job is still to be written."""
        return key in self._drafts

    def holds(self, key: Key, written: DPOJobStatus, new: DPOJobStatus, now: datetime) -> bool:
        """Return whether a status may wait, by what has changed since one was written."""
        last = self._written.get(key)
        # After a clock was set back the last write lies in the future.
        return last is not None and 0 <= (now - last).total_seconds() < patience(written, new)

    def hold(self, key: Key, version: str, new: DPOJobStatus) -> None:
        """Keep a status for later."""
        self._drafts[key] = Draft(version, json.dumps(new.to_wire(), separators=(",", ":")).encode())

    def wrote(self, key: Key, now: datetime) -> None:
        """Take note that the status has been written."""
        self._drafts.pop(key, None)
        self._written[key] = now

    def forget(self, key: Key) -> None:
        """Forget a job."""
        self._drafts.pop(key, None)
        self._written.pop(key, None)


def patience(old: DPOJobStatus, new: DPOJobStatus) -> float:
    """Return for how many seconds after a write another status may wait; 0 for news.

    What the chips do is news, and so is what a guard judges, so that a restart of the operator changes neither the ledger
    nor a verdict.
    """
    if activity(old) != activity(new) or without_words(old) != without_words(new):
        return 0.0
    return WORDS_SECONDS if messages(old) != messages(new) else NUMBERS_SECONDS


def activity(status: DPOJobStatus) -> Activity | None:
    """Return what the chips are there for."""
    return status.ledger.activity if status.ledger is not None else None


def messages(status: DPOJobStatus) -> list[str]:
    """Return the words of the conditions."""
    return [condition.message for condition in status.conditions]


def without_words(status: DPOJobStatus) -> DPOJobStatus:
    """Return a status without progress, ledger, the steps of attempts and the words of conditions."""
    attempts = [uncounted(attempt) for attempt in status.attempts]
    conditions = [wordless(condition) for condition in status.conditions]
    update = {"progress": None, "ledger": None, "attempts": attempts, "conditions": conditions}
    return status.model_copy(update=update)


def wordless(condition: Condition) -> Condition:
    """Return a condition without its words."""
    update = {"message": ""} | ({"reason": ""} if condition.reason in ON_THE_WAY else {})
    return condition.model_copy(update=update)


def uncounted(attempt: AttemptStatus) -> AttemptStatus:
    """Return an attempt without its steps."""
    return attempt.model_copy(update=dict.fromkeys(COUNTED))
