"""The operator's behaviour on a real API server with a real KubeRay; the pods never start (see conftest)."""

import time

from tests.integration.conftest import Operator
from tests.integration.world import World

SECONDS_LEFT_ALONE = 15


def test_attempt_is_created_with_owner_and_labels(world: World, job: str) -> None:
    created = world.start(job, labels={"kueue.x-k8s.io/priority-class": "low"})
    waiting = world.wait_reason(job, "Reconciling", "WaitingForPods")
    owner = {
        "apiVersion": "dpojob.io/v1alpha1",
        "kind": "DPOJob",
        "name": job,
        "uid": created["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    ray_job, config_map = world.find("rayjobs", f"{job}-a1"), world.find("configmaps", f"{job}-a1")
    assert ray_job is not None
    assert config_map is not None
    for child in (ray_job, config_map):
        assert child["metadata"]["ownerReferences"] == [owner]
        assert child["metadata"]["labels"]["dpojob.io/job"] == job
        assert child["metadata"]["labels"]["dpojob.io/attempt"] == "1"
    assert ray_job["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "low"
    assert waiting["observedGeneration"] == created["metadata"]["generation"]


def test_restricted_namespace_admits_the_pods_and_their_words_are_repeated(world: World, job: str) -> None:
    world.start(job)
    pods = world.wait_pods(job, 3)
    assert sorted(pod["metadata"]["labels"]["dpojob.io/role"] for pod in pods) == ["head", "host", "host"]
    hosts = [pod for pod in pods if pod["metadata"]["labels"]["dpojob.io/role"] == "host"]
    assert sorted(h["metadata"]["labels"]["ray.io/replica-host-index"] for h in hosts) == ["0", "1"]

    def words() -> str | None:
        message = (world.condition(job, "Reconciling") or {}).get("message", "")
        return message if "ErrImageNeverPull" in message and "2 hosts: Unschedulable" in message else None

    assert world.wait("both complaints", words).startswith("0 of 3 pods run; head: ErrImageNeverPull")


def test_status_tells_plan_attempt_and_summary(world: World, job: str) -> None:
    world.start(job)
    world.wait_reason(job, "Reconciling", "WaitingForPods")
    status = world.status(job)
    assert (status["summary"], status["attempt"], status["observedGeneration"]) == ("Starting", 1, 1)
    assert (status["plan"]["chips"], status["plan"]["hosts"], status["plan"]["mesh"]["fsdp"]) == (8, 2, 8)
    assert [(a["number"], a["rayJob"], a["outcome"]) for a in status["attempts"]] == [
        (1, f"{job}-a1", "Active")
    ]
    truths = {c["type"]: c["status"] for c in status["conditions"]}
    assert truths == {"Complete": "False", "Failed": "False", "Running": "False", "Reconciling": "True"}


def test_operator_leaves_no_finalizer_and_no_annotation(world: World, job: str) -> None:
    world.start(job)
    world.wait_reason(job, "Reconciling", "WaitingForPods")
    found = world.find("dpojobs", job)
    assert found is not None
    assert "finalizers" not in found["metadata"]
    assert "annotations" not in found["metadata"]


def test_deleted_config_map_comes_back(world: World, job: str) -> None:
    world.start(job)
    before = world.wait("the ConfigMap", lambda: world.find("configmaps", f"{job}-a1"))
    world.wait_reason(job, "Reconciling", "WaitingForPods")
    world.delete("configmaps", f"{job}-a1")
    after = world.wait("the ConfigMap again", lambda: world.find("configmaps", f"{job}-a1"))
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after["data"] == before["data"]


def test_edited_config_map_is_put_right(world: World, job: str) -> None:
    world.start(job)
    world.wait_reason(job, "Reconciling", "WaitingForPods")
    before = world.find("configmaps", f"{job}-a1")
    assert before is not None
    world.patch("configmaps", f"{job}-a1", {"data": {"trainer.json": "{}"}})

    def restored() -> bool:
        return (world.find("configmaps", f"{job}-a1") or {}).get("data") == before["data"]

    world.wait("the right ConfigMap", restored)


def test_deleted_rayjob_leads_to_the_next_attempt(world: World, job: str) -> None:
    world.start(job)
    world.wait_pods(job, 3)
    world.delete("rayjobs", f"{job}-a1")
    world.wait("attempt 2", lambda: world.find("rayjobs", f"{job}-a2"), 60)
    status = world.wait(
        "its status", lambda: world.status(job) if world.status(job).get("attempt") == 2 else None
    )
    assert [(a["number"], a["outcome"], a.get("reason")) for a in status["attempts"]] == [
        (1, "Lost", "AttemptLost"),
        (2, "Active", None),
    ]
    clusters = world.of_job("rayclusters", job)
    assert all(c["metadata"]["labels"]["dpojob.io/attempt"] == "2" for c in clusters)


def test_orphaned_cluster_of_a_lost_attempt_is_removed_first(world: World, job: str) -> None:
    world.start(job)
    world.wait_pods(job, 3)
    cluster = world.of_job("rayclusters", job)[0]["metadata"]["name"]
    world.request("DELETE", world.path("rayjobs", f"{job}-a1"), {"propagationPolicy": "Orphan"})
    world.wait("attempt 2", lambda: world.find("rayjobs", f"{job}-a2"), 60)
    assert world.find("rayclusters", cluster) is None


def test_missing_secret_stalls_until_it_is_there(world: World, job: str) -> None:
    secret = f"{job}-token"
    world.start(job, {"credentials": {"huggingFace": {"name": secret, "key": "token"}}})
    stalled = world.wait_reason(job, "Stalled", "SecretNotFound")
    assert secret in stalled["message"]
    assert "spec.credentials.huggingFace" in stalled["message"]
    assert world.of_job("rayjobs", job) == []
    body = {"metadata": {"name": secret}, "stringData": {"wrong": "hf_not_in_any_message"}}
    world.create("secrets", body)
    world.wait_reason(job, "Stalled", "SecretKeyNotFound")
    world.patch("secrets", secret, {"stringData": {"token": "hf_not_in_any_message"}})
    world.wait_reason(job, "Reconciling", "WaitingForPods")
    assert world.condition(job, "Stalled") is None
    everything = str(world.find("dpojobs", job)) + str(world.find("rayjobs", f"{job}-a1"))
    assert "hf_not_in_any_message" not in everything


def test_missing_claim_and_service_account_stall(world: World, job: str) -> None:
    world.start(
        job, {"output": {"uri": f"pvc://{job}-out/run"}, "runtime": {"serviceAccountName": f"{job}-sa"}}
    )
    world.wait_reason(job, "Stalled", "ServiceAccountNotFound")
    world.create("serviceaccounts", {"metadata": {"name": f"{job}-sa"}})
    world.wait_reason(job, "Stalled", "ClaimNotFound")
    claim = {
        "metadata": {"name": f"{job}-out"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }
    world.create("persistentvolumeclaims", claim)
    world.wait("the RayJob", lambda: world.find("rayjobs", f"{job}-a1"))


def test_foreign_rayjob_with_the_attempts_name_stalls(world: World, job: str) -> None:
    foreign = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": f"{job}-a1"},
        "spec": {"suspend": True, "shutdownAfterJobFinishes": True, "rayClusterSpec": FOREIGN_CLUSTER},
    }
    world.create("rayjobs", foreign)
    world.start(job)
    stalled = world.wait_reason(job, "Stalled", "NameConflict")
    assert f"{job}-a1" in stalled["message"]
    world.delete("rayjobs", f"{job}-a1")
    world.wait_reason(job, "Reconciling", "WaitingForPods", 60)


FOREIGN_CLUSTER = {
    "headGroupSpec": {
        "rayStartParams": {},
        "template": {"spec": {"containers": [{"name": "ray-head", "image": "localhost/absent:none"}]}},
    }
}


def test_startup_deadline_fails_the_job_with_the_pods_words_and_then_it_is_left_alone(
    world: World, job: str
) -> None:
    world.start(job, {"runtime": {"startupDeadlineSeconds": 60}})
    failed = world.wait_reason(job, "Failed", "StartupDeadlineExceeded", 120)
    assert "ErrImageNeverPull" in failed["message"]
    assert "Unschedulable" in failed["message"]
    status = world.status(job)
    assert (status["summary"], status["attempts"][0]["outcome"]) == ("Failed", "Failed")
    assert status["completionTime"]
    world.wait_gone("rayclusters", job)
    world.wait_gone("pods", job)
    version = (world.find("dpojobs", job) or {})["metadata"]["resourceVersion"]
    world.delete("rayjobs", f"{job}-a1")
    world.delete("configmaps", f"{job}-a1")
    time.sleep(SECONDS_LEFT_ALONE)
    assert world.of_job("rayjobs", job) == []
    assert world.of_job("configmaps", job) == []
    assert (world.find("dpojobs", job) or {})["metadata"]["resourceVersion"] == version


def test_events_are_written_once_per_transition(world: World, job: str) -> None:
    world.start(job)
    world.wait_reason(job, "Reconciling", "WaitingForPods")
    time.sleep(SECONDS_LEFT_ALONE)
    events = world.request("GET", world.path("events"))["items"]
    ours = [e["reason"] for e in events if e["involvedObject"]["name"] == job]
    assert sorted(ours) == ["AttemptCreated", "WaitingForPods"]


def test_deletion_leaves_nothing_behind(world: World, job: str) -> None:
    world.start(job)
    world.wait_pods(job, 3)
    world.delete("dpojobs", job)
    for plural in ("rayjobs", "rayclusters", "pods", "configmaps"):
        world.wait_gone(plural, job)
    assert world.find("dpojobs", job) is None


def test_same_name_can_be_used_again_at_once(world: World, job: str) -> None:
    first = world.start(job)
    world.wait_pods(job, 3)
    world.delete("dpojobs", job)
    second = world.start(job)
    assert second["metadata"]["uid"] != first["metadata"]["uid"]

    def owner() -> str | None:
        found = world.find("rayjobs", f"{job}-a1")
        return found["metadata"]["ownerReferences"][0]["uid"] if found else None

    world.wait("a RayJob of the second job", lambda: owner() == second["metadata"]["uid"], 60)


def test_what_happens_while_the_operator_is_away_is_seen_afterwards(
    world: World, job: str, operator: Operator
) -> None:
    world.start(job)
    world.wait_pods(job, 3)
    assert operator.stop() == 0
    try:
        world.delete("rayjobs", f"{job}-a1")
        world.wait_gone("rayjobs", job)
    finally:
        operator.start()
    world.wait("attempt 2", lambda: world.find("rayjobs", f"{job}-a2"), 60)
    assert world.status(job)["attempts"][0]["outcome"] == "Lost"
