"""From the trainer's Prometheus text to progress and final metrics."""

import math

from prometheus_client.parser import text_string_to_metric_families

from dpojob_api import metrics
from dpojob_api.status import FinalMetrics, ProgressStatus
from dpojob_operator.observed import Scrape

SIGNIFICANT_DIGITS = 4


def parse_scrape(text: str) -> Scrape | None:
    """Read a scrape; None if it is not the trainer's or lacks the step.

    Raises:
        ValueError: the text is not in Prometheus' format.
    """
    values: dict[str, float] = {}
    pairs: dict[str, int] = {}
    phase = ""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == metrics.PHASE and sample.value == 1:
                phase = sample.labels.get("phase", "")
            elif sample.name == metrics.DATA_PAIRS:
                pairs[sample.labels.get("kind", "")] = whole(sample.value)
            elif not sample.labels:
                values[sample.name] = sample.value
    if metrics.STEP not in values:
        return None
    return Scrape(
        progress=progress_of(values, phase),
        final=final_of(values),
        finished=values.get(metrics.FINISHED) == 1,
        resumed_step=whole(values[metrics.RESUMED_STEP]) if metrics.RESUMED_STEP in values else None,
        values={name: value for name in values if (value := rounded(values[name])) is not None},
        pairs=pairs if pairs.keys() >= set(metrics.DATA_KINDS) else None,
    )


def progress_of(values: dict[str, float], phase: str) -> ProgressStatus:
    """Build ``status.progress``."""
    step, total = whole(values.get(metrics.STEP)), whole(values.get(metrics.TOTAL_STEPS))
    return ProgressStatus(
        phase=phase or metrics.PHASES[0],
        step=step,
        total_steps=total,
        steps=f"{step}/{total}",
        loss=rounded(values.get(metrics.LOSS)),
        reward_accuracy=rounded(values.get(metrics.REWARD_ACCURACY)),
        reward_margin=rounded(values.get(metrics.REWARD_MARGIN)),
        mfu=rounded(values.get(metrics.MFU)),
        eta=format_eta(values.get(metrics.ETA_SECONDS)),
    )


def final_of(values: dict[str, float]) -> FinalMetrics:
    """Build ``status.finalMetrics``."""
    return FinalMetrics(
        step=whole(values.get(metrics.STEP)),
        loss=rounded(values.get(metrics.LOSS)),
        reward_accuracy=rounded(values.get(metrics.REWARD_ACCURACY)),
        reward_margin=rounded(values.get(metrics.REWARD_MARGIN)),
        eval_loss=rounded(values.get(metrics.EVAL_LOSS)),
        eval_reward_accuracy=rounded(values.get(metrics.EVAL_REWARD_ACCURACY)),
        eval_reward_margin=rounded(values.get(metrics.EVAL_REWARD_MARGIN)),
    )


def whole(value: float | None) -> int:
    """Return a count; 0 for what is missing or not a number."""
    return int(value) if value is not None and math.isfinite(value) else 0


def rounded(value: float | None) -> float | None:
    """Round for display; None for what JSON cannot carry (NaN, infinity)."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def format_eta(seconds: float | None) -> str | None:
    """Return a duration such as ``45s``, ``12m30s`` or ``3h05m``."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return None
    whole_seconds = round(seconds)
    hours, minutes, rest = whole_seconds // 3600, whole_seconds // 60 % 60, whole_seconds % 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
