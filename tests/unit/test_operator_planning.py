"""The job is planned before a slice is asked for: the Job, its verdict, what follows. The stand-in's Job controller and pods
are this file's own words; the real ones are in tests/integration and tests/e2e.
"""

from datetime import timedelta

import httpx
import pytest
from tests.unit import operator_builders as b
from tests.unit.before_attempt import started
from tests.unit.stand_in import KEY, StandIn

from dpojob_api import metrics
from dpojob_api.lifecycle_spec import PlanSpec
from dpojob_api.reasons import OperatorReason
from dpojob_api.result import MAX_TERMINATION_MESSAGE, TrainerResult, find_result
from dpojob_api.status import DPOJobStatus, PlanVerdict
from dpojob_api.trainer_config import trainer_config
from dpojob_operator import decide, kube, parse, planning, status, transitions
from dpojob_operator.desired import pods
from dpojob_operator.desired.planning import START_SECONDS, build_plan
from dpojob_operator.errors import ForbiddenError
from dpojob_operator.observe import Observer
from dpojob_operator.plan import Apply, Delete, Estimate, Kind, Stage
from dpojob_operator.policy import drift
from dpojob_operator.reconcile import Reconciler

IMAGE = "example.test/trainer:1"
WARN, REQUIRE = ({"plan": {"enforce": word}} for word in ("Warn", "Require"))
NUMBERS = {"step_seconds": 2.0, "hours": 1.0, "chip_hours": 8.0, "peak_bytes": 20, "usable_bytes": 30}
FIX = "spec.gradientCheckpointing: nothing_saveable"
FITS = TrainerResult(
    reason="Succeeded", message="The job fits.", plan=PlanVerdict(fits=True, fingerprint="f", **NUMBERS)
)
DOES_NOT = TrainerResult(
    reason="Succeeded",
    message=f"The job does not fit. Smallest change tried that fits: {FIX}.",
    plan=PlanVerdict(fits=False, peak_bytes=40, usable_bytes=30, fix=FIX),
)
BROKEN = TrainerResult(reason="Internal", message="RuntimeError: the compiler has a bug")


def stamp(ago):
    return (b.NOW - timedelta(seconds=ago)).strftime("%Y-%m-%dT%H:%M:%SZ")


def job_body(*conditions, owner=b.UID, ago=30, uid="p1"):
    meta = {"name": "j-plan", "uid": uid, "creationTimestamp": stamp(ago)}
    owners = [{"uid": owner, "controller": True}]
    return {"metadata": meta | {"ownerReferences": owners}, "status": {"conditions": list(conditions)}}


def condition(kind, ago=0, **fields):
    return {"type": kind, "status": "True", "lastTransitionTime": stamp(ago), **fields}


def pod_body(message=None, code=0, reason="Completed", job="p1", phase="Running"):
    ended = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    return {
        "metadata": {
            "name": "j-plan-x1",
            "creationTimestamp": stamp(20),
            "labels": {"dpojob.io/plan": "j"},
            "ownerReferences": [{"uid": job, "controller": True}],
        },
        "status": {
            "phase": phase,
            "containerStatuses": [{"name": "plan", "state": ended if message is not None else {}}],
        },
    }


COMPLETE = condition("Complete", reason="CompletionsReached")
FAILED = condition("Failed", reason="BackoffLimitExceeded", message="Job has reached its limit")


def seen(*conditions, result=None, ago=30, **pod):
    """Return what is observed once the Job has these conditions and its pod has ended with a result."""
    message = result.to_line() if result else pod.pop("message", None)
    return b.nothing(planner=parse.check(job_body(*conditions, ago=ago), [pod_body(message, **pod)]))


def make_plan(observed, spec=None, now=b.NOW, known=None):
    return decide.decide(b.make_job(spec or WARN, known), observed, b.SETTINGS, now)


def recorded(observed, spec=WARN, known=None):
    """Return the status after a look."""
    job = b.make_job(spec, known)
    return status.next_status(job, decide.decide(job, observed, b.SETTINGS, b.NOW), observed, b.NOW)


def fits_hbm(new):
    return next((c for c in new.conditions if c.type == "FitsHBM"), None)


