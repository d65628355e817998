"""Kueue: what is created, what its Workload says, what an eviction is. Pure logic; the Workloads have the shape of Kueue
v0.15's, which runs on a cluster only.
"""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.unit import operator_builders as b

from dpojob_api.reasons import OperatorReason
from dpojob_operator import decide, kube, parse, status
from dpojob_operator.desired import rayjob
from dpojob_operator.errors import ForbiddenError, NotFoundError
from dpojob_operator.observed import RayClusterView, WorkloadView
from dpojob_operator.plan import Delete, Kind, Stage, Stop
from dpojob_operator.policy import queueing
from dpojob_operator.workloads import Workloads

LABELS = {"kueue.x-k8s.io/queue-name": "tpu-lq", "kueue.x-k8s.io/priority-class": "low"}
PENDING = "couldn't assign flavors to pod set worker-group-tpu: insufficient unused quota for google.com/tpu"
CHECK = {"name": "dws", "state": "Pending", "message": "waiting for a ProvisioningRequest"}


def condition(kind, truth, reason, message):
    time = "2026-11-23T12:00:00Z"
    fields = {"type": kind, "status": truth, "reason": reason, "message": message}
    return fields | {"lastTransitionTime": time, "observedGeneration": 1}


def workload(*conditions, spec=None, checks=()):
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "Workload",
        "metadata": {
            "name": "rayjob-j-a1-1f2e3",
            "namespace": "ns",
            "labels": {"kueue.x-k8s.io/job-uid": "u1"},
            "ownerReferences": [
                {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": "j-a1", "uid": "u1", "controller": True}
            ],
        },
        "spec": {"queueName": "tpu-lq", "active": True, "priority": 0} | (spec or {}),
        "status": {"conditions": list(conditions), "admissionChecks": list(checks)},
    }


QUEUED = workload(condition("QuotaReserved", "False", "Pending", PENDING))
INADMISSIBLE = workload(
    condition("QuotaReserved", "False", "Inadmissible", "LocalQueue tpu-lq doesn't exist")
)
PREEMPTED = "Preempted to accommodate a workload (UID: 5) due to prioritization in the ClusterQueue"
EVICTED = workload(
    condition("QuotaReserved", "False", "Pending", PREEMPTED),
    condition("Evicted", "True", "Preempted", PREEMPTED),
)
CHECKED = workload(
    condition("QuotaReserved", "True", "QuotaReserved", "Quota reserved in ClusterQueue tpu-cq"),
    checks=[CHECK],
)


def plan(job, observed, now=b.NOW):
    return decide.decide(job, observed, b.SETTINGS, now)


def suspended(**fields):
    return b.make_ray_job("Suspended", "", suspended=True, queue="tpu-lq", uid="u1", **fields)


def ago(seconds):
    return b.NOW - timedelta(seconds=seconds)


def held():
    """Return the status of a run that has held its slice for two minutes."""
    return b.running(slice_time=ago(120), from_step=0, to_step=12)


class TestCreation:
    def test_labels_reach_the_rayjob_which_is_suspended_where_there_is_kueue(self):
        job = b.make_job(labels=LABELS | {"team": "a"})
        made = plan(job, b.nothing(prerequisites=b.all_there(kueue=True)))
        body = rayjob.build_rayjob(job, 1, "image", made.actions[1].queued)
        assert body["spec"]["suspend"] is True
        assert body["spec"]["shutdownAfterJobFinishes"] is True
        assert body["metadata"]["labels"].items() >= LABELS.items()
        assert "team" not in body["metadata"]["labels"]

    def test_without_kueue_it_starts(self):
        job = b.make_job(labels=LABELS)
        made = plan(job, b.nothing())
        assert "suspend" not in rayjob.build_rayjob(job, 1, "image", made.actions[1].queued)["spec"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (QUEUED, f"Waiting in queue 'tpu-lq': Pending: {PENDING}"),
        (INADMISSIBLE, "Inadmissible: LocalQueue tpu-lq doesn't exist"),
        (EVICTED, "Preempted to accommodate a workload"),
        (CHECKED, "admission checks are not done: dws: waiting for a ProvisioningRequest"),
        (
            workload(spec={"active": False}),
            "Workload rayjob-j-a1-1f2e3 is deactivated; set its spec.active to true.",
        ),
        (workload(), "Waiting in queue 'tpu-lq'"),
        (None, "its integration ray.io/rayjob must be enabled"),
    ],
    ids=["pending", "inadmissible", "evicted", "checks", "inactive", "new", "none"],
)
def test_queued_job_repeats_kueues_words(body, words):
    job = b.make_job(status=b.active())
    view = parse.workload(body) if body else None
    observed = b.observe(job, ray_job=suspended(), pods=(), ray_clusters=(), scrape=None, workload=view)
    made = plan(job, observed)
    assert (made.stage, made.reason, made.actions) == (Stage.QUEUED, OperatorReason.QUEUED, ())
    assert words in made.message
    new = status.next_status(job, made, observed, b.NOW)
    assert new.summary == "Queued"
    assert {c.type for c in new.conditions if c.status == "True"} == {"Queued", "Reconciling"}


