"""The reconciler's order of reads and writes, on an in-memory stand-in for the API server.

The stand-in knows no admission, garbage collection or KubeRay; those are real in tests/integration.
"""

import json
from copy import deepcopy
from datetime import timedelta

import httpx
import pytest
from tests.unit import operator_builders as b
from tests.unit.stand_in import merge
from tests.unit.watched import Watched

from dpojob_api.constants import RECORDED_HEADER
from dpojob_operator import kube
from dpojob_operator.desired import configmap, rayjob
from dpojob_operator.errors import ConflictError, InvalidError, NotFoundError
from dpojob_operator.observe import Observer
from dpojob_operator.reconcile import Reconciler
from dpojob_operator.status import merge_patch

KEY = ("ns", "j")
KINDS = {"ConfigMap": kube.CONFIGMAPS, "RayJob": kube.RAYJOBS, "Event": kube.EVENTS}


class MemoryKube:
    """Objects by resource and name; writes are recorded."""

    def __init__(self):
        self.objects = {}
        self.writes = []
        self.refuse = {}
        self.refuse_patch = None

    def put(self, resource, body):
        self.objects[resource, body["metadata"]["name"]] = deepcopy(body)

    async def get(self, resource, namespace, name):
        if (resource, name) not in self.objects:
            raise NotFoundError(name)
        return deepcopy(self.objects[resource, name])

    async def list(self, resource, namespace, selector=""):
        label, _, value = selector.partition("=")
        found = [body for (kind, _), body in self.objects.items() if kind == resource]
        return [deepcopy(o) for o in found if o["metadata"].get("labels", {}).get(label) == value]

    async def apply(self, resource, body):
        self.writes.append(("apply", resource.plural, body["metadata"]["name"]))
        self.put(resource, body)
        return body

    async def create(self, resource, body):
        if resource in self.refuse:
            raise self.refuse[resource]
        if resource is kube.EVENTS:
            self.writes.append(("event", body["type"], body["reason"]))
            return body
        self.writes.append(("create", resource.plural, body["metadata"]["name"]))
        if (resource, body["metadata"]["name"]) in self.objects:
            raise ConflictError("exists")
        self.put(resource, body)
        return body

    async def delete(self, resource, namespace, name, uid=None):
        found = self.objects.get((resource, name))
        if found and uid and found["metadata"].get("uid") != uid:
            raise ConflictError("another uid")
        self.writes.append(("delete", resource.plural, name))
        self.objects.pop((resource, name), None)

    async def patch(self, resource, namespace, name, patch):
        if self.refuse_patch:
            raise self.refuse_patch
        self.writes.append(("patch", resource.plural, name))
        merge(self.objects[resource, name], patch)
        return self.objects[resource, name]

    async def patch_status(self, resource, namespace, name, patch):
        self.writes.append(("status", resource.plural, name))
        body = self.objects[resource, name]
        merge(body.setdefault("status", {}), patch["status"])
        return body


def crd():
    properties = {name: {} for name in rayjob.REQUIRED_FIELDS}
    schema = {"openAPIV3Schema": {"properties": {"spec": {"properties": properties}}}}
    return {
        "metadata": {"name": "rayjobs.ray.io"},
        "spec": {"versions": [{"name": "v1", "served": True, "schema": schema}]},
    }


def job_body(**status):
    job = b.make_job()
    body = json.loads(job.model_dump_json(by_alias=True, exclude_none=True))
    body["metadata"] = {"name": "j", "namespace": "ns", "uid": b.UID, "generation": 3, "resourceVersion": "1"}
    return body | {"status": status}


@pytest.fixture
def api():
    api = MemoryKube()
    api.put(kube.CRDS, crd())
    api.put(kube.DPOJOBS, job_body())
    return api


@pytest.fixture
def make_reconciler(api):
    def make(metrics="", settings=b.SETTINGS):
        transport = httpx.MockTransport(lambda request: httpx.Response(200, text=metrics))
        return Reconciler(api, Observer(api, httpx.AsyncClient(transport=transport)), settings, lambda: b.NOW)

    return make


def status_of(api):
    return api.objects[kube.DPOJOBS, "j"]["status"]


def reason_of(api, kind):
    return next(
        (c["reason"] for c in status_of(api)["conditions"] if (c["type"], c["status"]) == (kind, "True")),
        None,
    )


