"""The data's Job and the queue label on a real API server with a real Job controller and KubeRay; the pods never start
(see conftest). What needs a trainer that examines data is in tests/e2e.
"""

import time

from dpojob_api.reasons import TrainerReason
from dpojob_api.result import TrainerResult
from dpojob_api.status import PlanVerdict
from dpojob_operator.cache import QUOTA_SECONDS
from tests.integration.world import Object, World

PREFLIGHT: Object = {"dataset": {"gate": {"preflight": True}}}
# No kubelet sees the pod, so that its end can be played.
REQUIRE: Object = {
    "plan": {"enforce": "Require"},
    "runtime": {"head": {"nodeSelector": {"dpojob.test/nowhere": "true"}}},
}
SECONDS_WITHOUT_RAYJOB = 15


def test_restricted_namespace_admits_the_jobs_pod_and_nothing_asks_for_a_slice(
    world: World, job: str
) -> None:
    created = world.start(job, PREFLIGHT)
    world.wait_reason(job, "Reconciling", "CheckingData")

    def words() -> str | None:
        message = (world.condition(job, "Reconciling") or {}).get("message", "")
        return message if "ErrImageNeverPull" in message else None

    assert world.wait("the kubelet's words", words, 60).startswith(f"Job {job}-check waits")
    check = world.find("jobs", f"{job}-check")
    assert check is not None
    (owner,) = check["metadata"]["ownerReferences"]
    assert owner["uid"] == created["metadata"]["uid"]
    time.sleep(SECONDS_WITHOUT_RAYJOB)
    assert world.find("rayjobs", f"{job}-a1") is None
    assert world.of_job("pods", job) == []
    assert world.status(job)["summary"] == "Checking"
    assert "attempts" not in world.status(job) or world.status(job)["attempts"] == []


def test_deleted_check_comes_back(world: World, job: str) -> None:
    world.start(job, PREFLIGHT)
    before = world.wait("the Job", lambda: world.find("jobs", f"{job}-check"))
    world.request("DELETE", world.path("jobs", f"{job}-check"), {"propagationPolicy": "Background"})

    def other() -> bool:
        found = world.find("jobs", f"{job}-check")
        return found is not None and found["metadata"]["uid"] != before["metadata"]["uid"]

    world.wait("another Job", other, 60)


def test_job_is_gone_with_its_dpojob(world: World, job: str) -> None:
    world.start(job, PREFLIGHT)
    world.wait("the Job", lambda: world.find("jobs", f"{job}-check"))
    world.delete("dpojobs", job)
    world.wait("no Job", lambda: world.find("jobs", f"{job}-check") is None, 60)


def test_queue_label_does_nothing_where_there_is_no_kueue(world: World, job: str) -> None:
    world.start(job, labels={"kueue.x-k8s.io/queue-name": "tpu"})
    world.wait_reason(job, "Reconciling", "WaitingForPods")
    ray_job = world.find("rayjobs", f"{job}-a1")
    assert ray_job is not None
    assert ray_job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "tpu"
    assert not ray_job["spec"].get("suspend")
    assert world.condition(job, "Queued") is None


def test_quota_that_is_smaller_than_the_slice_is_told_until_it_is_raised(world: World, job: str) -> None:
    quota: Object = {"metadata": {"name": job}, "spec": {"hard": {"requests.google.com/tpu": "4"}}}
    world.create("resourcequotas", quota)
    # So old may be what the operator knows of the namespace's quotas, by the test before this one.
    time.sleep(QUOTA_SECONDS)
    try:
        world.start(job)
        stalled = world.wait_reason(job, "Stalled", "QuotaTooSmall")
        assert "allows 4 of requests.google.com/tpu, and an attempt needs 8" in stalled["message"]
        assert world.find("rayjobs", f"{job}-a1") is None
        world.patch("resourcequotas", job, {"spec": {"hard": {"requests.google.com/tpu": "8"}}})
        world.wait_reason(job, "Reconciling", "WaitingForPods", 60)
    finally:
        world.delete("resourcequotas", job)


def test_second_job_of_a_folder_waits_until_the_first_is_deleted(world: World, job: str) -> None:
    other = f"{job}-too"
    uri = {"output": {"uri": f"gs://bucket/{job}"}}
    world.start(job, {"suspend": True, **uri})
    world.wait_reason(job, "Suspended", "Suspended")
    # Kubernetes keeps creation times in whole seconds.
    time.sleep(1)
    try:
        world.start(other, uri)
        stalled = world.wait_reason(other, "Stalled", "OutputShared")
        assert f"DPOJob {world.namespace}/{job}, which is older" in stalled["message"]
        world.delete("dpojobs", job)
        world.wait_reason(other, "Reconciling", "WaitingForPods", 60)
    finally:
        world.delete("dpojobs", other)


def test_plan_comes_before_the_slice_and_its_verdict_holds_the_job_until_that_is_edited(
    world: World, job: str
) -> None:
    """The Job and its pod are real, but the pod finds no node: the trainer's last word is played."""
    world.start(job, REQUIRE)
    world.wait_reason(job, "Reconciling", "Planning")
    planner = world.wait("the Job", lambda: world.find("jobs", f"{job}-plan"))
    assert planner["metadata"]["ownerReferences"][0]["kind"] == "DPOJob"
    assert planner["spec"]["backoffLimit"] == 0
    pod = world.wait("its pod", lambda: pod_of(world, job))
    leave_word(world, pod)
    stalled = world.wait_reason(job, "Stalled", "DoesNotFitHBM", 60)
    assert "spec.mesh.fsdp: 8" in stalled["message"]
    assert world.status(job)["plan"]["fix"] == "spec.mesh.fsdp: 8"
    assert world.find("rayjobs", f"{job}-a1") is None
    assert world.of_job("pods", job) == []
    world.patch("dpojobs", job, {"spec": {"plan": {"enforce": "Warn"}}})
    world.wait_reason(job, "Reconciling", "WaitingForPods", 60)
    assert (world.condition(job, "FitsHBM") or {})["status"] == "False"


def pod_of(world: World, job: str) -> Object | None:
    """Return the pod that plans a job."""
    selector = f"?labelSelector=dpojob.io%2Fplan%3D{job}"
    found = world.request("GET", world.path("pods") + selector)["items"]
    return found[0] if found else None


def leave_word(world: World, pod: Object) -> None:
    """Let a pod have ended with the trainer's word, since none can run here."""
    verdict = PlanVerdict(fits=False, peak_bytes=40, usable_bytes=30, fix="spec.mesh.fsdp: 8")
    words = "The job does not fit. Smallest change tried that fits: spec.mesh.fsdp: 8."
    line = TrainerResult(reason=TrainerReason.SUCCEEDED, message=words, plan=verdict).to_line()
    ended = {"exitCode": 0, "reason": "Completed", "message": line, "containerID": "played://1"}
    container = {"name": "plan", "image": "played", "imageID": "", "ready": False, "restartCount": 0}
    status = {"phase": "Succeeded", "containerStatuses": [container | {"state": {"terminated": ended}}]}
    path = world.path("pods", pod["metadata"]["name"]) + "/status"
    world.request("PATCH", path, {"status": status}, patch=True)
