"""Central moments of margins and length differences, from a batch's means. What a run tells is in test_training."""

import numpy as np
import pytest

from dpojob_trainer.training import lengths

pytestmark = pytest.mark.jax


def means(margins: list[float], chosen: list[int], rejected: list[int]) -> dict[str, float]:
    """Return the means that the step would have."""
    columns = lengths.columns(np.float32(margins), np.int32(chosen), np.int32(rejected))
    return {name: float(column.mean()) for name, column in columns.items()} | {
        lengths.MARGIN: float(np.mean(margins)),
        "loss": 0.5,
    }


def test_moments_of_a_batch() -> None:
    told = lengths.centred(means([1, 3, 2, 2], [10, 30, 20, 25], [5, 5, 10, 10]))
    assert told == pytest.approx({
        "loss": 0.5, lengths.MARGIN: 2, lengths.DIFFERENCE: 13.75, lengths.VARIANCE: 54.6875,
        lengths.MARGIN_VARIANCE: 0.5, lengths.COVARIANCE: 5, lengths.CORRELATION: 5 / (54.6875 * 0.5) ** 0.5,
    })  # fmt: skip


@pytest.mark.parametrize("margins", [[7.1, 7.1, 7.1], [7.1]], ids=["equal margins", "one pair"])
def test_nothing_that_varies_has_no_correlation(margins: list[float]) -> None:
    told = lengths.centred(means(margins, [10, 30, 20][: len(margins)], [5] * len(margins)))
    assert told[lengths.MARGIN_VARIANCE] == 0
    assert lengths.CORRELATION not in told