async def test_config_and_rayjob_are_made_first_and_told_of_in_the_next_reconcile(api, make_reconciler):
    reconciler = make_reconciler()
    assert await reconciler.reconcile(KEY) == 0
    assert api.writes == [("create", "configmaps", "j-a1"), ("create", "rayjobs", "j-a1")]
    api.writes.clear()
    assert await reconciler.reconcile(KEY)
    assert api.writes == [("status", "dpojobs", "j"), ("event", "Normal", "AttemptCreated")]


async def test_second_reconcile_writes_nothing_when_nothing_has_changed(api, make_reconciler):
    reconciler = make_reconciler()
    await reconciler.reconcile(KEY)
    await reconciler.reconcile(KEY)
    api.writes.clear()
    await reconciler.reconcile(KEY)
    assert api.writes == []


async def test_job_that_is_gone_or_going_is_left_alone(api, make_reconciler):
    assert await make_reconciler().reconcile(("ns", "other")) is None
    api.objects[kube.DPOJOBS, "j"]["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:00Z"
    assert await make_reconciler().reconcile(KEY) is None
    assert api.writes == []


async def test_refused_rayjob_stalls_with_the_servers_words(api, make_reconciler):
    api.refuse[kube.RAYJOBS] = InvalidError("spec.x: bad (HTTP 422)")
    assert await make_reconciler().reconcile(KEY) == 15
    assert reason_of(api, "Stalled") == "RayJobRejected"
    assert "spec.x: bad" in str(status_of(api)["conditions"])
    assert "attempts" not in status_of(api)


async def test_stalled_job_goes_on_by_itself(api, make_reconciler):
    api.objects.pop((kube.CRDS, "rayjobs.ray.io"))
    reconciler = make_reconciler()
    await reconciler.reconcile(KEY)
    assert reason_of(api, "Stalled") == "KubeRayNotInstalled"
    api.put(kube.CRDS, crd())
    for _ in range(2):
        await reconciler.reconcile(KEY)
    assert reason_of(api, "Stalled") is None
    assert reason_of(api, "Reconciling") == "AttemptCreated"


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["spec"].update(newField=1),
        lambda body: body["spec"]["accelerator"].update(type="v9-1"),
        lambda body: body["spec"]["mesh"].update(fsdp=3, tp=5),
        lambda body: body["spec"].pop("model"),
    ],
)
async def test_object_that_does_not_fit_stalls_and_does_not_crash(api, make_reconciler, change):
    change(api.objects[kube.DPOJOBS, "j"])
    reconciler = make_reconciler()
    assert await reconciler.reconcile(KEY) is not None
    assert reason_of(api, "Stalled") == "InvalidSpec"
    assert "Traceback" not in str(status_of(api))
    api.writes.clear()
    await reconciler.reconcile(KEY)
    assert api.writes == []


async def running_job(api, metrics, make_reconciler):
    """Bring a job to a running attempt."""
    reconciler = make_reconciler(metrics)
    await reconciler.reconcile(KEY)
    api.objects[kube.RAYJOBS, "j-a1"]["status"] = {"jobStatus": "RUNNING", "jobDeploymentStatus": "Running"}
    for name, role, index in (("h", "head", None), ("w0", "host", "0"), ("w1", "host", "1")):
        labels = {"dpojob.io/job": "j", "dpojob.io/attempt": "1", "dpojob.io/role": role}
        if index is not None:
            labels["ray.io/replica-host-index"] = index
        meta = {"name": name, "labels": labels, "creationTimestamp": "2026-11-23T11:59:00Z"}
        api.put(kube.PODS, {"metadata": meta, "status": {"phase": "Running", "podIP": "10.0.0.1"}})
    await reconciler.reconcile(KEY)
    return reconciler


METRICS = 'dpojob_phase{phase="training"} 1\ndpojob_step 7\ndpojob_total_steps 40\ndpojob_loss 0.61\n'


async def test_run_shows_progress(api, make_reconciler):
    await running_job(api, METRICS, make_reconciler)
    assert status_of(api)["progress"]["steps"] == "7/40"
    assert reason_of(api, "Running") == "Training"