class TestJob:
    def test_it_runs_the_trainers_plan_once_and_ends_in_time(self):
        made = build_plan(b.make_job({"plan": {"enforce": "Warn", "timeoutSeconds": 300}}), 1, IMAGE)
        (container,) = made["spec"]["template"]["spec"]["containers"]
        assert container["command"][:4] == ["python", "-m", "dpojob_trainer", "plan"]
        assert container["command"][-2:] == ["--seconds", "300"]
        assert container["terminationMessagePath"] in container["command"]
        assert (made["spec"]["backoffLimit"], made["spec"]["activeDeadlineSeconds"]) == (
            0,
            300 + START_SECONDS,
        )
        assert (made["metadata"]["name"], made["metadata"]["ownerReferences"][0]["uid"]) == ("j-plan", b.UID)

    def test_pod_has_what_the_head_has_and_is_restricted(self):
        spec = {
            "model": {"uri": "pvc://models/m"},
            "credentials": {"huggingFace": {"name": "hf", "key": "token"}},
            "runtime": {"serviceAccountName": "trainer", "head": {"nodeSelector": {"pool": "cpu"}}},
        }
        job = b.make_job(b.deep_merge(WARN, spec))
        head = pods.build_head(job, 1, IMAGE)["spec"]
        made = build_plan(job, 1, IMAGE)["spec"]["template"]
        for field in ("volumes", "serviceAccountName", "nodeSelector", "securityContext"):
            assert made["spec"][field] == head[field]
        for field in ("env", "volumeMounts", "securityContext", "resources", "image"):
            assert made["spec"]["containers"][0][field] == head["containers"][0][field]
        assert made["spec"]["restartPolicy"] == "Never"
        assert made["metadata"]["labels"] == {"dpojob.io/plan": "j"}
        assert "google.com/tpu" not in str(made)


