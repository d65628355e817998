"""The real KubeRay is away while a job is created, and comes back; the pods never start (see conftest)."""

from collections.abc import Callable, Iterator

import pytest
from kubernetes import client

from tests.integration.world import World

KUBERAY = ("kuberay-operator", "kuberay-system")
SECONDS_TO_SCALE = 120


@pytest.fixture
def scale_kuberay(api: client.ApiClient, world: World) -> Iterator[Callable[[int], None]]:
    """A function that scales KubeRay's deployment and waits until it is so; afterwards it is as it was."""
    apps = client.AppsV1Api(api)
    before = apps.read_namespaced_deployment_scale(*KUBERAY).spec.replicas

    def scale(replicas: int) -> None:
        apps.patch_namespaced_deployment_scale(*KUBERAY, {"spec": {"replicas": replicas}})

        def is_so() -> bool:
            status = apps.read_namespaced_deployment(*KUBERAY).status
            return (status.replicas or 0, status.available_replicas or 0) == (replicas, replicas)

        world.wait(f"KubeRay with {replicas} replicas", is_so, SECONDS_TO_SCALE)

    yield scale
    scale(before)


def test_job_created_while_kuberay_is_away_starts_when_it_is_back(
    world: World, job: str, scale_kuberay: Callable[[int], None]
) -> None:
    scale_kuberay(0)
    world.start(job)
    world.wait("the RayJob", lambda: world.find("rayjobs", f"{job}-a1"))
    created = world.wait_reason(job, "Reconciling", "AttemptCreated")
    assert f"{job}-a1" in created["message"]
    assert world.of_job("rayclusters", job) == []
    scale_kuberay(1)
    # KubeRay has a lease to win first.
    world.wait("pods", lambda: len(world.of_job("pods", job)) == 3, 120)
    world.wait_reason(job, "Reconciling", "WaitingForPods", 60)
    assert [r["metadata"]["name"] for r in world.of_job("rayjobs", job)] == [f"{job}-a1"]


def test_job_deleted_while_kuberay_is_away_leaves_nothing_when_it_is_back(
    world: World, job: str, scale_kuberay: Callable[[int], None]
) -> None:
    world.start(job)
    world.wait_pods(job, 3)
    scale_kuberay(0)
    world.delete("dpojobs", job)
    world.wait("no DPOJob", lambda: world.find("dpojobs", job) is None)
    scale_kuberay(1)
    for plural in ("rayjobs", "rayclusters", "pods", "configmaps"):
        world.wait_gone(plural, job, 180)