def test_admitted_job_is_queued_no_more():
    job = b.make_job(status=b.active(b.make_condition("Queued")))
    observed = b.observe(
        job, ray_job=b.make_ray_job("Initializing", "", queue="tpu-lq"), pods=(), scrape=None
    )
    new = status.next_status(job, plan(job, observed), observed, b.NOW)
    assert {c.type for c in new.conditions if c.status == "True"} == {"Reconciling"}


class TestEviction:
    def next(self, job, observed, now=b.NOW):
        """Return the plan and the job after it has been carried out."""
        made = plan(job, observed, now)
        return made, b.make_job(status=status.next_status(job, made, observed, now))

    def observed(self, job, **fields):
        return b.observe(job, ray_job=suspended(), workload=parse.workload(EVICTED), **fields)

    def test_it_is_written_down_before_the_attempt_is_stopped_for_good(self):
        job = b.make_job(status=held())
        made, job = self.next(job, self.observed(job))
        assert (made.stage, made.reason, made.actions) == (
            Stage.STOPPING,
            OperatorReason.EVICTED_BY_KUEUE,
            (),
        )
        assert made.requeue_after == 0
        assert PREEMPTED in made.message
        made, job = self.next(job, self.observed(job))
        assert made.actions == (Stop("j-a1", "u1"),)
        assert [c.reason for c in job.status.conditions if c.status == "True"] == ["EvictedByKueue"]

    def evicted(self):
        job = b.make_job(status=held())
        _, job = self.next(job, self.observed(job))
        return job

    def test_hosts_have_their_time_to_save_and_then_the_attempt_has_ended_without_a_failure(self):
        job = self.evicted()
        stopping = suspended(stop_time=ago(10))
        made, job = self.next(job, b.observe(job, ray_job=stopping))
        assert (made.stage, made.reason) == (Stage.STOPPING, OperatorReason.EVICTED_BY_KUEUE)
        made, job = self.next(job, b.observe(job, ray_job=stopping, pods=(), ray_clusters=(), scrape=None))
        (attempt,) = job.status.attempts
        assert (attempt.outcome, attempt.reason, attempt.failure_class) == ("Stopped", "EvictedByKueue", None)
        assert PREEMPTED in attempt.message
        assert job.status.retries is None

    def ended(self):
        job = self.evicted()
        observed = b.observe(job, ray_job=suspended(stop_time=ago(10)), pods=(), ray_clusters=(), scrape=None)
        return self.next(job, observed)[1]

    def test_old_rayjob_goes_and_the_next_attempt_queues_at_once(self):
        job = self.ended()
        made, job = self.next(job, b.nothing(attempt=2, old_ray_jobs=(suspended(),)))
        assert made.actions == (Delete(Kind.RAY_JOB, "j-a1", "u1"),)
        made, job = self.next(job, b.nothing(attempt=2))
        assert (made.stage, made.attempt) == (Stage.CREATED, 2)
        assert [(a.number, a.outcome) for a in job.status.attempts] == [(1, "Stopped"), (2, "Active")]

    def test_next_attempt_that_was_created_unseen_is_not_taken_for_the_evicted_one(self):
        job = self.ended()
        again = b.make_ray_job("Suspended", "", name="j-a2", suspended=True, queue="tpu-lq")
        made = plan(job, b.nothing(attempt=2, ray_job=again))
        assert made.stage is Stage.QUEUED

    def test_readmission_before_the_stop_changes_nothing(self):
        job = self.evicted()
        running = b.make_ray_job("Initializing", "", queue="tpu-lq", uid="u1")
        made = plan(job, b.observe(job, ray_job=running, pods=(), scrape=None))
        assert made.actions == (Stop("j-a1", "u1"),)

    def test_eviction_and_readmission_between_two_looks(self):
        job = b.make_job(status=held())
        young = tuple(b.make_pod(index=i, created=ago(5)) for i in range(2))
        cluster = RayClusterView("j-a1-new", 1, created=ago(6))
        again = b.make_ray_job("Initializing", "", queue="tpu-lq", started=ago(7))
        made = plan(job, b.observe(job, ray_job=again, pods=young, ray_clusters=(cluster,), scrape=None))
        assert made.reason == OperatorReason.EVICTED_BY_KUEUE
        assert "given it again" in made.message

    def test_job_that_never_had_a_node_only_queues_again(self):
        job = b.make_job(status=b.active())
        observed = b.observe(job, ray_job=suspended(), pods=(), scrape=None, workload=parse.workload(EVICTED))
        assert plan(job, observed).stage is Stage.QUEUED

    def test_run_that_has_finished_is_a_success(self):
        job = b.make_job(status=held())
        made = plan(job, self.observed(job, scrape=b.make_scrape(40, finished=True)))
        assert made.stage is Stage.SUCCEEDED

    def test_suspension_by_the_user_comes_first(self):
        job = b.make_job({"suspend": True}, held())
        assert plan(job, self.observed(job)).reason == OperatorReason.SUSPENDING

    def test_rayjob_without_a_queue_was_suspended_by_somebody_else(self):
        job = b.make_job(status=held())
        by_hand = b.make_ray_job("Suspended", "", suspended=True)
        assert plan(job, b.observe(job, ray_job=by_hand)).stage is not Stage.STOPPING


