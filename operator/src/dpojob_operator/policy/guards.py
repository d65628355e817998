"""``spec.guards``: bounds on training itself, judged on the steps that the operator has seen.

A broken bound is written into ``status.guards`` first and acted on in the next reconcile, so that a restarted operator
finds both the numbers and the verdict again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean, median

from dpojob_api import metrics
from dpojob_api.failure_class import FailureClass
from dpojob_api.guards_spec import GuardAction, GuardsSpec
from dpojob_api.reasons import OperatorReason, TrainerReason
from dpojob_api.status import BrokenGuard, DPOJobStatus, GuardSample, GuardsStatus, RollbackStatus
from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator import history
from dpojob_operator.observed import Observed, Scrape
from dpojob_operator.policy import correlation
from dpojob_operator.policy.failure import Failure

# One batch says little; so many give a mean or a median.
WINDOW = 8
# A clipped spike does no harm; a gradient that stays large does.
SPIKES = 3
MAX_SAMPLES = 16


@dataclass(frozen=True)
class Breach:
    """A bound that is not kept."""

    reason: OperatorReason | TrainerReason
    message: str
    action: GuardAction


def next_state(job: DPOJob, observed: Observed, end: Failure | None = None) -> GuardsStatus | None:
    """Return the steps seen and the verdict on them, None while no guard is set and nothing is remembered.

    Args:
        end: why the active attempt has ended or is ending.
    """
    guards, old = job.spec.guards, current(job)
    active = history.active_attempt(job.status)
    if active is None or active.number != observed.attempt:
        return trimmed(old.model_copy(update={"samples": [], "broken": held(old.broken)}))
    if end is not None and is_judged(job, end):
        assert guards.non_finite_loss is not None, "it is judged by this rule"
        told = Breach(TrainerReason.NON_FINITE_LOSS, end.message, guards.non_finite_loss.action)
        return with_verdict(job, old, told, active.number)
    if not guards.is_set:
        return trimmed(old.model_copy(update={"samples": []}))
    if old.broken is not None or observed.scrape is None or observed.scrape.finished:
        return old
    samples = with_sample(old.samples, observed.scrape, job.spec.dpo.beta)
    new = old.model_copy(update={"samples": samples})
    breach = next(breaches(guards, samples, job.spec.training.global_batch_size), None)
    return new if breach is None else with_verdict(job, new, breach, active.number)


def current(job: DPOJob) -> GuardsStatus:
    """Return what is remembered, without a verdict that an edit of the spec has answered."""
    old = job.status.guards or GuardsStatus()
    if old.broken is None or old.broken.observed_generation == job.metadata.generation:
        return old
    undone = old.broken.action is GuardAction.ROLLBACK
    return GuardsStatus(rollback=None if undone else old.rollback)


def held(broken: BrokenGuard | None) -> BrokenGuard | None:
    """Return the verdict that outlives its attempt; a rollback has been done when the attempt is over."""
    return None if broken is None or broken.action is GuardAction.ROLLBACK else broken


def trimmed(state: GuardsStatus) -> GuardsStatus | None:
    """Return the state, None if there is nothing in it."""
    return None if state == GuardsStatus() else state


def with_verdict(job: DPOJob, state: GuardsStatus, breach: Breach, attempt: int) -> GuardsStatus:
    """Return the state with what is to be done about a bound; a second rollback is a failure."""
    action, message, rollback = breach.action, breach.message, state.rollback
    if action is GuardAction.ROLLBACK and rollback is None:
        rollback = RollbackStatus(
            after_attempt=attempt, learning_rate_factor=job.spec.guards.learning_rate_factor
        )
    elif action is GuardAction.ROLLBACK:
        action, message = GuardAction.FAIL, f"{message} The learning rate has been reduced once already."
    verdict = BrokenGuard(
        reason=breach.reason.value,
        message=message,
        action=action,
        observed_generation=job.metadata.generation,
    )
    return state.model_copy(update={"broken": verdict, "rollback": rollback})


def has_judged(old: DPOJobStatus, new: DPOJobStatus) -> bool:
    """Return whether a status has a verdict that the one before had not."""
    before, after = (status.guards.broken if status.guards else None for status in (old, new))
    return after is not None and after != before


def find_broken(job: DPOJob) -> BrokenGuard | None:
    """Return the verdict that is still to be acted on."""
    return current(job).broken


def is_judged(job: DPOJob, end: Failure) -> bool:
    """Return whether a guard has yet to say what follows the trainer's own end."""
    rule, found = job.spec.guards.non_finite_loss, current(job).broken
    if rule is None or end.reason != TrainerReason.NON_FINITE_LOSS or rule.action is GuardAction.FAIL:
        return False
    return found is None


def find_rollback(job: DPOJob) -> Failure | None:
    """Return why the active attempt is to be followed by one with a lower learning rate."""
    state = current(job)
    if state.broken is None or state.broken.action is not GuardAction.ROLLBACK or state.rollback is None:
        return None
    factor = state.rollback.learning_rate_factor
    message = f"{state.broken.message} The next attempt takes {factor:g} of the learning rate."
    return Failure(state.broken.reason, message, FailureClass.APPLICATION)


