"""Rules on training itself: what is seen, what is judged, what follows. Pure logic; no cluster."""

import json
from datetime import timedelta

import numpy as np
import pytest
from tests.unit import operator_builders as b

from dpojob_api import metrics
from dpojob_api.guards_spec import GuardAction
from dpojob_api.metrics import GRAD_NORM, LOGP_CHOSEN, REWARD_ACCURACY, REWARD_CHOSEN
from dpojob_api.reasons import OperatorReason
from dpojob_api.result import TrainerResult
from dpojob_api.status import DPOJobStatus, GuardsStatus, RollbackStatus
from dpojob_operator import decide, status, trainer_metrics
from dpojob_operator.desired import configmap
from dpojob_operator.plan import Stage, Stop
from dpojob_operator.policy import correlation, guards

ACCURACY = {"rewardAccuracy": {"afterSteps": 10}}
CHOSEN = {"chosenLogProb": {"afterSteps": 0}}
NORM = {"gradNorm": {"afterSteps": 0}}
LENGTH = {"lengthDrift": {"afterSteps": 0}}


def with_values(step, finished=False, **values):
    return b.replace(b.make_scrape(step, finished, resumed_step=0), values=values)


def seen(spec, numbers, state=None, first=1):
    """Return the job after a run whose steps served these numbers, one reconcile each."""
    job = b.make_job({"guards": spec}, b.running().model_copy(update={"guards": state}))
    for step, values in enumerate(numbers, first):
        new = guards.next_state(job, b.observe(job, scrape=with_values(step, **values)))
        job = b.make_job({"guards": spec}, job.status.model_copy(update={"guards": new}))
    return job


def broken(job):
    return job.status.guards.broken


def plan(job, observed):
    return decide.decide(job, observed, b.SETTINGS, b.NOW)


def edited(job, guards):
    """Return the job after its guards were edited."""
    return b.make_job({"guards": guards}, job.status, generation=4)


LOW = [{REWARD_ACCURACY: 0.4}] * 30
GOOD = [{REWARD_ACCURACY: 0.6}] * 30
# beta is 0.1: a reward of -30 is 300 nats below a reference of -400.
FALLEN = [{LOGP_CHOSEN: -700.0, REWARD_CHOSEN: -30.0}] * 8
LENGTHS = [{LOGP_CHOSEN: -100.0 * n, REWARD_CHOSEN: -1.0} for n in range(1, 17)]
CALM = [{GRAD_NORM: 1.0 + n / 10} for n in range(8)]
LOUD = [{GRAD_NORM: 30.0}]


class TestJudgement:
    def test_low_accuracy(self):
        verdict = broken(seen(ACCURACY, LOW))
        assert (verdict.reason, verdict.action) == ("RewardAccuracyLow", GuardAction.FAIL)
        assert "0.4, below spec.guards.rewardAccuracy.minimum (0.5), at step 18" in verdict.message

    def test_accuracy_of_the_first_steps_does_not_count(self):
        assert broken(seen(ACCURACY, LOW[:17])) is None
        assert broken(seen(ACCURACY, LOW[:10] + GOOD)) is None

    def test_one_bad_batch_is_no_breach(self):
        assert broken(seen(ACCURACY, [*GOOD, {REWARD_ACCURACY: 0.0}, *GOOD])) is None

    def test_fallen_chosen_log_probability(self):
        verdict = broken(seen(CHOSEN, FALLEN))
        assert verdict.reason == "ChosenLogProbCollapsed"
        assert "by 0.75 of what it was under the reference" in verdict.message

    def test_batches_of_other_lengths_are_no_fall(self):
        assert broken(seen(CHOSEN, LENGTHS)) is None

    def test_log_probability_that_rises_is_no_fall(self):
        assert guards.chosen_drop(-100.0, 30.0, 0.1) == pytest.approx(-0.75)

    def test_large_gradients_in_a_row(self):
        verdict = broken(seen(NORM, CALM + LOUD * 3))
        assert verdict.reason == "GradientNormSpike"
        assert (
            "at least 30, above spec.guards.gradNorm.maxRatio (10) x the median before (1.35)"
            in verdict.message
        )

    @pytest.mark.parametrize(
        "numbers", [CALM + LOUD * 2, CALM + LOUD + CALM + LOUD, LOUD * 16], ids=["two", "apart", "always"]
    )
    def test_spikes_that_are_no_breach(self, numbers):
        assert broken(seen(NORM, numbers)) is None

    def test_numbers_that_are_not_served_break_nothing(self):
        everything = ACCURACY | CHOSEN | NORM | LENGTH
        assert broken(seen(everything, [{}] * 30)) is None

    def test_breach_of_a_run_that_has_finished_comes_too_late(self):
        job = seen(ACCURACY, LOW[:17])
        new = guards.next_state(job, b.observe(job, scrape=with_values(18, True, **LOW[0])))
        assert new.broken is None


