"""The correlation of reward margin and length difference over the steps that the operator has seen, for ``guards``.

The trainer serves the moments of each step; those of a window of steps follow from them exactly.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from dpojob_api import metrics
from dpojob_api.status import LengthMoments

# A window is judged anew with every step seen, so the usual two would be passed by chance in many a run.
STANDARD_ERRORS = 3.0
SERVED = {
    "difference": metrics.LENGTH_DIFFERENCE,
    "margin": metrics.REWARD_MARGIN,
    "difference_variance": metrics.LENGTH_VARIANCE,
    "margin_variance": metrics.REWARD_MARGIN_VARIANCE,
    "covariance": metrics.LENGTH_COVARIANCE,
}


def moments(values: Mapping[str, float]) -> LengthMoments | None:
    """Return the moments of a step as served, None if one of them is missing."""
    found = {field: values[name] for field, name in SERVED.items() if name in values}
    return LengthMoments(**found) if len(found) == len(SERVED) else None


def pooled(steps: Sequence[LengthMoments]) -> float | None:
    """Return Pearson's correlation over all pairs of steps of equal size, None where nothing varies.

    Variance and covariance of the whole are the means of the parts' and those of the parts' means (the laws of total
    variance and covariance).
    """
    x, y = [s.difference for s in steps], [s.margin for s in steps]
    lengths = fmean(s.difference_variance for s in steps) + between(x, x)
    margins = fmean(s.margin_variance for s in steps) + between(y, y)
    covariance = fmean(s.covariance for s in steps) + between(x, y)
    return covariance / math.sqrt(lengths * margins) if lengths > 0 and margins > 0 else None


def between(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the covariance of two sequences."""
    mean_x, mean_y = fmean(x), fmean(y)
    return fmean((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))


def lower_bound(correlation: float, pairs: int) -> float:
    """Return what the correlation is at least, by Fisher's z-transformation (Fisher 1915)."""
    if pairs <= 3:
        return -1.0
    # The moments are rounded, so a correlation of 1 may come out larger.
    z = math.atanh(max(-0.999999, min(0.999999, correlation)))
    return math.tanh(z - STANDARD_ERRORS / math.sqrt(pairs - 3))
