"""The store behind the watches, and its comparison with lists; the API server is a list of names and versions."""

from tests.unit import operator_builders as b

from dpojob_operator import kube, parse, pruned
from dpojob_operator.kube import Versions
from dpojob_operator.store import Store
from dpojob_operator.sync import Sync

POD = {
    "metadata": {
        "name": "j-a1-0",
        "namespace": "ns",
        "uid": "p",
        "resourceVersion": "5",
        "creationTimestamp": "2026-11-23T12:00:00Z",
        "labels": {
            "dpojob.io/job": "j",
            "dpojob.io/attempt": "1",
            "dpojob.io/role": "host",
            "dpojob.io/slice": "2",
            "ray.io/replica-host-index": "1",
            "other": "x",
        },
        "managedFields": [{"manager": "kubelet"}],
        "ownerReferences": [{"uid": "c", "controller": True, "kind": "RayCluster"}],
    },
    "spec": {"nodeName": "n", "containers": [{"name": "ray", "env": [{"name": "A", "value": "b"}]}]},
    "status": {
        "phase": "Failed",
        "podIP": "10.0.0.1",
        "reason": "Evicted",
        "message": "low on memory",
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-23T12:00:01Z"},
            {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"},
            {"type": "Ready", "status": "False"},
        ],
        "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "X", "message": "y"}}}],
        "containerStatuses": [
            {
                "name": "ray",
                "image": "z",
                "state": {
                    "terminated": {
                        "exitCode": 137,
                        "reason": "OOMKilled",
                        "message": "m",
                        "finishedAt": "2026-11-23T12:00:09Z",
                    }
                },
            }
        ],
    },
}
RAY_JOB = {
    "metadata": {
        "name": "j-a1",
        "namespace": "ns",
        "uid": "r",
        "creationTimestamp": "2026-11-23T12:00:00Z",
        "labels": {"dpojob.io/job": "j", "dpojob.io/attempt": "1", "kueue.x-k8s.io/queue-name": "q"},
        "annotations": {"dpojob.io/stop": "2026-11-23T12:00:05Z", "other": "x"},
        "ownerReferences": [{"uid": b.UID, "controller": True}, {"uid": "else"}],
    },
    "spec": {"suspend": True, "rayClusterSpec": {"big": "x" * 999}},
    "status": {
        "startTime": "2026-11-23T12:00:02Z",
        "endTime": "2026-11-23T12:00:03Z",
        "jobStatus": "FAILED",
        "jobDeploymentStatus": "Failed",
        "reason": "AppFailed",
        "message": "m",
        "rayClusterStatus": {"big": 1},
    },
}
CLUSTER = {
    "metadata": {
        "name": "c",
        "namespace": "ns",
        "labels": {"dpojob.io/attempt": "1"},
        "deletionTimestamp": "x",
    },
    "status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "quota"}]},
}


def version(body, number):
    return body | {"metadata": body["metadata"] | {"resourceVersion": str(number)}}


def test_pruned_objects_are_parsed_like_whole_ones():
    assert parse.pod(pruned.pod(POD)) == parse.pod(POD)
    assert parse.ray_job(pruned.ray_job(RAY_JOB)) == parse.ray_job(RAY_JOB)
    assert parse.controller_uid(pruned.ray_job(RAY_JOB)) == b.UID
    assert parse.ray_cluster(pruned.ray_cluster(CLUSTER)) == parse.ray_cluster(CLUSTER)
    assert len(str(pruned.ray_job(RAY_JOB))) < len(str(RAY_JOB)) / 2


def test_older_state_never_replaces_a_newer_one():
    store = Store()
    assert store.put(kube.PODS, version(POD, 5))
    assert not store.put(kube.PODS, version(POD | {"status": {"phase": "Running"}}, 4))
    assert store.get(kube.PODS, ("ns", "j-a1-0"))["status"]["phase"] == "Failed"
    assert not store.remove(kube.PODS, ("ns", "j-a1-0"), 4)
    assert store.remove(kube.PODS, ("ns", "j-a1-0"), 6)
    store.refresh(kube.PODS, version(POD, 5))
    assert store.children(kube.PODS, ("ns", "j")) == []


def test_only_what_is_read_or_annotated_is_news():
    store = Store()
    store.put(kube.PODS, version(POD, 5))
    meta = POD["metadata"] | {"resourceVersion": "6", "managedFields": []}
    assert not store.put(kube.PODS, POD | {"metadata": meta})
    assert store.put(
        kube.PODS, POD | {"metadata": meta | {"resourceVersion": "7", "annotations": {"a": "b"}}}
    )


def test_names_of_jobs_with_children_are_remembered_while_something_is_left():
    store = Store()
    store.put(kube.PODS, version(POD, 5))
    store.forget_made()
    assert store.has_made(("ns", "j"))
    store.remove(kube.PODS, ("ns", "j-a1-0"), 6)
    assert store.has_made(("ns", "j"))
    store.forget_made()
    assert not store.has_made(("ns", "j"))


class Lists:
    """An API server that lists pods, and nothing of the other kinds."""

    def __init__(self):
        self.pods = Versions(10, {("ns", "j-a1-0"): 5})

    async def list_versions(self, resource, namespace, selector):
        return self.pods if resource is kube.PODS else Versions(10, {})


async def test_in_step_once_the_watch_has_shown_what_was_listed():
    lists, store = Lists(), Store()
    sync = Sync(lists, store)
    await sync.compare()
    assert (sync.in_step, sync.shown) == (False, True)
    store.put(kube.PODS, version(POD, 5))
    await sync.compare()
    assert sync.in_step


async def test_a_watch_that_stays_behind_is_noticed():
    lists, store = Lists(), Store()
    sync = Sync(lists, store)
    store.put(kube.PODS, version(POD, 5))
    await sync.compare()
    lists.pods = Versions(12, {("ns", "j-a1-0"): 11})
    await sync.compare()
    assert sync.in_step, "it may be on its way"
    await sync.compare()
    assert not sync.in_step


async def test_what_has_gone_unseen_is_dropped_and_its_job_woken():
    lists, store, woken = Lists(), Store(), []
    sync = Sync(lists, store, woken=woken.append)
    store.put(kube.PODS, version(POD, 5))
    lists.pods = Versions(12, {})
    await sync.compare()
    assert woken == [("ns", "j")]
    assert store.children(kube.PODS, ("ns", "j")) == []