def batches(slope, bias=0.0, steps=12, pairs=8, noise=1.0):
    """Return margins and length differences `[steps, pairs]`: chosen is longer by `bias` tokens on the average."""
    rng = np.random.default_rng(7)
    differences = np.round(rng.normal(bias, 40, (steps, pairs)))
    # Margins grow while a run goes on; that has nothing to do with length.
    grown = np.linspace(0.5, 1.5, steps)[:, None]
    return grown + slope * differences + noise * rng.normal(size=(steps, pairs)), differences


def as_served(margins, differences):
    """Return what the trainer serves of each step, in the digits in which the operator reads it."""
    for y, x in zip(margins, differences, strict=True):
        numbers = {
            metrics.REWARD_MARGIN: y.mean(),
            metrics.REWARD_MARGIN_VARIANCE: y.var(),
            metrics.LENGTH_DIFFERENCE: x.mean(),
            metrics.LENGTH_VARIANCE: x.var(),
            metrics.LENGTH_COVARIANCE: ((x - x.mean()) * (y - y.mean())).mean(),
        }
        yield {name: trainer_metrics.rounded(float(value)) for name, value in numbers.items()}


class TestLengthDrift:
    def verdict(self, margins, differences, spec=LENGTH):
        return broken(seen(spec, list(as_served(margins, differences))))

    def test_margins_that_follow_length(self):
        verdict = self.verdict(*batches(slope=0.1))
        assert (verdict.reason, verdict.action) == ("LengthDrift", GuardAction.FAIL)
        assert "Over the 64 pairs of the newest 8 steps seen" in verdict.message
        assert "above spec.guards.lengthDrift.maxCorrelation (0.8), at step 8" in verdict.message

    @pytest.mark.parametrize(
        "bias", [0, 200], ids=["chosen as long as rejected", "chosen longer on the average"]
    )
    def test_margins_that_do_not_follow_length(self, bias):
        assert self.verdict(*batches(slope=0.0, bias=bias)) is None

    def test_policy_that_prefers_what_is_shorter_is_no_breach(self):
        assert self.verdict(*batches(slope=-0.1)) is None

    def test_correlation_above_the_bound_by_chance_is_no_breach(self):
        margins, differences = batches(slope=0.045, steps=8)
        assert np.corrcoef(margins.ravel(), differences.ravel())[0, 1] > 0.8
        assert self.verdict(margins, differences) is None

    def test_first_steps_do_not_count(self):
        assert self.verdict(*batches(slope=0.1), {"lengthDrift": {"afterSteps": 5}}) is None

    @pytest.mark.parametrize("pairs", [1, 3, 32])
    def test_steps_are_pooled_exactly(self, pairs):
        margins, differences = batches(slope=0.02, bias=30, pairs=pairs)
        steps = [correlation.moments(served) for served in as_served(margins, differences)]
        whole = np.corrcoef(margins.ravel(), differences.ravel())[0, 1]
        assert correlation.pooled(steps) == pytest.approx(whole, abs=5e-4)

    def test_nothing_that_varies_has_no_correlation(self):
        margins, differences = batches(slope=0.1)
        steps = [correlation.moments(served) for served in as_served(margins, differences * 0)]
        assert correlation.pooled(steps) is None

    def test_bound_is_three_standard_errors_of_fishers_z_below(self):
        assert correlation.lower_bound(0.9, 103) == pytest.approx(np.tanh(np.arctanh(0.9) - 0.3))
        assert correlation.lower_bound(1.0000001, 10**6) > 0.99
        assert correlation.lower_bound(1.0, 3) == -1