class TestVerdict:
    @pytest.mark.parametrize("spec", [WARN, REQUIRE], ids=["Warn", "Require"])
    def test_job_comes_before_the_rayjob_and_is_waited_for(self, spec):
        made = make_plan(b.nothing(), spec)
        assert (made.stage, made.reason) == (Stage.PLANNING, OperatorReason.PLANNING)
        assert made.actions == (Apply(1), Estimate(1, IMAGE))
        waiting = make_plan(seen(), spec)
        assert (waiting.stage, waiting.actions) == (Stage.PLANNING, ())
        assert "no chip is held" in waiting.message

    def test_warn_is_the_default_and_off_makes_no_plan(self):
        assert PlanSpec().enforce == "Warn"
        assert make_plan(b.nothing(), {"plan": {"enforce": "Off"}}).stage is Stage.CREATED

    def test_data_is_examined_first(self):
        spec = WARN | {"dataset": {"gate": {"preflight": True}}}
        assert make_plan(b.nothing(), spec).stage is Stage.CHECKING

    @pytest.mark.parametrize("spec", [WARN, REQUIRE], ids=["Warn", "Require"])
    def test_what_fits_is_written_down_and_then_the_attempt_is_made(self, spec):
        observed = seen(COMPLETE, result=FITS)
        assert make_plan(observed, spec).requeue_after == 0
        new = recorded(observed, spec)
        assert (fits_hbm(new).status, fits_hbm(new).reason) == ("True", "PlanFits")
        assert (new.plan.step_seconds, new.plan.chip_hours, new.plan.peak_bytes) == (2.0, 8.0, 20)
        assert new.plan.chips == 8
        assert new.attempts == []
        assert make_plan(b.nothing(), spec, known=new).stage is Stage.CREATED

    def test_what_does_not_fit_starts_under_warn(self):
        new = recorded(seen(COMPLETE, result=DOES_NOT))
        assert (fits_hbm(new).status, fits_hbm(new).reason) == ("False", "DoesNotFitHBM")
        assert new.plan.fix == FIX
        assert make_plan(b.nothing(), WARN, known=new).stage is Stage.CREATED

    def test_what_does_not_fit_is_held_under_require_with_the_fix_until_that_is_edited(self):
        new = recorded(seen(COMPLETE, result=DOES_NOT), REQUIRE)
        held = make_plan(b.nothing(), REQUIRE, known=new)
        assert (held.stage, held.reason, held.actions) == (Stage.STALLED, "DoesNotFitHBM", ())
        assert FIX in held.message
        assert "spec.plan.enforce to Warn" in held.message
        again = recorded(b.nothing(), REQUIRE, new)
        assert fits_hbm(again) == fits_hbm(new)
        assert make_plan(b.nothing(), WARN, known=again).stage is Stage.CREATED
        assert make_plan(b.nothing(), {"plan": {"enforce": "Off"}}, known=again).stage is Stage.CREATED

    @pytest.mark.parametrize(
        ("observed", "words"),
        [
            (seen(FAILED, result=BROKEN, code=1), "the compiler has a bug"),
            (seen(FAILED, message="", code=137, reason="OOMKilled"), "raise runtime.head.resources memory"),
            (seen(condition("Failed", reason="DeadlineExceeded")), "DeadlineExceeded"),
            (seen(ago=600 + START_SECONDS + planning.GRACE_SECONDS + 1), "has not ended within 720 s"),
            (b.nothing(planner=parse.check(job_body(COMPLETE, owner="other"), [])), "delete it"),
        ],
        ids=["crash", "out of memory", "deadline", "no controller", "somebody else's"],
    )
    def test_what_came_to_nothing_blocks_nobody_under_warn_and_holds_under_require(self, observed, words):
        new = recorded(observed)
        assert (fits_hbm(new).status, fits_hbm(new).reason) == ("Unknown", "PlanUnknown")
        assert words in fits_hbm(new).message
        assert make_plan(b.nothing(), WARN, known=new).stage is Stage.CREATED
        held = make_plan(observed, REQUIRE)
        assert (held.stage, held.reason) == (Stage.STALLED, "PlanUnknown")
        assert words in held.message
        assert "Set spec.plan.enforce to Warn" in held.message

    def test_under_require_what_came_to_nothing_is_tried_again(self):
        observed = seen(FAILED, result=BROKEN, code=1)
        later = make_plan(observed, REQUIRE, b.NOW + planning.AGAIN)
        assert later.actions == (Delete(Kind.PLAN, "j-plan", "p1"),)
        new = recorded(observed, REQUIRE)
        assert planning.is_due(b.make_job(REQUIRE, new))
        assert make_plan(b.nothing(), REQUIRE, known=new).actions == (Apply(1), Estimate(1, IMAGE))

    def test_pod_that_does_not_start_delays_nobody_under_warn(self):
        pending = seen(phase="Pending", ago=START_SECONDS + 1)
        assert fits_hbm(recorded(pending)).reason == "PlanUnknown"
        assert make_plan(pending, REQUIRE).stage is Stage.PLANNING

    def test_job_that_has_had_an_attempt_is_not_planned(self):
        for spec in (WARN, REQUIRE):
            known = DPOJobStatus(attempts=[b.make_attempt(1, "Stopped")])
            assert not planning.is_due(b.make_job(spec, known))
            observed = b.nothing(attempt=2)
            assert make_plan(observed, spec, known=known).stage is not Stage.PLANNING

    def test_doubts_are_events(self):
        for result, reason in ((DOES_NOT, "DoesNotFitHBM"), (FITS, "PlanFits")):
            new = recorded(seen(COMPLETE, result=result)).conditions
            told = [c for c in transitions.transitions([], new) if c.type == "FitsHBM"]
            assert [c.reason for c in told] == [reason]
            assert transitions.is_warning(told[0]) is (result is DOES_NOT)
            assert transitions.transitions(new, new) == []


def test_result_with_a_plan_fits_into_a_termination_message():
    result = DOES_NOT.model_copy(update={"message": "x" * 9000})
    line = result.to_short_line()
    assert len(line.encode()) <= MAX_TERMINATION_MESSAGE
    assert find_result(line).plan == DOES_NOT.plan


class TestAttempt:
    """What the attempt's configuration says of the plan."""

    def test_fingerprint_and_numbers_reach_the_trainer(self):
        job = b.make_job(WARN, recorded(seen(COMPLETE, result=FITS)))
        assert trainer_config(job, 1).plan.fingerprint == "f"
        assert trainer_config(job, 1).plan.step_seconds == 2.0
        assert trainer_config(b.make_job(), 1).plan.fingerprint is None

    def test_step_at_another_learning_rate_is_another_step(self):
        rolled = {"rollback": {"afterAttempt": 1, "learningRateFactor": 0.5}}
        known = recorded(seen(COMPLETE, result=FITS)).to_wire() | {"guards": rolled}
        job = b.make_job(WARN, DPOJobStatus.model_validate(known))
        assert (trainer_config(job, 1).plan.fingerprint, trainer_config(job, 2).plan.fingerprint) == (
            "f",
            None,
        )


