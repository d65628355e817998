"""The losses as pure functions: their values where policy and reference agree, their symmetries, and batch order."""

import math
import os
import sys
from dataclasses import replace

if "jax" not in sys.modules:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpojob_api.spec import SMOOTHED_LOSSES, DPOSpec, DType, LossType
from dpojob_trainer.training.losses import Pairs, initial_loss, pair_loss

pytestmark = pytest.mark.jax
LN2 = math.log(2)
BETA, EPSILON = 0.1, 0.05
# Closed forms of each loss at log-ratios of 0.
AT_START = {
    LossType.SIGMOID: LN2,
    LossType.HINGE: 1.0,
    LossType.IPO: 1 / (4 * BETA**2),
    LossType.EXO_PAIR: -LN2 - 0.5 * math.log(EPSILON * (1 - EPSILON)),
    LossType.NCA_PAIR: 2 * LN2,
    LossType.ROBUST: LN2,
    LossType.BCO_PAIR: 2 * LN2,
    LossType.SPPO_HARD: 1 / (2 * BETA**2),
    LossType.AOT: LN2,
    LossType.AOT_PAIR: LN2,
    LossType.APO_ZERO: 1.0,
    LossType.APO_DOWN: 1.0,
}


def dpo(loss: LossType) -> DPOSpec:
    """The spec of a loss, smoothed if it can be."""
    return DPOSpec(beta=BETA, loss_type=loss, label_smoothing=EPSILON if loss in SMOOTHED_LOSSES else 0.0)


def pairs(seed: int = 0, count: int = 6) -> Pairs:
    """Random log-probabilities of completions of 3 to 40 tokens."""
    generator = np.random.default_rng(seed)
    scores = [jnp.asarray(generator.normal(-60.0, 10.0, count), jnp.float32) for _ in range(4)]
    return Pairs(*scores, *(jnp.asarray(generator.integers(3, 40, count)) for _ in range(2)))


def swapped(some: Pairs) -> Pairs:
    """The same pairs with chosen and rejected exchanged."""
    return Pairs(
        some.rejected,
        some.chosen,
        some.ref_rejected,
        some.ref_chosen,
        some.rejected_tokens,
        some.chosen_tokens,
    )


@pytest.mark.parametrize("compute", list(DType))
@pytest.mark.parametrize("loss", list(LossType))
def test_the_first_loss_has_a_closed_form(loss: LossType, compute: DType) -> None:
    found = initial_loss(dpo(loss), compute)
    assert found.value == pytest.approx(AT_START[loss], rel=1e-6)
    assert found.matches(AT_START[loss])
    assert found.tolerance > 0


@pytest.mark.parametrize("loss", list(LossType))
def test_another_reference_is_beyond_the_tolerance(loss: LossType) -> None:
    """The policy is 3 nats above the other model on chosen completions and 1 below on rejected ones."""
    some = pairs()
    other = replace(some, ref_chosen=some.chosen - 3, ref_rejected=some.rejected + 1)
    found = initial_loss(dpo(loss), DType.FLOAT32)
    assert not found.matches(float(pair_loss(dpo(loss))(other).mean()))


@pytest.mark.parametrize("loss", list(LossType))
def test_a_loss_compiles_and_has_finite_gradients(loss: LossType) -> None:
    """EasyDeL 0.3.0's exo_pair does not compile."""

    def mean(chosen: jax.Array) -> jax.Array:
        return pair_loss(dpo(loss))(replace(pairs(), chosen=chosen)).mean()

    gradient = jax.jit(jax.grad(mean))(pairs().chosen)
    assert bool(jnp.isfinite(gradient).all())
    assert float(jnp.abs(gradient).max()) > 0


def test_swapping_the_sides_mirrors_the_margin() -> None:
    some = pairs()
    np.testing.assert_allclose(swapped(some).margin, -some.margin, rtol=1e-6)


def test_swapped_sigmoid_losses_differ_by_the_margin() -> None:
    """-log s(m) + log s(-m) = -m, so the two losses differ by beta times the margin."""
    spec, some = DPOSpec(beta=BETA), pairs()
    difference = pair_loss(spec)(some) - pair_loss(spec)(swapped(some))
    np.testing.assert_allclose(difference, -BETA * some.margin, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", list(LossType))
def test_the_order_of_the_pairs_does_not_matter(loss: LossType) -> None:
    some = pairs()
    order = np.random.default_rng(1).permutation(6)
    moved = Pairs(*(column[order] for column in vars(some).values()))
    one, two = (pair_loss(dpo(loss))(each).mean() for each in (some, moved))
    assert float(one) == pytest.approx(float(two), rel=1e-5)


def test_ipo_averages_over_the_tokens() -> None:
    """Azar et al. 2023, eq. 17: (0.2 / 2 - (-0.3) / 3 - 1 / (2 * 0.5)) ** 2."""
    columns = (jnp.asarray([value]) for value in (-1.8, -3.3, -2.0, -3.0))
    some = Pairs(*columns, jnp.asarray([2]), jnp.asarray([3]))
    loss = pair_loss(DPOSpec(beta=0.5, loss_type=LossType.IPO))(some)
    assert float(loss[0]) == pytest.approx((0.1 + 0.1 - 1.0) ** 2, rel=1e-5)
