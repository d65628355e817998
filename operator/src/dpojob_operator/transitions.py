"""Kubernetes Events for the conditions that a status write has changed: pure."""

from datetime import datetime
from typing import Any

from dpojob_api import constants
from dpojob_api.reasons import ConditionType, OperatorReason
from dpojob_api.status import Condition
from dpojob_operator.words import shortened

MAX_NOTE = 1000
WARNINGS = frozenset(
    {
        ConditionType.FAILED.value,
        ConditionType.STALLED.value,
        ConditionType.DISCOURAGED.value,
        ConditionType.PLAN_DRIFT.value,
    }
)
# What they say is news whatever it is.
TOLD = frozenset({ConditionType.FITS_HBM.value})
# The other one tells the same.
SAME = {
    ConditionType.QUEUED.value: ConditionType.RECONCILING.value,
    ConditionType.STALLED.value: ConditionType.FAILED.value,
}
LOSSES = frozenset(
    {
        OperatorReason.HOST_LOST,
        OperatorReason.HEAD_LOST,
        OperatorReason.ATTEMPT_LOST,
        OperatorReason.BACKING_OFF,
    }
)

DOUBTS = frozenset({OperatorReason.DOES_NOT_FIT_HBM, OperatorReason.PLAN_UNKNOWN})


def transitions(old: list[Condition], new: list[Condition]) -> list[Condition]:
    """Return the conditions that have become True, or are True for another reason than before, and every change of TOLD."""
    active = {condition.type for condition in new if condition.status == "True"}
    before = {condition.type: (condition.status, condition.reason) for condition in old}
    told = [c for c in new if c.type in active | TOLD and SAME.get(c.type) not in active]
    return [c for c in told if before.get(c.type) != (c.status, c.reason)]


def is_warning(condition: Condition) -> bool:
    """Return whether somebody may want to look at a transition."""
    return condition.type in WARNINGS or condition.reason in LOSSES or condition.reason in DOUBTS


def build_event(involved: dict[str, Any], condition: Condition, now: datetime) -> dict[str, Any]:
    """Return the Event of one transition.

    Args:
        involved: the DPOJob as the API server returned it.
        condition: the condition after the transition.
        now: the time, in whole seconds.
    """
    meta = involved["metadata"]
    time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{meta['name']}.", "namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": constants.API_VERSION,
            "kind": constants.KIND,
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta.get("uid", ""),
            "resourceVersion": meta.get("resourceVersion", ""),
        },
        "type": "Warning" if is_warning(condition) else "Normal",
        "reason": condition.reason,
        "message": shortened(condition.message, MAX_NOTE),
        "source": {"component": constants.FIELD_MANAGER},
        "reportingComponent": constants.FIELD_MANAGER,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }
