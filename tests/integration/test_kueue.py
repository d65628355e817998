"""Queueing with a real Kueue, which is there for this file only: two jobs, quota for one slice.

A Node that no kubelet stands behind takes the hosts of the eviction's test, since an eviction begins where a host had a
node; the test removes such pods as the kubelet would.
"""

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.client.exceptions import ApiException

from tests.integration.conftest import ROOT, Operator
from tests.integration.world import Object, World

KUEUE = "/apis/kueue.x-k8s.io/v1beta2"
CHIPS = 8
HELD = {"google.com/tpu": CHIPS, "cpu": 100, "memory": "1000Gi"}
SINGLE_HOST = {"accelerator": {"type": "v6e-8"}}
NODE_LABELS = {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
    "cloud.google.com/gke-tpu-topology": "2x4",
}


def cluster(*words: str) -> None:
    """Run a sub-command of the local cluster."""
    command = [ROOT / "hack/cluster/cluster", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def kueue(kubeconfig: Path, operator: Operator) -> Iterator[None]:
    """Kueue, gone afterwards."""
    cluster("kueue")
    yield
    cluster("kueue", "--remove")


class Queue:
    """A ClusterQueue with quota for one slice, and its LocalQueue in the world's namespace."""

    def __init__(self, world: World) -> None:
        self.name = f"q-{uuid.uuid4().hex[:6]}"
        self._world = world

    def create(self) -> None:
        """Create flavor, queues and a class of higher priority, all of one name."""
        quotas = [{"name": name, "nominalQuota": amount} for name, amount in HELD.items()]
        group = {"coveredResources": list(HELD), "flavors": [{"name": self.name, "resources": quotas}]}
        spec: Object = {
            "namespaceSelector": {},
            "resourceGroups": [group],
            "preemption": {"withinClusterQueue": "LowerPriority"},
        }
        self._make("resourceflavors", "ResourceFlavor", spec={})
        self._make("clusterqueues", "ClusterQueue", spec=spec)
        self._make("workloadpriorityclasses", "WorkloadPriorityClass", value=100)
        body = self._body("LocalQueue", spec={"clusterQueue": self.name})
        self._world.create("localqueues", body)

    def remove(self) -> None:
        """Delete all of it; Kueue's finalizers let them go when no job is left."""
        self._world.delete("localqueues", self.name)
        for plural in ("clusterqueues", "workloadpriorityclasses", "resourceflavors"):
            self._world.request("DELETE", f"{KUEUE}/{plural}/{self.name}")

    def stop(self, policy: str) -> None:
        """Set the ClusterQueue's stop policy: HoldAndDrain evicts what it has admitted."""
        patch = {"spec": {"stopPolicy": policy}}
        self._world.request("PATCH", f"{KUEUE}/clusterqueues/{self.name}", patch, patch=True)

    def _make(self, plural: str, kind: str, **fields: object) -> None:
        self._world.request("POST", f"{KUEUE}/{plural}", self._body(kind, **fields))

    def _body(self, kind: str, **fields: object) -> Object:
        meta = {"name": self.name}
        return {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": kind, "metadata": meta, **fields}


@pytest.fixture
def queue(kueue: None, world: World) -> Iterator[Queue]:
    """A queue of the test's own."""
    queue = Queue(world)
    queue.create()
    yield queue
    queue.remove()


@pytest.fixture
def other(world: World, operator: Operator) -> Iterator[str]:
    """The name of a second job; it is deleted afterwards."""
    name = f"t-{uuid.uuid4().hex[:6]}"
    yield name
    world.delete("dpojobs", name)


@pytest.fixture
def node(world: World) -> Iterator[str]:
    """A Node with the chips of one host, tainted so that nothing else goes there."""
    name = f"host-{uuid.uuid4().hex[:6]}"
    taint = {"key": "google.com/tpu", "value": "present", "effect": "NoSchedule"}
    body = {"metadata": {"name": name, "labels": NODE_LABELS}, "spec": {"taints": [taint]}}
    world.request("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", **body})
    room = {"cpu": "4", "memory": "16Gi", "pods": "10", "google.com/tpu": str(CHIPS)}
    ready = {"type": "Ready", "status": "True", "reason": "Test", "message": "no kubelet"}
    status = {"capacity": room, "allocatable": room, "conditions": [ready]}
    world.request("PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, patch=True)
    yield name
    world.request("DELETE", f"/api/v1/nodes/{name}")


def labels(queue: Queue, **more: str) -> dict[str, str]:
    """Return Kueue's labels of a job."""
    return {"kueue.x-k8s.io/queue-name": queue.name, **more}


def wait_queued(world: World, job: str, words: str, seconds: float = 90) -> None:
    """Wait until a job is queued and says so in some words."""

    def told() -> bool:
        condition = world.condition(job, "Queued")
        return condition is not None and words in condition["message"]

    world.wait(f"{job} is queued: {words}", told, seconds)
    assert world.status(job)["summary"] == "Queued"


def in_line(world: World, job: str, other: str) -> tuple[str, str] | None:
    """Return two jobs in the order of the positions they are told, once these are 1 and 2."""
    for first, second in ((job, other), (other, job)):
        told = [(world.condition(name, "Queued") or {}).get("message", "") for name in (first, second)]
        if "position 1:" in told[0] and "position 2:" in told[1]:
            return first, second
    return None


def workloads_of(world: World, ray_job: str) -> list[Object]:
    """Return the Workloads of a RayJob."""
    items: list[Object] = world.request("GET", world.path("workloads"))["items"]
    return [w for w in items if w["metadata"]["ownerReferences"][0]["name"] == ray_job]


def wait_admitted(world: World, job: str, attempt: int = 1) -> None:
    """Wait until an attempt has its quota and KubeRay makes its pods."""

    def started() -> bool:
        found = world.find("rayjobs", f"{job}-a{attempt}")
        return (
            found is not None and not found["spec"].get("suspend") and world.condition(job, "Queued") is None
        )

    world.wait(f"attempt {attempt} of {job} is admitted", started, 60)
    world.wait_reason(job, "Reconciling", "WaitingForPods", 60)


def test_second_job_waits_with_kueues_words_until_the_first_is_gone(
    world: World, queue: Queue, job: str, other: str
) -> None:
    world.start(job, labels=labels(queue))
    wait_admitted(world, job)
    world.start(other, labels=labels(queue))
    wait_queued(
        world, other, f"Waiting in queue '{queue.name}', position 1: Pending: couldn't assign flavors"
    )
    assert "google.com/tpu" in (world.condition(other, "Queued") or {})["message"]
    assert world.of_job("pods", other) == []
    ledger = world.status(other)["ledger"]
    assert (ledger["activity"], ledger["chipHours"]) == ("queued", 0)
    world.delete("dpojobs", job)
    wait_admitted(world, other)
    world.wait("the first job's Workload is gone", lambda: not workloads_of(world, f"{job}-a1"), 60)
    assert [a["number"] for a in world.status(other)["attempts"]] == [1]


def test_deleted_queued_job_takes_its_workload_along_and_the_next_moves_up(
    world: World, queue: Queue, job: str, other: str
) -> None:
    """Kueue orders by creation in whole seconds: of two jobs made within one second, either may be first."""
    queue.stop("Hold")
    world.start(job, labels=labels(queue))
    world.start(other, labels=labels(queue))
    first, second = world.wait("the jobs have their positions", lambda: in_line(world, job, other), 90)
    assert len(workloads_of(world, f"{first}-a1")) == 1
    world.delete("dpojobs", first)
    world.wait("no Workload", lambda: not workloads_of(world, f"{first}-a1"), 60)
    assert world.find("rayjobs", f"{first}-a1") is None
    wait_queued(world, second, "position 1")


def test_eviction_ends_the_attempt_without_a_failure_and_the_next_one_queues(
    world: World, queue: Queue, job: str, node: str
) -> None:
    world.start(job, SINGLE_HOST, labels=labels(queue))

    def placed() -> bool:
        return any(pod["spec"].get("nodeName") == node for pod in world.of_job("pods", job))

    world.wait("the host has its node", placed, 60)
    world.wait("the operator knows", lambda: world.status(job)["attempts"][0].get("sliceTime"), 30)
    queue.stop("HoldAndDrain")
    world.wait_reason(job, "Reconciling", "EvictedByKueue", 60)

    def gone() -> bool:
        for pod in world.of_job("pods", job):
            if pod["spec"].get("nodeName") == node and pod["metadata"].get("deletionTimestamp"):
                remove_as_the_kubelet(world, pod["metadata"]["name"])
        return world.status(job).get("attempt") == 2

    world.wait("the next attempt", gone, 120)
    wait_queued(world, job, f"ClusterQueue {queue.name} is inactive")
    first, second = world.status(job)["attempts"]
    assert (first["outcome"], first["reason"], first.get("class")) == ("Stopped", "EvictedByKueue", None)
    assert "stopped" in first["message"]
    assert second["outcome"] == "Active"
    assert "retries" not in world.status(job)
    assert world.find("rayjobs", f"{job}-a1") is None
    queue.stop("None")
    wait_admitted(world, job, 2)
    world.delete("dpojobs", job)
    world.wait("no pods", lambda: remove_all(world, job, node), 60)


def remove_as_the_kubelet(world: World, pod: str) -> None:
    """Remove a pod at once, as the kubelet does when its containers have ended."""
    try:
        world.request("DELETE", world.path("pods", pod), {"gracePeriodSeconds": 0})
    except ApiException as error:
        if error.status != 404:
            raise


def remove_all(world: World, job: str, node: str) -> bool:
    """Remove what is left on a node and tell whether nothing is left of a job at all."""
    pods = world.of_job("pods", job)
    for pod in pods:
        if pod["spec"].get("nodeName") == node:
            remove_as_the_kubelet(world, pod["metadata"]["name"])
    return not pods


def test_job_of_higher_priority_takes_the_place_of_one_that_only_queues_again(
    world: World, queue: Queue, job: str, other: str
) -> None:
    world.start(job, labels=labels(queue))
    wait_admitted(world, job)
    urgent = {"kueue.x-k8s.io/priority-class": queue.name}
    world.start(other, labels=labels(queue) | urgent)
    wait_admitted(world, other)
    ray_job = world.find("rayjobs", f"{other}-a1")
    assert ray_job is not None
    assert ray_job["metadata"]["labels"].items() >= urgent.items()
    assert workloads_of(world, f"{other}-a1")[0]["spec"]["priority"] == 100
    wait_queued(world, job, "Preempted")
    assert [(a["number"], a["outcome"]) for a in world.status(job)["attempts"]] == [(1, "Active")]
    assert "retries" not in world.status(job)


def test_queue_that_does_not_exist_is_named(world: World, kueue: None, job: str) -> None:
    world.start(job, labels={"kueue.x-k8s.io/queue-name": "absent"})
    wait_queued(world, job, "LocalQueue absent doesn't exist")


def test_job_without_a_queue_does_not_notice(world: World, kueue: None, job: str) -> None:
    world.start(job)
    world.wait_pods(job, 3)
    ray_job = world.find("rayjobs", f"{job}-a1")
    assert ray_job is not None
    assert not ray_job["spec"].get("suspend")
    assert workloads_of(world, f"{job}-a1") == []
