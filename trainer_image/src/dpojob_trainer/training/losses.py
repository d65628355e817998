"""The preference losses: from the log-probabilities of both completions to one loss per pair, as pure JAX functions.

They stand in for EasyDeL 0.3.0's where that cannot be traced (exo_pair), shifts by a batch mean (bco_pair) or turns
the reported log-probabilities into averages (ipo); `tests/parity` compares every one of them with TRL's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid, sigmoid

from dpojob_api.spec import DPOSpec, DType, LossType

# How far a completion's log-probability, in nats, may be off by rounding before the reference counts as another model,
# and the length that a loss which averages over tokens divides it by.
ROUNDING_NATS = {DType.FLOAT32: 0.05, DType.BFLOAT16: 1.0}
ROUNDED_TOKENS = 100
# Losses are float32 numbers; no tolerance below this is meaningful, relative to a loss above 1.
SMALLEST_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Pairs:
    """What a loss is computed from.

    Attributes:
        chosen, rejected: log-probabilities of the completions under the policy, summed over tokens, `[pairs]`.
        ref_chosen, ref_rejected: the same under the reference, `[pairs]`.
        chosen_tokens, rejected_tokens: lengths of the completions in tokens, `[pairs]`.
    """

    chosen: jax.Array
    rejected: jax.Array
    ref_chosen: jax.Array
    ref_rejected: jax.Array
    chosen_tokens: jax.Array
    rejected_tokens: jax.Array

    @property
    def chosen_ratio(self) -> jax.Array:
        """Log-ratio of policy to reference for the chosen completion, `[pairs]`."""
        return self.chosen - self.ref_chosen

    @property
    def rejected_ratio(self) -> jax.Array:
        """Log-ratio of policy to reference for the rejected completion, `[pairs]`."""
        return self.rejected - self.ref_rejected

    @property
    def margin(self) -> jax.Array:
        """Difference of the two log-ratios, `[pairs]`."""
        return self.chosen_ratio - self.rejected_ratio


PairLoss = Callable[[Pairs], jax.Array]
Formula = Callable[[Pairs, float, float], jax.Array]


@dataclass(frozen=True)
class InitialLoss:
    """The loss while the policy still equals the reference, and how far rounding may take it from that."""

    value: float
    tolerance: float

    def matches(self, loss: float) -> bool:
        """Whether a measured first loss is the expected one."""
        return abs(loss - self.value) <= self.tolerance


def pair_loss(dpo: DPOSpec) -> PairLoss:
    """Return the loss that a job asks for."""
    return partial(FORMULAS[dpo.loss_type], beta=dpo.beta, smoothing=dpo.label_smoothing)  # type: ignore[call-arg]


def initial_loss(dpo: DPOSpec, compute: DType) -> InitialLoss:
    """Return what the first loss of a run with a reference must be."""
    loss, nats = pair_loss(dpo), ROUNDING_NATS[compute]
    value = _at_ratios(loss, 0.0, 0.0)
    drift = max(abs(_at_ratios(loss, shift, -shift) - value) for shift in (nats, -nats))
    return InitialLoss(value, max(drift, SMALLEST_TOLERANCE * max(1.0, abs(value))))


def _at_ratios(loss: PairLoss, chosen: float, rejected: float) -> float:
    one, none, tokens = jnp.ones(1), jnp.zeros(1), jnp.full(1, ROUNDED_TOKENS)
    return float(loss(Pairs(chosen * one, rejected * one, none, none, tokens, tokens))[0])


def _smoothed(logits: jax.Array, smoothing: float) -> jax.Array:
    return -(1 - smoothing) * log_sigmoid(logits) - smoothing * log_sigmoid(-logits)


def _sigmoid(pairs: Pairs, beta: float, smoothing: float) -> jax.Array:
    """Rafailov et al. 2023, arXiv:2305.18290, eq. 7; smoothed as in conservative DPO (Mitchell 2023, eq. 3)."""
    return _smoothed(beta * pairs.margin, smoothing)


def _hinge(pairs: Pairs, beta: float, smoothing: float) -> jax.Array:
    """Liu et al. 2023, arXiv:2309.06657, after Zhao et al. 2023, arXiv:2305.10425."""
    return jax.nn.relu(1 - beta * pairs.margin)


def _ipo(pairs: Pairs, beta: float, smoothing: float) -> jax.Array:
    """Azar et al. 2023, arXiv:2310.12036, eq. 17, on log-ratios averaged over the completion's tokens."""
    chosen = pairs.chosen_ratio / jnp.maximum(pairs.chosen_tokens, 1)
    rejected = pairs.rejected_ratio / jnp.maximum(pairs.rejected_tokens, 1)
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def _exo_pair(pairs: Pairs, beta: float, smoothing: float) -> jax.Array:
    """Ji et al. 2024, arXiv:2402.00856, eq. 16; the smoothing must be above 0."""
    logits, epsilon = beta * pairs.margin, jnp.float32(smoothing)
    win = sigmoid(logits) * (log_sigmoid(logits) - jnp.log1p(-epsilon))
    return win + sigmoid(-logits) * (log_sigmoid(-logits) - jnp.log(epsilon))