class TestMemory:
    def test_nothing_is_kept_while_no_guard_is_set(self):
        job = b.make_job(status=b.running())
        assert guards.next_state(job, b.observe(job, scrape=with_values(3, **LOW[0]))) is None

    def test_step_is_counted_once_however_often_it_is_read(self):
        job = seen(ACCURACY, LOW[:3])
        assert guards.next_state(job, b.observe(job, scrape=with_values(3, **LOW[0]))) == job.status.guards

    def test_numbers_from_before_the_first_step_of_the_attempt_do_not_count(self):
        job = b.make_job({"guards": ACCURACY}, b.running())
        scrape = b.replace(with_values(20, **LOW[0]), resumed_step=20)
        assert guards.next_state(job, b.observe(job, scrape=scrape)).samples == []

    def test_samples_are_bounded(self):
        job = seen(ACCURACY, GOOD * 3)
        assert [s.step for s in job.status.guards.samples] == list(range(75, 91))

    def test_next_attempt_begins_with_none(self):
        job = seen(ACCURACY, GOOD)
        ended = [b.make_attempt(1, "Failed")]
        job = b.make_job({"guards": ACCURACY}, job.status.model_copy(update={"attempts": ended}))
        assert guards.next_state(job, b.nothing(attempt=2)) is None

    def test_metrics_are_read_with_four_digits_and_without_what_is_not_finite(self):
        text = "dpojob_step 3\ndpojob_grad_norm 1.23456\ndpojob_logp_chosen NaN\n"
        assert trainer_metrics.parse_scrape(text).values == {"dpojob_step": 3.0, GRAD_NORM: 1.235}

    def test_status_fits_its_schema(self):
        wire = json.loads(json.dumps(seen(CHOSEN, FALLEN).status.to_wire()))
        assert DPOJobStatus.model_validate(wire).guards.broken.action is GuardAction.FAIL


def action(name):
    return {"rewardAccuracy": {"afterSteps": 10, "action": name}}


class TestFail:
    def test_run_is_stopped_so_that_it_saves_and_the_job_fails(self):
        job = seen(ACCURACY, LOW)
        made = plan(job, b.observe(job, ray_job=b.make_ray_job(uid="u1")))
        assert (made.stage, made.reason, made.actions) == (
            Stage.STOPPING,
            OperatorReason.REWARD_ACCURACY_LOW,
            (Stop("j-a1", "u1"),),
        )
        gone = b.make_ray_job("Suspended", suspended=True, stop_time=b.NOW)
        made = plan(job, b.observe(job, ray_job=gone, pods=(), ray_clusters=(), scrape=None))
        assert (made.stage, made.reason) == (Stage.FAILED, "RewardAccuracyLow")

    def test_edit_before_the_end_changes_its_mind(self):
        job = edited(seen(ACCURACY, LOW), {})
        gone = b.make_ray_job("Suspended", suspended=True, stop_time=b.NOW)
        assert (
            plan(job, b.observe(job, ray_job=gone, pods=(), ray_clusters=(), scrape=None)).stage
            is Stage.STOPPED
        )


class TestSuspend:
    def stopped(self):
        job = seen(action("Suspend"), LOW)
        gone = b.make_ray_job("Suspended", suspended=True, stop_time=b.NOW)
        observed = b.observe(job, ray_job=gone, pods=(), ray_clusters=(), scrape=None)
        made = plan(job, observed)
        assert made.stage is Stage.STOPPED
        return b.make_job({"guards": action("Suspend")}, status.next_status(job, made, observed, b.NOW))

    def test_job_is_held_with_the_guards_words(self):
        job = self.stopped()
        for _ in range(3):
            made = plan(job, b.nothing(attempt=2))
            assert (made.stage, made.reason) == (Stage.SUSPENDED, "RewardAccuracyLow")
            assert "Edit spec.guards" in made.message
            new = status.next_status(job, made, b.nothing(attempt=2), b.NOW)
            job = b.make_job({"guards": action("Suspend")}, new)
        assert {c.type for c in job.status.conditions if c.status == "True"} == {"Suspended"}
        assert "0.4, below" in job.status.attempts[0].message

    def test_edit_of_the_spec_lets_it_go_on(self):
        made = plan(edited(self.stopped(), {}), b.nothing(attempt=2))
        assert (made.stage, made.attempt) == (Stage.CREATED, 2)