async def test_words_that_change_soon_after_a_write_are_written_when_their_time_has_come(
    api, make_reconciler
):
    now = [b.NOW]
    reconciler = Reconciler(api, Observer(api, httpx.AsyncClient()), b.SETTINGS, lambda: now[0])
    await reconciler.reconcile(KEY)
    api.objects[kube.RAYJOBS, "j-a1"]["status"] = {"jobDeploymentStatus": "Initializing"}
    await reconciler.reconcile(KEY)
    labels = {"dpojob.io/job": "j", "dpojob.io/attempt": "1", "dpojob.io/role": "head"}
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}
    meta = {"name": "h", "labels": labels, "creationTimestamp": "2026-11-23T11:59:00Z"}
    api.put(kube.PODS, {"metadata": meta, "status": {"phase": "Pending", "conditions": [condition]}})
    seen = []
    for seconds in (1, 2, 6):
        now[0] = b.NOW + timedelta(seconds=seconds)
        await reconciler.reconcile(KEY)
        seen.append("no node" in str(status_of(api)["conditions"]))
    assert seen == [False, False, True]


async def test_whole_life_of_a_job_that_succeeds(api, make_reconciler):
    reconciler = await running_job(api, METRICS + "dpojob_finished 1\n", make_reconciler)
    api.objects[kube.RAYJOBS, "j-a1"]["status"] = {
        "jobStatus": "SUCCEEDED",
        "jobDeploymentStatus": "Complete",
    }
    await reconciler.reconcile(KEY)
    assert reason_of(api, "Complete") == "Finished"
    assert status_of(api)["output"]["model"] == "gs://bucket/run/model"
    api.writes.clear()
    assert await reconciler.reconcile(KEY) is None
    assert api.writes == []


async def test_driver_is_let_go_only_once_its_end_is_in_the_status(api):
    finished = METRICS + "dpojob_finished 1\n"
    seen = []

    def answer(request):
        seen.append(RECORDED_HEADER in request.headers)
        return httpx.Response(200, text=finished)

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    reconciler = await running_job(
        api, "", lambda metrics: Reconciler(api, Observer(api, http), b.SETTINGS, lambda: b.NOW)
    )
    assert status_of(api)["finalMetrics"]["step"] == 7
    await reconciler.reconcile(KEY)
    assert seen == [False, True]


async def test_success_without_a_checked_result_fails(api, make_reconciler):
    reconciler = await running_job(api, METRICS, make_reconciler)
    api.objects[kube.RAYJOBS, "j-a1"]["status"] = {
        "jobStatus": "SUCCEEDED",
        "jobDeploymentStatus": "Complete",
    }
    await reconciler.reconcile(KEY)
    assert reason_of(api, "Failed") == "ResultMissing"


async def test_ended_job_releases_a_slice_that_kuberay_still_holds(api, make_reconciler):
    job = b.make_job()
    api.put(kube.RAYJOBS, rayjob.build_rayjob(job, 1, "i") | {"status": {"jobDeploymentStatus": "Running"}})
    failed = json.loads(b.make_condition("Failed").model_dump_json(by_alias=True))
    api.put(kube.DPOJOBS, job_body(attempt=1, conditions=[failed]))
    await make_reconciler().reconcile(KEY)
    assert api.writes == [("delete", "rayjobs", "j-a1")]


async def test_ended_jobs_children_are_not_repaired(api, make_reconciler):
    complete = json.loads(b.make_condition("Complete").model_dump_json(by_alias=True))
    api.put(kube.DPOJOBS, job_body(attempt=1, conditions=[complete]))
    assert await make_reconciler().reconcile(KEY) is None
    assert api.writes == []


async def test_config_of_a_running_attempt_is_applied_again(api, make_reconciler):
    reconciler = await running_job(api, METRICS, make_reconciler)
    api.objects.pop((kube.CONFIGMAPS, "j-a1"))
    await reconciler.reconcile(KEY)
    data = api.objects[kube.CONFIGMAPS, "j-a1"]["data"]
    assert data["trainer.json"] == configmap.config_text(b.make_job(), 1)


def test_merge_patch_applied_gives_the_new_object():
    old = {"a": {"b": 1, "c": 2}, "d": [1]}
    new = {"a": {"b": 3}, "e": "x"}
    merge(old, merge_patch(deepcopy(old), new))
    assert old == new


