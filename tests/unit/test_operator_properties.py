"""Properties of `decide` in any world that could be observed, and of the operator in any order of events (hypothesis).

API server, KubeRay and trainer are the stand-in of ``stand_in``; the real ones are in tests/integration and tests/e2e.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta
from random import Random

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit import operator_builders as b
from tests.unit.stand_in import KEY, Killed, StandIn

from dpojob_api import metrics
from dpojob_api.guards_spec import GuardAction
from dpojob_api.ledger import Activity
from dpojob_api.result import TrainerResult
from dpojob_api.status import BrokenGuard, DPOJobStatus, FinalMetrics, GuardsStatus, RollbackStatus
from dpojob_operator import decide, history, kube, status
from dpojob_operator.errors import TransientError
from dpojob_operator.observe import Observer
from dpojob_operator.observed import CheckView, Observed, RayClusterView, WorkloadView
from dpojob_operator.plan import FINAL, Create, Plan, Stage
from dpojob_operator.reconcile import Reconciler

# The same examples in every run, and no timing: a slow machine must not fail them.
RULES = {"derandomize": True, "deadline": None, "suppress_health_check": list(HealthCheck)}
IN_ANY_WORLD = settings(max_examples=400, **RULES)
IN_ANY_ORDER = settings(max_examples=20, stateful_step_count=20, **RULES)


def random_status(rng):
    """Return a status as an operator could have left it."""
    kinds = ["Preempted", "Infrastructure", "Capacity", "Application", None]
    attempts = []
    for number in range(1, rng.randint(1, 5)):
        fields = {"class": rng.choice(kinds), "reason": "HostLost", "message": "m", "end_time": b.NOW}
        steps = {"from_step": rng.choice([None, 0, 10]), "to_step": rng.choice([None, 10, 500, 700])}
        attempts.append(b.make_attempt(number, rng.choice(["Failed", "Lost", "Stopped"]), **fields, **steps))
    if rng.random() < 0.6:
        lost = {"reason": "HostLost", "message": "m", "end_time": b.NOW} if rng.random() < 0.3 else {}
        attempts.append(b.make_attempt(len(attempts) + 1, **lost))
    kinds_of_conditions = ["Running", "Reconciling", "Suspended", "Stalled"]
    reasons = ["X", "EvictedByKueue"]
    kind = rng.choice(kinds_of_conditions)
    conditions = [b.make_condition(kind, reason=rng.choice(reasons))] if rng.random() < 0.7 else []
    return DPOJobStatus(
        attempts=attempts,
        conditions=conditions,
        start_time=b.NOW - timedelta(seconds=rng.choice([0, 10**6])),
        ledger=b.make_ledger(rng.choice([0, 10**6]), rng.choice([None, *Activity]), rng.choice([0, 9])),
        final_metrics=FinalMetrics(step=40) if rng.random() < 0.1 else None,
        progress=b.make_scrape(12).progress if rng.random() < 0.5 else None,
        guards=random_guards(rng) if rng.random() < 0.3 else None,
    )


def random_guards(rng):
    """Return a broken guard, or one that an edit has answered."""
    broken = BrokenGuard(
        reason="RewardAccuracyLow",
        message="m",
        action=rng.choice(list(GuardAction)),
        observed_generation=rng.choice([2, 3]),
    )
    return GuardsStatus(broken=broken, rollback=RollbackStatus(after_attempt=1, learning_rate_factor=0.5))


def random_spec(rng):
    """Return the fields of the spec that a user may change."""
    spec = {"suspend": rng.random() < 0.2}
    if rng.random() < 0.3:
        spec["activeDeadlineSeconds"] = rng.choice([1, 10**7])
    if rng.random() < 0.3:
        spec["budget"] = {"chipHours": rng.choice([0.01, 10**6])}
    if rng.random() < 0.3:
        spec["progress"] = {"stallSeconds": rng.choice([30, 10**5])}
    if rng.random() < 0.5:
        action = rng.choice(list(GuardAction)).value
        rules = ("rewardAccuracy", "chosenLogProb", "lengthDrift", "gradNorm", "nonFiniteLoss")
        spec["guards"] = {rule: {"action": action} for rule in rules if rng.random() < 0.5}
    if rng.random() < 0.3:
        spec["dataset"] = {"uri": "hf://o/d", "gate": {"preflight": True}}
    return spec


def random_scrape(rng):
    """Return what a run could serve."""
    scrape = b.make_scrape(rng.choice([0, 12, 40]), rng.random() < 0.1, resumed_step=rng.choice([None, 0]))
    names = [name for name in metrics.HELP if rng.random() < 0.5]
    return replace(scrape, values={name: rng.choice([-1e9, -1.0, 0.0, 0.5, 1e9]) for name in names})


def random_check(rng):
    """Return the Job that examines the data, at any stage."""
    pairs = dict.fromkeys(metrics.DATA_KINDS, 3) if rng.random() < 0.5 else None
    reason = rng.choice(["Succeeded", "DataInvalid", "OutputInUse"])
    return CheckView(
        name="j-check",
        uid="u2",
        owner_uid=rng.choice([b.UID, b.UID, "other"]),
        deleting=rng.random() < 0.1,
        ended=rng.choice([None, b.NOW, b.NOW - timedelta(hours=1)]),
        result=TrainerResult(reason=reason, message="m", pairs=pairs) if rng.random() < 0.5 else None,
    )


def random_workload(rng):
    """Return Kueue's object of the attempt, at any stage."""
    return WorkloadView(
        name="w",
        position=rng.choice([None, 1, 7]),
        active=rng.random() < 0.8,
        reserved=rng.random() < 0.5,
        pending=rng.choice(["", "no quota"]),
        evicted=rng.choice(["", "Preempted by another"]),
    )


