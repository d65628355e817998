"""How an attempt ends: the trainer's machine-readable last line, read back from ``RayJob.status.message``.

Ray keeps the exit code and the tail of the driver's log of a failed job; KubeRay copies them into the RayJob.
"""

import json

from pydantic import Field, ValidationError

from dpojob_api.base import ApiModel
from dpojob_api.constants import RESULT_PREFIX
from dpojob_api.reasons import TrainerReason
from dpojob_api.status import PlanVerdict

MAX_TERMINATION_MESSAGE = 4096
"""Bytes of a container's termination message that the kubelet keeps."""


class TrainerResult(ApiModel):
    """Why a trainer stopped."""

    reason: TrainerReason = Field(description="reason is a documented word.")
    message: str = Field(description="message says what happened and how to fix it; no traceback.")
    step: int | None = Field(default=None, description="step is the number of optimizer steps done.")
    pairs: dict[str, int] | None = Field(
        default=None, description="pairs is what became of the pairs, by the kinds of metrics.DATA_KINDS."
    )
    plan: PlanVerdict | None = Field(default=None, description="plan is what a plan has found.")
    recorded: bool | None = Field(
        default=None,
        description="recorded is false if the driver waited in vain for the operator to write a finished run down.",
    )

    def to_line(self) -> str:
        """Return the line for stdout."""
        return RESULT_PREFIX + json.dumps(self.to_wire(), separators=(",", ":"))

    def to_short_line(self, limit: int = MAX_TERMINATION_MESSAGE) -> str:
        """Return the line with a message that is cut until the line fits; it is ASCII, so characters are bytes."""
        line, message = self.to_line(), self.message
        while len(line) > limit and len(message) > 1:
            message = message[: len(message) // 2]
            line = self.model_copy(update={"message": f"{message}…"}).to_line()
        return line


def find_result(log_tail: str) -> TrainerResult | None:
    """Return the last well-formed result line in a log, None if there is none."""
    for line in reversed(log_tail.splitlines()):
        _, found, text = line.partition(RESULT_PREFIX)
        if not found:
            continue
        try:
            return TrainerResult.model_validate_json(text)
        except ValidationError:
            continue
    return None
