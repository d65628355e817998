"""Retries, suspension and limits on a real API server with a real KubeRay; the pods never start (see conftest).

What needs a trainer that runs and saves is in tests/e2e.
"""

import pytest
from kubernetes.client.exceptions import ApiException

from tests.integration.conftest import Operator
from tests.integration.world import Object, World

# With the head on a node that nobody has, nothing but capacity is missing.
NO_NODE: Object = {"head": {"nodeSelector": {"dpojob.io/no-such-node": "here"}}}


def attempts(world: World, job: str) -> list[Object]:
    """Return the attempts in a job's status."""
    found: list[Object] = world.status(job).get("attempts", [])
    return found


def wait_attempt(world: World, job: str, number: int, seconds: float = 60) -> None:
    """Wait until the status tells of an attempt and its RayJob exists."""
    world.wait(f"attempt {number}", lambda: world.status(job).get("attempt") == number, seconds)
    assert world.find("rayjobs", f"{job}-a{number}") is not None


def assert_nothing_held(world: World, job: str) -> None:
    """Check that nothing of a job could hold a slice."""
    for plural in ("rayjobs", "rayclusters", "pods"):
        assert world.of_job(plural, job) == [], plural


def test_suspended_job_holds_nothing_and_goes_on_with_the_next_attempt(world: World, job: str) -> None:
    world.start(job)
    world.wait_pods(job, 3)
    world.patch("dpojobs", job, {"spec": {"suspend": True}})
    suspended = world.wait_reason(job, "Suspended", "Suspended", 120)
    assert "set it to false" in suspended["message"]
    assert_nothing_held(world, job)
    assert world.status(job)["summary"] == "Suspended"
    assert [(a["number"], a["outcome"], a["reason"]) for a in attempts(world, job)] == [
        (1, "Stopped", "Suspended")
    ]
    world.patch("dpojobs", job, {"spec": {"suspend": False}})
    wait_attempt(world, job, 2)
    assert world.condition(job, "Suspended") is None
    status = world.status(job)
    assert [a["outcome"] for a in status["attempts"]] == ["Stopped", "Active"]
    assert "retries" not in status
    assert world.find("rayjobs", f"{job}-a1") is None


def test_job_that_is_created_suspended_asks_for_nothing(world: World, job: str) -> None:
    world.start(job, {"suspend": True})
    world.wait_reason(job, "Suspended", "Suspended")
    assert_nothing_held(world, job)
    assert world.of_job("configmaps", job) == []
    world.patch("dpojobs", job, {"spec": {"suspend": False}})
    wait_attempt(world, job, 1)


def test_change_of_mind_leads_to_the_next_attempt_not_to_the_same_one(world: World, job: str) -> None:
    world.start(job)
    world.wait_pods(job, 3)
    world.patch("dpojobs", job, {"spec": {"suspend": True}})

    def asked_to_stop() -> bool:
        ray_job = world.find("rayjobs", f"{job}-a1")
        return ray_job is None or "dpojob.io/stop" in ray_job["metadata"].get("annotations", {})

    world.wait("the RayJob is asked to stop", asked_to_stop)
    world.patch("dpojobs", job, {"spec": {"suspend": False}})
    wait_attempt(world, job, 2, 120)
    assert [a["outcome"] for a in attempts(world, job)] == ["Stopped", "Active"]


def test_suspension_while_the_operator_is_away_is_seen_afterwards(
    world: World, job: str, operator: Operator
) -> None:
    world.start(job)
    world.wait_pods(job, 3)
    assert operator.stop() == 0
    try:
        world.patch("dpojobs", job, {"spec": {"suspend": True}})
    finally:
        operator.start()
    world.wait_reason(job, "Suspended", "Suspended", 120)
    assert_nothing_held(world, job)


def test_capacity_is_waited_for_in_another_attempt_and_the_schedulers_words_are_kept(
    world: World, job: str
) -> None:
    policy = {"capacity": {"maxRetries": 1, "backoffSeconds": 2}}
    world.start(job, {"runtime": {"startupDeadlineSeconds": 60, **NO_NODE}, "retryPolicy": policy})
    world.wait_pods(job, 3)
    clusters = [c["metadata"]["name"] for c in world.of_job("rayclusters", job)]
    wait_attempt(world, job, 2, 150)
    assert not set(clusters) & {c["metadata"]["name"] for c in world.of_job("rayclusters", job)}
    first = attempts(world, job)[0]
    assert (first["outcome"], first["class"], first["reason"]) == (
        "Failed",
        "Capacity",
        "StartupDeadlineExceeded",
    )
    assert "Unschedulable" in first["message"]
    assert world.status(job)["retries"]["capacity"] == 1
    failed = world.wait_reason(job, "Failed", "StartupDeadlineExceeded", 150)
    assert "All 1 retries of class Capacity are used" in failed["message"]
    world.wait_gone("pods", job)


def test_backoff_says_why_and_when_and_an_edit_counts_at_once(world: World, job: str) -> None:
    world.start(job, {"retryPolicy": {"infrastructure": {"backoffSeconds": 3000, "maxBackoffSeconds": 3000}}})
    world.wait_pods(job, 3)
    world.delete("rayjobs", f"{job}-a1")

    def told() -> str | None:
        condition = world.condition(job, "Reconciling") or {}
        message: str = condition.get("message", "")
        return message if condition.get("reason") == "BackingOff" and "starts at 20" in message else None

    message = world.wait("the time of the next attempt", told, 90)
    assert "Attempt 1 ended as AttemptLost (Infrastructure)" in message
    assert world.status(job)["summary"] == "Retrying"
    assert_nothing_held(world, job)
    world.patch("dpojobs", job, {"spec": {"retryPolicy": {"infrastructure": {"backoffSeconds": 0}}}})
    wait_attempt(world, job, 2, 30)


def test_without_retries_the_first_end_is_the_last(world: World, job: str) -> None:
    world.start(job, {"retryPolicy": {"infrastructure": {"maxRetries": 0}}})
    world.wait_pods(job, 3)
    world.delete("rayjobs", f"{job}-a1")
    world.wait_reason(job, "Failed", "AttemptLost", 60)
    assert [a["outcome"] for a in attempts(world, job)] == ["Failed"]


def test_deadline_that_is_set_later_stops_the_job_and_then_it_is_deleted(world: World, job: str) -> None:
    world.start(job)
    world.wait_pods(job, 3)
    world.patch("dpojobs", job, {"spec": {"activeDeadlineSeconds": 1}})
    failed = world.wait_reason(job, "Failed", "DeadlineExceeded", 120)
    assert "spec.activeDeadlineSeconds" in failed["message"]
    world.wait_gone("rayclusters", job)
    world.wait_gone("pods", job)
    world.patch("dpojobs", job, {"spec": {"ttlSecondsAfterFinished": 1}})
    world.wait("the job is gone", lambda: world.find("dpojobs", job) is None, 60)
    world.wait_gone("rayjobs", job)
    world.wait_gone("configmaps", job)


def test_fixed_fields_stay_fixed_beside_an_edit(world: World, job: str) -> None:
    world.start(job, {"suspend": True})
    world.wait_reason(job, "Suspended", "Suspended")
    with pytest.raises(ApiException, match="create a new DPOJob"):
        world.patch("dpojobs", job, {"spec": {"suspend": False, "dpo": {"beta": 0.5}}})
    assert world.of_job("rayjobs", job) == []