class ListKube:
    """Answers only to lists of Workloads, by API version; without a selector, with the whole namespace."""

    def __init__(self, answers, whole=()):
        self.answers = answers
        self.whole = list(whole)
        self.asked = []

    async def list(self, resource, namespace, selector=""):
        self.asked.append((resource.api_version, namespace, selector))
        answer = self.answers[resource]
        if isinstance(answer, Exception):
            raise answer
        return answer if selector else self.whole


NEW, OLD = kube.WORKLOADS
GONE = NotFoundError("the server could not find the requested resource")
VIEW = WorkloadView("rayjob-j-a1-1f2e3", "tpu-lq", pending=f"Pending: {PENDING}")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({NEW: [QUEUED]}, VIEW),
        ({NEW: GONE, OLD: [QUEUED]}, VIEW),
        ({NEW: GONE, OLD: GONE}, None),
        ({NEW: ForbiddenError("no")}, None),
        ({NEW: []}, None),
    ],
    ids=["v1beta2", "v1beta1", "no Kueue", "not allowed", "no Workload"],
)
async def test_workload_is_found_by_the_rayjobs_uid(answers, expected):
    api = ListKube(answers)
    assert await Workloads(api).of("ns", suspended()) == expected
    assert api.asked[0] == ("kueue.x-k8s.io/v1beta2", "ns", "kueue.x-k8s.io/job-uid=u1")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({NEW: []}, True),
        ({NEW: GONE, OLD: []}, True),
        ({NEW: GONE, OLD: GONE}, False),
        ({NEW: ForbiddenError("no")}, False),
    ],
)
async def test_kueue_is_there_if_its_api_is(answers, expected):
    assert await Workloads(ListKube(answers)).are_served("ns") is expected


async def test_kueue_is_not_asked_about_jobs_that_do_not_wait_for_it():
    workloads = Workloads(ListKube({}))
    assert await workloads.of("ns", None) is None
    assert await workloads.of("ns", b.make_ray_job(queue="tpu-lq")) is None
    assert await workloads.of("ns", b.make_ray_job(suspended=True)) is None


def waiting(name, created, priority=0, queue="tpu-lq", conditions=(), **spec):
    body = workload(*conditions, spec={"priority": priority, "queueName": queue} | spec)
    body["metadata"] |= {"name": name, "creationTimestamp": f"2026-11-23T12:00:{created:02}Z"}
    return body


class TestPosition:
    def test_priority_comes_first_then_age(self):
        bodies = [
            waiting("old", 1),
            waiting("new", 9),
            waiting("urgent", 8, priority=10),
            waiting("other", 0, queue="q"),
        ]
        assert parse.queue_order(bodies) == {"tpu-lq": ("urgent", "old", "new"), "q": ("other",)}

    @pytest.mark.parametrize(
        "change",
        [
            {"conditions": [condition("QuotaReserved", "True", "QuotaReserved", "m")]},
            {"conditions": [condition("Finished", "True", "Succeeded", "m")]},
            {"active": False},
        ],
        ids=["admitted", "finished", "deactivated"],
    )
    def test_who_does_not_wait_is_nobodys_predecessor(self, change):
        assert parse.queue_order([waiting("a", 1, **change), waiting("b", 2)]) == {"tpu-lq": ("b",)}

    async def test_order_is_read_once_for_all_jobs_of_a_namespace(self):
        own = "rayjob-j-a1-1f2e3"
        api = ListKube({NEW: [QUEUED]}, [waiting("before", 1), waiting(own, 2)])
        workloads = Workloads(api)
        views = [await workloads.of("ns", suspended()) for _ in range(3)]
        assert {view.position for view in views} == {2}
        assert sum(selector == "" for _, _, selector in api.asked) == 1

    @pytest.mark.parametrize(
        ("position", "words"),
        [
            (None, "queue 'tpu-lq': Pending: "),
            (1, "queue 'tpu-lq', position 1: Pending: "),
            (10, ", position 10: "),
            (11, ", behind 10 others or more: "),
        ],
    )
    def test_it_is_told_in_words_that_change_ten_times_at_most(self, position, words):
        view = replace(VIEW, position=position)
        assert words in queueing.describe_queue("tpu-lq", view)
