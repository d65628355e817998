"""``dataset.gate.preflight`` and guards on real pods: data is judged by the real trainer before any host is asked for."""

from hack.demo.follow import Status, condition, is_true

from tests.e2e.cluster import Namespace, reason, step
from tests.e2e.inputs import PAIRS, single_host_job
from tests.e2e.marks import ON_SINGLE_HOSTS, RUN_SECONDS

pytestmark = ON_SINGLE_HOSTS

CHECK_SECONDS = 180.0


def dataset(**gate: object) -> dict[str, object]:
    """Return the data with a gate that is held before the slice."""
    columns = {"prompt": "prompt"}
    return {"uri": "pvc://dpo-inputs/pairs.jsonl", "columns": columns, "gate": {"preflight": True} | gate}


def has_ended(status: Status) -> bool:
    """Return whether a job has ended."""
    return is_true(status, "Complete") or is_true(status, "Failed")


def test_refused_data_ends_the_job_without_a_rayjob(namespace: Namespace) -> None:
    namespace.apply(single_host_job("refused", dataset=dataset(minPairs=PAIRS * 2)))
    status = namespace.wait("refused", "Failed", has_ended, CHECK_SECONDS)
    assert reason(status, "Failed") == reason(status, "DataValid") == "DataInvalid"
    assert "minPairs" in (condition(status, "Failed") or {})["message"]
    assert status.get("attempts", []) == []
    assert namespace.list("rayjobs,rayclusters", "dpojob.io/job=refused") == []


def test_accepted_data_is_counted_before_the_attempt_and_deleting_the_running_job_leaves_nothing(
    namespace: Namespace,
) -> None:
    training = {"maxSteps": 5000, "globalBatchSize": 8, "learningRate": 1e-3, "checkpointSteps": 1000}
    namespace.apply(single_host_job("accepted", dataset=dataset(), training=training))

    def counted(status: Status) -> bool:
        return is_true(status, "DataValid")

    status = namespace.wait("accepted", "DataValid", counted, CHECK_SECONDS)
    valid = condition(status, "DataValid") or {}
    assert valid["message"].startswith(f"{PAIRS} pairs: {PAIRS} train")
    status = namespace.wait("accepted", "attempt 1", lambda s: s.get("attempt") == 1, 60)
    assert valid["lastTransitionTime"] <= status["attempts"][0]["startTime"]
    namespace.wait("accepted", "step 1", lambda s: step(s) >= 1, RUN_SECONDS)
    namespace.run("delete", "dpojob", "accepted", "--wait=true", "--timeout=60s")
    namespace.wait_gone("accepted", 120)


def test_guard_that_is_broken_rolls_back_once_and_then_fails(namespace: Namespace) -> None:
    # No float32 weight moves by so little: policy and reference stay equal, and no reward is above another.
    rule = {"minimum": 0.5, "afterSteps": 0, "action": "RollbackAndReduceLR"}
    training = {"maxSteps": 5000, "globalBatchSize": 8, "learningRate": 1e-30, "checkpointSteps": 10}
    namespace.apply(single_host_job("guarded", training=training, guards={"rewardAccuracy": rule}))
    status = namespace.wait("guarded", "Failed", has_ended, RUN_SECONDS)
    assert reason(status, "Failed") == "RewardAccuracyLow"
    first, second = status["attempts"]
    assert (first["outcome"], first["reason"]) == ("Failed", "RewardAccuracyLow")
    assert second["fromStep"] % 10 == 0
    assert status["guards"]["rollback"] == {"afterAttempt": 1, "learningRateFactor": 0.5}