def random_world(rng, job):
    """Return anything that could be observed, likely or not."""
    number = history.attempt_number(job.status)
    message = rng.choice(["", "Segmentation fault", told("Preempted"), told("Internal"), told("Succeeded")])
    states = [("", ""), ("Initializing", ""), ("Running", "RUNNING"), ("Failed", "FAILED"), ("Suspended", "")]
    states += [("Complete", "SUCCEEDED"), ("Complete", "STOPPED"), ("ValidationFailed", ""), ("New", "?")]
    ray_job = b.make_ray_job(
        *rng.choice(states),
        name=f"j-a{number}",
        owner_uid=rng.choice([b.UID, b.UID, b.UID, "other"]),
        deleting=rng.random() < 0.1,
        suspended=rng.random() < 0.2,
        queue=rng.choice([None, None, "tpu"]),
        stop_time=b.NOW - timedelta(seconds=rng.choice([0, 1000])) if rng.random() < 0.2 else None,
        reason=rng.choice(["", "AppFailed", "PreRunningDeadlineExceeded", "JobStatusCheckTimeoutExceeded"]),
        message=message,
    )
    pods = [p for p in b.make_pods() if rng.random() < 0.8]
    pods = [replace(p, ended=b.oom()) if rng.random() < 0.1 else p for p in pods]
    pods = [replace(p, deleting=True) if rng.random() < 0.1 else p for p in pods]
    old = b.make_ray_job(*rng.choice(states), name="j-a0", uid="u0")
    return Observed(
        attempt=number,
        config_map=None,
        ray_job=ray_job if rng.random() < 0.6 else None,
        old_ray_jobs=(old,) if rng.random() < 0.2 else (),
        ray_clusters=(RayClusterView("c", number),) if rng.random() < 0.4 else (),
        pods=tuple(pods) if rng.random() < 0.7 else (),
        old_pods=("p",) if rng.random() < 0.2 else (),
        prerequisites=b.all_there() if rng.random() < 0.9 else None,
        scrape=random_scrape(rng) if rng.random() < 0.5 else None,
        workload=random_workload(rng) if rng.random() < 0.3 else None,
        check=random_check(rng) if rng.random() < 0.7 else None,
    )


def told(reason):
    return TrainerResult(reason=reason, message="m", step=40).to_line()


def proven(job, observed):
    """Return whether the trainer has said that it has finished."""
    by_line = observed.ray_job is not None and observed.ray_job.message == told("Succeeded")
    return (
        job.status.final_metrics is not None or by_line or bool(observed.scrape and observed.scrape.finished)
    )


@st.composite
def scenes(draw):
    """Return a job as an operator could have left it, and what it could see then."""
    rng: Random = draw(st.randoms(use_true_random=True))
    job = b.make_job(random_spec(rng), random_status(rng))
    return job, random_world(rng, job)


@IN_ANY_WORLD
@given(scenes())
def test_decide_is_total_and_deterministic(scene):
    job, observed = scene
    made = decide.decide(job, observed, b.SETTINGS, b.NOW)
    assert made == decide.decide(job, observed, b.SETTINGS, b.NOW)
    assert isinstance(made, Plan)
    assert made.reason
    assert made.message


