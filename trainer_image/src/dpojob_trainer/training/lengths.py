"""How far the policy's preference follows length: moments of reward margin and length difference over a batch's pairs.

DPO is known to exploit length (Park et al. 2024, arXiv:2403.19159), as are reward models (Singhal et al. 2023,
arXiv:2310.03716). Its implicit reward shows that while it trains, without any completion of the policy's own: the
margin of a policy that prefers what is longer grows with the chosen completion's length less the rejected one's. The
correlation leaves out the means, so data whose chosen completions are longer on the average do not raise it.

The step has means over its pairs, which micro-batches of equal size average exactly; the host makes central moments of
them, from which any number of steps can be pooled.
"""

import math

import jax
import jax.numpy as jnp

Numbers = dict[str, float]

MARGIN, MARGIN_SQUARE, MARGIN_VARIANCE = (
    "rewards/margins",
    "rewards/margin_squares",
    "rewards/margin_variance",
)
DIFFERENCE, SQUARE, PRODUCT = "lengths/differences", "lengths/squares", "lengths/products"
VARIANCE, COVARIANCE, CORRELATION = "lengths/variance", "lengths/covariance", "lengths/correlation"
# Means of squares are float32 numbers; a variance that is less of them is rounding.
LEAST_SHARE = 1e-6


def columns(margins: jax.Array, chosen_tokens: jax.Array, rejected_tokens: jax.Array) -> dict[str, jax.Array]:
    """Return what is averaged over the pairs beside the margins, each `[pairs]`; lengths are in tokens."""
    difference = (chosen_tokens - rejected_tokens).astype(jnp.float32)
    return {
        DIFFERENCE: difference,
        SQUARE: difference**2,
        MARGIN_SQUARE: margins**2,
        PRODUCT: difference * margins,
    }


def centred(numbers: Numbers) -> Numbers:
    """Return a batch's means with variances, covariance and correlation for those of squares and products.

    There is no correlation where margins or differences do not vary, as in a batch of one pair.
    """
    told = {name: value for name, value in numbers.items() if name not in (SQUARE, MARGIN_SQUARE, PRODUCT)}
    lengths = spread(numbers[SQUARE], numbers[DIFFERENCE])
    margins = spread(numbers[MARGIN_SQUARE], numbers[MARGIN])
    covariance = numbers[PRODUCT] - numbers[DIFFERENCE] * numbers[MARGIN]
    told |= {VARIANCE: lengths, MARGIN_VARIANCE: margins, COVARIANCE: covariance}
    if lengths > 0 and margins > 0:
        told[CORRELATION] = max(-1.0, min(1.0, covariance / math.sqrt(lengths * margins)))
    return told


def spread(square: float, mean: float) -> float:
    """Return the variance; 0 if it is no more than rounding."""
    variance = square - mean * mean
    return variance if variance > LEAST_SHARE * square else 0.0