class TestDrift:
    PLAN = recorded(seen(COMPLETE, result=FITS)).plan

    def drift(self, mean=None, matches=None, before=None, plan=PLAN):
        values = {metrics.MEAN_STEP_SECONDS: mean, metrics.PLAN_MATCHES: matches}
        return drift.find_drift(plan, {k: v for k, v in values.items() if v is not None}, before)

    @pytest.mark.parametrize(("mean", "more"), [(2.6, "30% more"), (1.4, "30% less")])
    def test_steps_of_another_duration(self, mean, more):
        reason, words = self.drift(mean)
        assert reason == "StepTimeDrift"
        assert more in words
        assert "2 s planned" in words

    def test_what_is_close_is_none_and_a_warning_stays_a_little_longer(self):
        assert self.drift(2.45) is None
        before = b.make_condition("PlanDrift", reason="StepTimeDrift")
        assert self.drift(2.45, before=before)[0] == "StepTimeDrift"
        assert self.drift(2.35, before=before) is None

    def test_what_is_known_stays_while_there_is_nothing_to_judge_by(self):
        before = b.make_condition("PlanDrift", reason="StepTimeDrift")
        assert self.drift(before=before) == ("StepTimeDrift", "m")

    def test_without_seconds_in_the_plan_there_is_no_drift(self):
        assert self.drift(9.0, plan=self.PLAN.model_copy(update={"step_seconds": None})) is None
        assert self.drift(9.0, plan=None) is None

    def test_another_step(self):
        assert self.drift(matches=0.0)[0] == "StepDiffers"
        assert self.drift(matches=1.0) is None

    def test_it_is_told_once(self):
        job = b.make_job(WARN, b.running().model_copy(update={"plan": self.PLAN}))
        scrape = b.make_scrape()
        scrape.values[metrics.MEAN_STEP_SECONDS] = 3.0
        observed = b.observe(job, scrape=scrape)
        new = status.next_status(job, decide.decide(job, observed, b.SETTINGS, b.NOW), observed, b.NOW)
        told = [
            c for c in transitions.transitions(job.status.conditions, new.conditions) if c.type == "PlanDrift"
        ]
        assert [(c.reason, transitions.is_warning(c)) for c in told] == [("StepTimeDrift", True)]
        assert transitions.transitions(new.conditions, new.conditions) == []
        assert new.plan.step_seconds == 2.0


async def planned(kill_at=None):
    """Live a job up to its RayJob with the operator killed at one point of its calls, and return the cluster."""
    return await started(REQUIRE, "j-plan", COMPLETE, lambda uid: pod_body(FITS.to_line(), job=uid), kill_at)


async def test_reconciler_makes_the_job_reads_its_pod_and_only_then_the_rayjob():
    world = await planned()
    assert world.created == ["j-plan", "j-a1"]
    assert world.events[:2] == ["Planning", "PlanFits"]
    config = world.objects[kube.CONFIGMAPS, "j-a1"]["data"]["trainer.json"]
    assert '"fingerprint": "f"' in config


@pytest.mark.parametrize(
    ("spec", "created", "summary"),
    [(WARN, ["j-a1"], "Starting"), (REQUIRE, [], "Stalled")],
    ids=["Warn", "Require"],
)
async def test_job_that_may_not_be_made_blocks_nobody_under_warn(spec, created, summary):
    class Refusing(StandIn):
        async def create(self, resource, body):
            if resource is kube.JOBS:
                raise ForbiddenError("exceeded quota: count/jobs.batch")
            return await super().create(resource, body)

    world = Refusing({}, spec)
    async with httpx.AsyncClient(transport=httpx.MockTransport(world.metrics)) as http:
        for _ in range(4):
            reconciler = Reconciler(world, Observer(world, http), b.SETTINGS, lambda: world.now)
            await reconciler.reconcile(KEY)
    assert (world.created, world.job["status"]["summary"]) == (created, summary)
    known = next(c for c in world.job["status"]["conditions"] if c["type"] == "FitsHBM")
    assert (known["status"], known["reason"]) == ("Unknown", "PlanUnknown")
    assert "count/jobs.batch" in known["message"]


async def test_killed_at_any_call_it_makes_each_once():
    points = (await planned()).calls
    for point in range(1, points + 1):
        world = await planned(point)
        assert world.created == ["j-plan", "j-a1"], f"killed at point {point}"
        assert world.job["status"]["plan"]["fingerprint"] == "f"