def _nca_pair(pairs: Pairs, beta: float, smoothing: float) -> jax.Array:
    """Chen et al. 2024, arXiv:2402.05369, for two completions."""
    chosen, rejected = beta * pairs.chosen_ratio, beta * pairs.rejected_ratio
    return -log_sigmoid(chosen) - 0.5 * log_sigmoid(-chosen) - 0.5 * log_sigmoid(-rejected)


def _robust(pairs: Pairs, beta: float, smoothing: float) -> jax.Array:
    """Chowdhury et al. 2024, arXiv:2403.00409: unbiased if a share `smoothing` of the labels is flipped."""
    logits = beta * pairs.margin
    clean, flipped = -log_sigmoid(logits), -log_sigmoid(-logits)
    return ((1 - smoothing) * clean - smoothing * flipped) / (1 - 2 * smoothing)


def _bco_pair(pairs: Pairs, beta: float, smoothing: float) -> jax.Array:
    """Jung et al. 2024, arXiv:2404.04656, without the reward shift, as in TRL."""
    return -log_sigmoid(beta * pairs.chosen_ratio) - log_sigmoid(-beta * pairs.rejected_ratio)


def _sppo_hard(pairs: Pairs, beta: float, smoothing: float) -> jax.Array:
    """Wu et al. 2024, arXiv:2405.00675, eq. 4.7 with win probabilities 1 and 0."""
    return (pairs.chosen_ratio - 0.5 / beta) ** 2 + (pairs.rejected_ratio + 0.5 / beta) ** 2


def _aot(pairs: Pairs, beta: float, smoothing: float) -> jax.Array:
    """Melnyk et al. 2024, arXiv:2406.05882: margins of policy and reference, each sorted over the micro-batch."""
    policy = jnp.sort(pairs.chosen - pairs.rejected)
    reference = jnp.sort(pairs.ref_chosen - pairs.ref_rejected)
    return _smoothed(beta * (policy - reference), smoothing)


def _aot_pair(pairs: Pairs, beta: float, smoothing: float) -> jax.Array:
    """Melnyk et al. 2024, arXiv:2406.05882: log-ratios, each side sorted; TRL 1 calls it aot_unpaired."""
    delta = jnp.sort(pairs.chosen_ratio) - jnp.sort(pairs.rejected_ratio)
    return _smoothed(beta * delta, smoothing)


def _apo_zero(pairs: Pairs, beta: float, smoothing: float) -> jax.Array:
    """D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7."""
    return 1 - sigmoid(beta * pairs.chosen_ratio) + sigmoid(beta * pairs.rejected_ratio)


def _apo_down(pairs: Pairs, beta: float, smoothing: float) -> jax.Array:
    """D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 8."""
    return sigmoid(beta * pairs.chosen_ratio) + 1 - sigmoid(beta * pairs.margin)


FORMULAS: dict[LossType, Formula] = {
    LossType.SIGMOID: _sigmoid,
    LossType.HINGE: _hinge,
    LossType.IPO: _ipo,
    LossType.EXO_PAIR: _exo_pair,
    LossType.NCA_PAIR: _nca_pair,
    LossType.ROBUST: _robust,
    LossType.BCO_PAIR: _bco_pair,
    LossType.SPPO_HARD: _sppo_hard,
    LossType.AOT: _aot,
    LossType.AOT_PAIR: _aot_pair,
    LossType.APO_ZERO: _apo_zero,
    LossType.APO_DOWN: _apo_down,
}
