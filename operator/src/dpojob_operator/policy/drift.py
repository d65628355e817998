"""Whether a run is what was planned: the step itself, and how long one takes."""

from collections.abc import Mapping

from dpojob_api import metrics
from dpojob_api.reasons import OperatorReason
from dpojob_api.status import Condition, PlanStatus

BEGINS = 0.25
# A mean close to the bound would come and go.
STAYS = 0.2


def find_drift(
    plan: PlanStatus | None, values: Mapping[str, float], before: Condition | None
) -> tuple[str, str] | None:
    """Return reason and words of what is not as planned, None if nothing is.

    Args:
        plan: what was planned.
        values: the trainer's metrics.
        before: what was found before; it stays while there is nothing to judge by.
    """
    if values.get(metrics.PLAN_MATCHES) == 0:
        words = (
            "The step that the trainer lowered is not the one that was planned; memory and time may differ."
        )
        return OperatorReason.STEP_DIFFERS, words
    mean, planned = values.get(metrics.MEAN_STEP_SECONDS), plan.step_seconds if plan is not None else None
    if mean is None or not planned:
        return (before.reason, before.message) if before is not None else None
    share = mean / planned - 1
    if abs(share) <= (BEGINS if before is None else STAYS):
        return None
    more = "more" if share > 0 else "less"
    words = f"A step takes {mean:.3g} s on average, {abs(share):.0%} {more} than the {planned:.3g} s planned."
    return OperatorReason.STEP_TIME_DRIFT, words
