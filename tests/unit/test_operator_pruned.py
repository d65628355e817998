"""What the store keeps is all that is read of an object: a parser that reads one more field fails here until it is kept."""

import pytest
from tests.unit import operator_builders as b

from dpojob_api import constants
from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator import kube, observe, parse, pruned

LABELS = {"dpojob.io/job": "j", "dpojob.io/attempt": "1"}
OWNERS = [{"uid": "else"}, {"uid": "c", "controller": True, "kind": "RayCluster"}]
META = {
    "name": "j-a1-0",
    "namespace": "ns",
    "uid": "p",
    "generation": 3,
    "resourceVersion": "5",
    "creationTimestamp": "2026-11-23T12:00:00Z",
    "deletionTimestamp": "2026-11-23T12:01:00Z",
    "labels": LABELS | {"dpojob.io/role": "host", "dpojob.io/slice": "2", "ray.io/replica-host-index": "1"},
    "annotations": {"dpojob.io/stop": "2026-11-23T12:00:05Z", "other": "x"},
    "ownerReferences": OWNERS,
    "managedFields": [{"manager": "kubelet"}],
}
NEW_HEAD = {k: v for k, v in META.items() if k != "deletionTimestamp"} | {
    "labels": LABELS | {"dpojob.io/role": "head"}
}
PODS = {
    "lost host": {
        "metadata": META,
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
            "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0}}}],
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
    },
    "head without a node": {
        "metadata": NEW_HEAD,
        "spec": {},
        "status": {
            "phase": "Pending",
            "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
            ],
        },
    },
    "head whose image is absent": {
        "metadata": NEW_HEAD,
        "spec": {"nodeName": "n"},
        "status": {
            "phase": "Pending",
            "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}}],
            "containerStatuses": [
                {"name": "ray", "state": {"waiting": {"reason": "ErrImagePull", "message": "y"}}}
            ],
        },
    },
    "host whose init container failed": {
        "metadata": META,
        "spec": {"nodeName": "n"},
        "status": {
            "phase": "Failed",
            "initContainerStatuses": [
                {
                    "name": "i",
                    "state": {
                        "terminated": {
                            "exitCode": 1,
                            "reason": "Error",
                            "message": "m",
                            "finishedAt": "2026-11-23T12:00:09Z",
                        }
                    },
                }
            ],
        },
    },
}
RAY_JOB = {
    "metadata": META | {"labels": LABELS | {"kueue.x-k8s.io/queue-name": "q"}},
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
    "metadata": META | {"labels": LABELS | {"ray.io/originated-from-cr-name": "j-a1"}},
    "status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "quota"}]},
}
CONFIG_MAP = {"metadata": META, "data": {constants.CONFIG_KEY: "{}", "other": "x"}}


class Spied(dict):
    """A JSON object that notes the path of every field that is asked of it, whether it is there or not."""

    def __init__(self, body, asked, path=()):
        super().__init__({key: self._wrap(value, asked, (*path, key)) for key, value in body.items()})
        self.asked, self.path = asked, path

    def _wrap(self, value, asked, path):
        if isinstance(value, dict):
            return Spied(value, asked, path)
        if isinstance(value, list):
            return [self._wrap(item, asked, (*path, i)) for i, item in enumerate(value)]
        return value

    def get(self, key, default=None):
        self.asked.add((*self.path, key))
        return super().get(key, default)

    def __getitem__(self, key):
        self.asked.add((*self.path, key))
        return super().__getitem__(key)


def asked_of(read, body):
    """Return the paths that are asked of an object, lists without their indices, and those of them that it has."""
    asked = set()
    read(Spied(body, asked))
    plain = {tuple(part for part in path if isinstance(part, str)) for path in asked}
    return plain, {path for path in plain if has(body, path)}


def has(body, path):
    """Return whether an object has a path, in any item of the lists on the way."""
    if isinstance(body, list):
        return any(has(item, path) for item in body)
    return not path or (isinstance(body, dict) and path[0] in body and has(body[path[0]], path[1:]))


def read_pod(body):
    return parse.pod(body), parse.controller_uid(body), observe.attempt_of(body), kube.key_of(body)


def read_cluster(body):
    return parse.ray_cluster(body), observe.is_ours(b.make_job(), body), kube.key_of(body)


def read_config_map(body):
    return parse.config_map(body), kube.key_of(body)


def read_ray_job(body):
    return parse.ray_job(body), observe.attempt_of(body), kube.key_of(body)


READ = {
    "pod": (pruned.pod, read_pod, list(PODS.values())),
    "ray_job": (pruned.ray_job, read_ray_job, [RAY_JOB]),
    "ray_cluster": (pruned.ray_cluster, read_cluster, [CLUSTER]),
    "config_map": (pruned.config_map, read_config_map, [CONFIG_MAP]),
}


@pytest.mark.parametrize("kind", READ)
def test_pruned_objects_are_read_like_whole_ones(kind):
    prune, read, bodies = READ[kind]
    for body in bodies:
        assert read(prune(body)) == read(body)
        assert prune(prune(body)) == prune(body)


@pytest.mark.parametrize("kind", READ)
def test_every_field_that_is_read_is_in_an_object_above(kind):
    _, read, bodies = READ[kind]
    found = [asked_of(read, body) for body in bodies]
    asked, there = (set().union(*paths) for paths in zip(*found, strict=True))
    assert asked - there == set()


def test_job_is_read_like_a_whole_one():
    body = {"apiVersion": "dpojob.io/v1alpha1", "kind": "DPOJob", "metadata": META}
    body |= {"spec": b.make_job().model_dump(mode="json", by_alias=True, exclude_none=True)["spec"]}
    body["status"] = {"summary": "Running", "startTime": "2026-11-23T12:00:00Z"}
    kept = pruned.job(body)
    # The store puts the version back.
    kept = kept | {"metadata": kept["metadata"] | {"resourceVersion": META["resourceVersion"]}}
    assert DPOJob.from_wire(kept) == DPOJob.from_wire(body)


def test_what_takes_the_room_is_left_out():
    assert len(str(pruned.ray_job(RAY_JOB))) < len(str(RAY_JOB)) / 2
    assert "managedFields" not in pruned.pod(PODS["lost host"])["metadata"]