async def test_suspended_run_is_stopped_with_one_patch_that_names_the_object(api, make_reconciler):
    reconciler = await running_job(api, METRICS, make_reconciler)
    api.objects[kube.RAYJOBS, "j-a1"]["metadata"]["uid"] = "u1"
    api.objects[kube.DPOJOBS, "j"]["spec"]["suspend"] = True
    api.writes.clear()
    await reconciler.reconcile(KEY)
    assert api.writes[0] == ("patch", "rayjobs", "j-a1")
    stopped = api.objects[kube.RAYJOBS, "j-a1"]
    assert stopped["spec"]["suspend"] is True
    assert stopped["metadata"]["annotations"]["dpojob.io/stop"] == "2026-11-23T12:00:00Z"
    assert stopped["metadata"]["uid"] == "u1"
    assert (status_of(api)["summary"], reason_of(api, "Reconciling")) == ("Suspending", "Suspending")
    api.writes.clear()
    await reconciler.reconcile(KEY)
    assert "patch" not in {write[0] for write in api.writes}


@pytest.mark.parametrize(
    "error", [ConflictError("x"), NotFoundError("x"), InvalidError("metadata.uid: Invalid value: immutable")]
)
async def test_rayjob_that_changed_hands_is_left_alone(api, make_reconciler, error):
    reconciler = await running_job(api, METRICS, make_reconciler)
    api.objects[kube.DPOJOBS, "j"]["spec"]["suspend"] = True
    api.refuse_patch = error
    await reconciler.reconcile(KEY)
    assert reason_of(api, "Reconciling") == "Suspending"


async def test_stop_that_is_refused_stalls_with_the_servers_words(api, make_reconciler):
    reconciler = await running_job(api, METRICS, make_reconciler)
    api.objects[kube.DPOJOBS, "j"]["spec"]["suspend"] = True
    api.refuse_patch = InvalidError("spec.suspend: not now")
    await reconciler.reconcile(KEY)
    assert reason_of(api, "Stalled") == "RayJobRejected"
    assert [a["outcome"] for a in status_of(api)["attempts"]] == ["Active"]


def ended_job(seconds, uid=b.UID, **spec):
    """Return a job that has ended so many seconds ago."""
    complete = json.loads(b.make_condition("Complete").model_dump_json(by_alias=True))
    end = (b.NOW - timedelta(seconds=seconds)).isoformat()
    body = job_body(attempt=1, conditions=[complete], completionTime=end)
    body["metadata"]["uid"] = uid
    body["spec"] |= spec
    return body


async def test_ended_job_is_deleted_when_its_time_is_over(api, make_reconciler):
    api.put(kube.DPOJOBS, ended_job(40, ttlSecondsAfterFinished=60))
    assert await make_reconciler().reconcile(KEY) == 20
    assert api.writes == []
    api.put(kube.DPOJOBS, ended_job(60, ttlSecondsAfterFinished=60))
    assert await make_reconciler().reconcile(KEY) is None
    assert api.writes == [("delete", "dpojobs", "j")]


async def test_slice_is_released_before_an_ended_job_is_deleted(api, make_reconciler):
    api.put(kube.DPOJOBS, ended_job(999, ttlSecondsAfterFinished=0))
    api.put(kube.RAYJOBS, rayjob.build_rayjob(b.make_job(), 1, "i"))
    await make_reconciler().reconcile(KEY)
    assert api.writes == [("delete", "rayjobs", "j-a1")]


async def test_new_job_of_the_same_name_is_not_deleted_for_the_old_one(api, make_reconciler):
    api.put(kube.DPOJOBS, ended_job(999, ttlSecondsAfterFinished=0))
    read = api.get

    async def get(resource, namespace, name):
        body = await read(resource, namespace, name)
        if resource is kube.RAYJOBS:
            return body
        api.objects[kube.DPOJOBS, "j"]["metadata"]["uid"] = "another"
        return body

    api.get = get
    assert await make_reconciler().reconcile(KEY) is None
    assert (kube.DPOJOBS, "j") in api.objects


async def test_configmap_that_only_the_api_server_knows_of_is_not_taken_over(api):
    foreign = {"metadata": {"name": "j-a1", "namespace": "ns"}, "data": {"mine": "1"}}
    api.put(kube.CONFIGMAPS, foreign)
    async with httpx.AsyncClient() as http:
        watched = Watched(api, http)
        observer = Observer(watched.api, http)
        reconciler = Reconciler(watched.api, observer, b.SETTINGS, lambda: b.NOW, glance=watched)
        await reconciler.reconcile(KEY)
    assert reason_of(api, "Stalled") == "NameConflict"
    assert api.objects[kube.CONFIGMAPS, "j-a1"] == foreign