class TestRollback:
    SPEC = action("RollbackAndReduceLR") | {"learningRateFactor": 0.25}

    def rates(self, job, attempt):
        training = json.loads(configmap.config_text(job, attempt))["training"]
        return training["learningRate"], training["learningRateEnd"]

    def back(self):
        """Return the job after its first attempt has been rolled back."""
        job = seen(self.SPEC, LOW)
        made = plan(job, b.observe(job))
        new = status.next_status(job, made, b.observe(job), b.NOW)
        return made, b.make_job({"guards": self.SPEC}, new)

    def test_attempt_ends_without_saving_and_another_one_follows(self):
        made, job = self.back()
        assert (made.stage, made.actions) == (Stage.RETRYING, ())
        (attempt,) = job.status.attempts
        assert (attempt.outcome, attempt.reason) == ("Failed", "RewardAccuracyLow")
        assert "takes 0.25 of the learning rate" in attempt.message

    def test_learning_rate_of_later_attempts_only_is_lower(self):
        before = self.rates(b.make_job(), 1)
        _, job = self.back()
        assert self.rates(job, 1) == before
        assert self.rates(job, 2) == pytest.approx([rate / 4 for rate in before])
        later = b.make_job(
            {"guards": self.SPEC},
            job.status.model_copy(update={"guards": guards.next_state(job, b.nothing(attempt=2))}),
        )
        assert self.rates(later, 3) == self.rates(job, 2)

    def test_verdict_is_over_with_its_attempt(self):
        _, job = self.back()
        assert guards.next_state(job, b.nothing(attempt=2)).broken is None

    def test_second_breach_is_a_failure(self):
        _, job = self.back()
        state = guards.next_state(job, b.nothing(attempt=2))
        again = broken(seen(self.SPEC, LOW, state))
        assert again.action is GuardAction.FAIL
        assert again.message.endswith("The learning rate has been reduced once already.")

    def test_edit_before_it_is_acted_on_undoes_it(self):
        job = edited(seen(self.SPEC, LOW), {})
        assert plan(job, b.observe(job)).stage is Stage.RUNNING
        assert guards.next_state(job, b.observe(job)) is None


class TestNonFiniteLoss:
    """The trainer has ended the attempt; its words are in the RayJob."""

    def ended(self, spec, state=None):
        """Return plans and job of the reconciles after the end, until nothing is asked for at once."""
        line = TrainerResult(reason="NonFiniteLoss", message="loss is NaN at step 13.", step=12).to_line()
        job = b.make_job(
            {"guards": spec}, b.running(from_step=0, to_step=12).model_copy(update={"guards": state})
        )
        failed = b.make_ray_job("Failed", "FAILED", reason="AppFailed", message=line)
        made = []
        while not made or (made[-1].requeue_after == 0 and job.status.attempts[0].outcome == "Active"):
            observed = b.observe(job, ray_job=failed, scrape=None)
            made.append(plan(job, observed))
            job = b.make_job({"guards": spec}, status.next_status(job, made[-1], observed, b.NOW))
        return made, job

    @pytest.mark.parametrize("spec", [{}, {"nonFiniteLoss": {}}], ids=["off", "fail"])
    def test_it_is_final(self, spec):
        made, job = self.ended(spec)
        assert [(p.stage, p.reason) for p in made] == [(Stage.FAILED, "NonFiniteLoss")]
        assert job.status.guards is None

    def test_rollback(self):
        made, job = self.ended({"nonFiniteLoss": {"action": "RollbackAndReduceLR"}})
        assert [p.stage for p in made] == [Stage.ENDING, Stage.RETRYING]
        assert job.status.guards.rollback.after_attempt == 1
        assert (
            "loss is NaN at step 13. The next attempt takes 0.5 of the learning rate"
            in job.status.attempts[0].message
        )

    def test_second_time_is_final(self):
        state = GuardsStatus(rollback=RollbackStatus(after_attempt=1, learning_rate_factor=0.5))
        made, _ = self.ended({"nonFiniteLoss": {"action": "RollbackAndReduceLR"}}, state)
        assert [p.stage for p in made] == [Stage.ENDING, Stage.FAILED]

    def test_suspension_holds_the_job_with_the_trainers_words(self):
        spec = {"nonFiniteLoss": {"action": "Suspend"}}
        made, job = self.ended(spec)
        assert [p.stage for p in made] == [Stage.ENDING, Stage.STOPPED]
        assert job.status.retries is None
        held = plan(job, b.nothing(attempt=2))
        assert (held.stage, held.reason) == (Stage.SUSPENDED, "NonFiniteLoss")
        assert held.message.startswith("loss is NaN at step 13. Edit spec.guards")
        lower = b.make_job({"guards": {}}, job.status, generation=4)
        later = b.NOW + timedelta(minutes=1)
        assert decide.decide(lower, b.nothing(attempt=2), b.SETTINGS, later).stage is Stage.CREATED