@IN_ANY_WORLD
@given(scenes())
def test_an_attempt_is_created_only_where_nothing_is_left_of_others(scene):
    job, observed = scene
    made = decide.decide(job, observed, b.SETTINGS, b.NOW)
    creates = [action for action in made.actions if isinstance(action, Create)]
    if creates:
        assert observed.slice_free
        assert observed.ray_job is None
        assert [c.attempt for c in creates] == [observed.attempt]
        assert not job.spec.suspend


@IN_ANY_WORLD
@given(scenes())
def test_complete_needs_the_trainers_own_proof(scene):
    job, observed = scene
    made = decide.decide(job, observed, b.SETTINGS, b.NOW)
    assert made.stage is not Stage.SUCCEEDED or proven(job, observed)


@IN_ANY_WORLD
@given(scenes())
def test_no_plan_leads_back_to_an_earlier_attempt(scene):
    job, observed = scene
    made = decide.decide(job, observed, b.SETTINGS, b.NOW)
    new = status.next_status(job, made, observed, b.NOW)
    assert history.attempt_number(new) >= history.attempt_number(job.status)


@IN_ANY_WORLD
@given(scenes())
def test_seen_twice_the_same_world_counts_once(scene):
    job, observed = scene
    made = decide.decide(job, observed, b.SETTINGS, b.NOW)
    new = status.next_status(job, made, observed, b.NOW)
    # After a creation or an end the same world would be stale.
    if made.stage in (*FINAL, Stage.CREATED) or history.attempt_number(new) != observed.attempt:
        return
    later = job.model_copy(update={"status": new})
    again = decide.decide(later, observed, b.SETTINGS, b.NOW)
    then = status.next_status(later, again, observed, b.NOW)
    assert [(a.number, a.outcome) for a in then.attempts] == [(a.number, a.outcome) for a in new.attempts]
    assert then.retries == new.retries


FATES = ("preempted", "internal", "host", "head", "delete", "crash", "capacity", "liar", "data", "fenced")


class Operating(RuleBasedStateMachine):
    """An operator that is killed, edited around and left without answers, in any order."""

    @initialize(
        fates=st.dictionaries(
            st.integers(1, 4), st.tuples(st.sampled_from(FATES), st.integers(0, 8)), max_size=3
        )
    )
    def begin(self, fates):
        self.loop = asyncio.new_event_loop()
        self.world = StandIn(fates)
        self.http = httpx.AsyncClient(transport=httpx.MockTransport(self.world.metrics))
        self.numbers = [1]
        self.restart()

    @rule()
    def restart(self):
        self.operator = Reconciler(
            self.world, Observer(self.world, self.http), b.SETTINGS, lambda: self.world.now
        )

    @rule(kill_in=st.none() | st.integers(1, 20), lossy=st.booleans(), seed=st.integers(0, 99))
    def reconcile(self, kill_in, lossy, seed):
        self.world.kill_at = self.world.calls + kill_in if kill_in else None
        self.world.faults = Random(seed) if lossy else None
        try:
            self.loop.run_until_complete(self.operator.reconcile(KEY))
        except Killed:
            self.restart()
        except TransientError:
            pass

    @rule(rounds=st.integers(4, 10))
    def nothing_special_happens(self, rounds):
        for _ in range(rounds):
            self.reconcile(None, False, 0)
            self.world.tick()
            self.each_attempt_is_made_once_and_alone()

    @rule(ticks=st.integers(1, 4))
    def time_passes(self, ticks):
        for _ in range(ticks):
            self.world.tick()

    @rule(suspend=st.booleans())
    def suspend(self, suspend):
        self.world.edit(suspend=suspend)

    @precondition(lambda self: self.world.ray_jobs())
    @rule()
    def somebody_deletes_a_rayjob(self):
        name, _ = self.world.ray_jobs()[-1]
        self.world.objects[kube.RAYJOBS, name]["metadata"].setdefault("deletionTimestamp", self.world.stamp())

    @invariant()
    def each_attempt_is_made_once_and_alone(self):
        made = self.world.created
        assert made == [f"j-a{n + 1}" for n in range(len(made))]
        assert self.world.broken == []

    @invariant()
    def attempts_only_go_up(self):
        self.numbers.append(history.attempt_number(self.status))
        assert self.numbers == sorted(self.numbers)

    @invariant()
    def complete_is_true(self):
        assert self.status.summary != "Complete" or self.world.finished

    @property
    def status(self):
        return DPOJobStatus.model_validate(self.world.job["status"])

    def teardown(self):
        self.loop.run_until_complete(self.http.aclose())
        self.loop.close()


TestOperatingInAnyOrder = Operating.TestCase
TestOperatingInAnyOrder.settings = IN_ANY_ORDER