def with_sample(samples: list[GuardSample], scrape: Scrape, beta: float) -> list[GuardSample]:
    """Return the samples with the step of a scrape, if this attempt has done it and it has not been seen yet."""
    step, values = scrape.progress.step, scrape.values
    if scrape.resumed_step is None or step <= max(scrape.resumed_step, samples[-1].step if samples else 0):
        return samples
    sample = GuardSample(
        step=step,
        reward_accuracy=values.get(metrics.REWARD_ACCURACY),
        chosen_drop=chosen_drop(values.get(metrics.LOGP_CHOSEN), values.get(metrics.REWARD_CHOSEN), beta),
        grad_norm=values.get(metrics.GRAD_NORM),
        lengths=correlation.moments(values),
    )
    return [*samples, sample][-MAX_SAMPLES:]


def chosen_drop(logp: float | None, reward: float | None, beta: float) -> float | None:
    """Return the fall of the chosen log-probability as a share of the reference's on the same batch.

    A reward is beta times the policy's log-probability less the reference's (Rafailov et al. 2023, section 4), and the
    reference is the policy before the first step; so batches of other lengths make no difference.
    """
    if logp is None or reward is None:
        return None
    change = reward / beta
    before = abs(logp - change)
    return float(f"{-change / before:.4g}") if before else None


def breaches(guards: GuardsSpec, samples: list[GuardSample], pairs: int) -> Iterator[Breach]:
    """Yield every bound that the samples, of so many pairs each, do not keep."""
    newest = f"at step {samples[-1].step}" if samples else ""
    yield from low_accuracy(guards, samples, newest)
    yield from fallen_chosen(guards, samples, newest)
    yield from drifted_lengths(guards, samples, pairs, newest)
    yield from large_gradients(guards, samples, newest)


def low_accuracy(guards: GuardsSpec, samples: list[GuardSample], newest: str) -> Iterator[Breach]:
    """Yield the breach of ``rewardAccuracy``."""
    rule = guards.reward_accuracy
    if rule is None:
        return
    seen = [s.reward_accuracy for s in samples if s.step > rule.after_steps and s.reward_accuracy is not None]
    if len(seen) >= WINDOW and (mean := fmean(seen[-WINDOW:])) < rule.minimum:
        message = (
            f"Mean reward accuracy of the newest {WINDOW} steps seen: {mean:.3g}, below "
            f"spec.guards.rewardAccuracy.minimum ({rule.minimum:g}), {newest}."
        )
        yield Breach(OperatorReason.REWARD_ACCURACY_LOW, message, rule.action)


def fallen_chosen(guards: GuardsSpec, samples: list[GuardSample], newest: str) -> Iterator[Breach]:
    """Yield the breach of ``chosenLogProb``."""
    rule = guards.chosen_log_prob
    if rule is None:
        return
    seen = [s.chosen_drop for s in samples if s.step > rule.after_steps and s.chosen_drop is not None]
    if len(seen) >= WINDOW and (drop := median(seen[-WINDOW:])) > rule.max_drop:
        message = (
            f"The chosen completions' log-probability has fallen by {drop:.3g} of what it was under the reference, above "
            f"spec.guards.chosenLogProb.maxDrop ({rule.max_drop:g}), {newest}."
        )
        yield Breach(OperatorReason.CHOSEN_LOG_PROB_COLLAPSED, message, rule.action)


def drifted_lengths(
    guards: GuardsSpec, samples: list[GuardSample], pairs: int, newest: str
) -> Iterator[Breach]:
    """Yield the breach of ``lengthDrift``."""
    rule = guards.length_drift
    if rule is None:
        return
    seen = [s.lengths for s in samples if s.step > rule.after_steps and s.lengths is not None]
    found = correlation.pooled(seen) if len(seen) >= WINDOW else None
    if found is None or (least := correlation.lower_bound(found, pairs * len(seen))) <= rule.max_correlation:
        return
    message = (
        f"Over the {pairs * len(seen)} pairs of the newest {len(seen)} steps seen, the reward margin goes with chosen less "
        f"rejected length at a correlation of {found:.3g}, at least {least:.3g}, above "
        f"spec.guards.lengthDrift.maxCorrelation ({rule.max_correlation:g}), {newest}."
    )
    yield Breach(OperatorReason.LENGTH_DRIFT, message, rule.action)


def large_gradients(guards: GuardsSpec, samples: list[GuardSample], newest: str) -> Iterator[Breach]:
    """Yield the breach of ``gradNorm``."""
    rule = guards.grad_norm
    if rule is None:
        return
    seen = [s.grad_norm for s in samples if s.step > rule.after_steps and s.grad_norm is not None]
    if len(seen) < WINDOW:
        return
    least, usual = min(seen[-SPIKES:]), median(seen[:-SPIKES])
    if least > rule.max_ratio * usual:
        message = (
            f"The gradient norm of the newest {SPIKES} steps seen is at least {least:.3g}, above "
            f"spec.guards.gradNorm.maxRatio ({rule.max_ratio:g}) x the median before ({usual:.3g}), {newest}."
        )
        yield Breach(OperatorReason.GRAD_NORM_SPIKE, message, rule.action)
