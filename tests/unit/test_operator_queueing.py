"""Kueue: what is created, what its Workload says, what an eviction is. Pure logic; the Workloads have the shape of Kueue
v0.15's, which runs on a cluster only.
"""

from datetime import timedelta

import pytest
from tests.unit import operator_builders as b

from dpojob_api.reasons import OperatorReason
from dpojob_operator import decide, kube, parse, status
from dpojob_operator.desired import rayjob
from dpojob_operator.errors import ForbiddenError, NotFoundError
from dpojob_operator.observe import Observer
from dpojob_operator.observed import RayClusterView, WorkloadView
from dpojob_operator.plan import Delete, Kind, Stage, Stop

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
    """Answers only to lists of Workloads, by API version."""

    def __init__(self, answers):
        self.answers = answers
        self.asked = []

    async def list(self, resource, namespace, selector=""):
        self.asked.append((resource.api_version, namespace, selector))
        answer = self.answers[resource]
        if isinstance(answer, Exception):
            raise answer
        return answer


NEW, OLD = kube.WORKLOADS
GONE = NotFoundError("the server could not find the requested resource")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({NEW: [QUEUED]}, WorkloadView("rayjob-j-a1-1f2e3", pending=f"Pending: {PENDING}")),
        ({NEW: GONE, OLD: [QUEUED]}, WorkloadView("rayjob-j-a1-1f2e3", pending=f"Pending: {PENDING}")),
        ({NEW: GONE, OLD: GONE}, None),
        ({NEW: ForbiddenError("no")}, None),
        ({NEW: []}, None),
    ],
    ids=["v1beta2", "v1beta1", "no Kueue", "not allowed", "no Workload"],
)
async def test_workload_is_found_by_the_rayjobs_uid(answers, expected):
    api = ListKube(answers)
    found = await Observer(api, http=None)._workload("ns", suspended())
    assert found == expected
    assert api.asked[0] == ("kueue.x-k8s.io/v1beta2", "ns", "kueue.x-k8s.io/job-uid=u1")


async def test_kueue_is_not_asked_about_jobs_that_do_not_wait_for_it():
    observer = Observer(ListKube({}), http=None)
    assert await observer._workload("ns", b.make_ray_job(queue="tpu-lq")) is None
    assert await observer._workload("ns", b.make_ray_job(suspended=True)) is None
