"""A v4-16 as two host pods of four virtual CPU devices; KubeRay, operator, trainer image and EasyDeL are real."""

import json
import math
import time
from datetime import datetime

import pytest
from hack.demo.follow import Status, condition, is_true

from tests.e2e.cluster import Namespace, reason, step
from tests.e2e.inputs import PAIRS, job

pytestmark = [pytest.mark.cluster, pytest.mark.e2e, pytest.mark.timeout(900)]

RUN_SECONDS = 420.0
LONG_TRAINING = {"maxSteps": 5000, "globalBatchSize": 8, "learningRate": 1e-3, "checkpointSteps": 1000}


def children(namespace: Namespace, name: str) -> list[str]:
    """Return what is left of a job in the cluster."""
    found = namespace.list("rayjobs,rayclusters,configmaps,pods,services")
    own = [o for o in found if name in o["metadata"]["name"]]
    return [f"{o['kind']}/{o['metadata']['name']}" for o in own]


def until_gone(namespace: Namespace, name: str, seconds: float) -> None:
    """Wait until nothing of a job is left."""
    deadline = time.monotonic() + seconds
    while left := children(namespace, name):
        assert time.monotonic() < deadline, f"{seconds:.0f} s after deletion still there: {left}"
        time.sleep(1)


def check_ledger(status: Status) -> None:
    """Check that the ledger of a job with one attempt is its wall time times its eight chips."""
    ledger = status["ledger"]
    begun, ended = (
        datetime.fromisoformat(time)
        for time in (status["attempts"][0]["startTime"], status["completionTime"])
    )
    assert ledger["total"] == sum(ledger["chipSeconds"].values()) == (ended - begun).total_seconds() * 8
    assert "activity" not in ledger
    assert ledger["chipSeconds"]["starting"] > 0
    assert 0 <= ledger["goodput"] < 1


def test_apply_ends_in_a_tuned_exported_model(namespace: Namespace) -> None:
    namespace.apply(job("tiny"))
    status = namespace.wait("tiny", "Complete", lambda s: is_true(s, "Complete"), RUN_SECONDS)
    namespace.run("wait", "dpojob/tiny", "--for=condition=Complete", "--timeout=5s")

    assert status["plan"] | {"mesh": None} == {
        "acceleratorType": "v4-16",
        "topology": "2x2x2",
        "chips": 8,
        "hosts": 2,
        "chipsPerHost": 4,
        "mesh": None,
    }
    final = status["finalMetrics"]
    assert final["step"] == 12
    assert final["loss"] < math.log(2)
    assert final["evalRewardMargin"] > 0 and final["evalRewardAccuracy"] > 0.5
    assert [a["outcome"] for a in status["attempts"]] == ["Succeeded"]
    assert not is_true(status, "Failed") and not is_true(status, "Running")
    check_ledger(status)

    header, row = namespace.run("get", "dpojob", "tiny").splitlines()
    assert header.split() == ["NAME", "STATUS", "STEP", "LOSS", "ACC", "MARGIN", "ETA", "ATTEMPT", "AGE"]
    assert "12/12" in row and "Complete" in row

    lines = [
        json.loads(text) for text in (namespace.outputs / "tiny" / "metrics.jsonl").read_text().splitlines()
    ]
    losses = [entry["loss"] for entry in lines if "loss" in entry]
    assert abs(losses[0] - math.log(2)) < 1e-3
    assert (namespace.outputs / "tiny" / "summary.json").exists()


def test_exported_model_loads_in_transformers(namespace: Namespace) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = namespace.outputs / "tiny" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": f"question 1 of {PAIRS}"}], tokenize=False
    )
    assert model(**tokenizer(text, return_tensors="pt")).logits.isfinite().all()


def test_slice_is_released_once_the_job_is_complete(namespace: Namespace) -> None:
    deadline = time.monotonic() + 60
    while left := [p["metadata"]["name"] for p in namespace.list("pods", "dpojob.io/job=tiny")]:
        assert time.monotonic() < deadline, f"60 s after Complete these pods still hold the slice: {left}"
        time.sleep(1)


def test_loss_that_is_not_finite_ends_failed_with_the_reason(namespace: Namespace) -> None:
    namespace.apply(job("broken", model={"uri": "pvc://dpo-inputs/broken-model"}))
    status = namespace.wait("broken", "Failed", lambda s: is_true(s, "Failed"), RUN_SECONDS)
    assert reason(status, "Failed") == "NonFiniteLoss"
    message = (condition(status, "Failed") or {})["message"]
    assert "Traceback" not in message
    assert not (namespace.outputs / "broken" / "model").exists()


def test_wrong_column_ends_failed_with_the_columns_that_exist(namespace: Namespace) -> None:
    dataset = {"uri": "pvc://dpo-inputs/pairs.jsonl", "columns": {"prompt": "prompt", "chosen": "best"}}
    namespace.apply(job("columns", dataset=dataset))
    status = namespace.wait("columns", "Failed", lambda s: is_true(s, "Failed"), RUN_SECONDS)
    assert reason(status, "Failed") == "ColumnNotFound"
    assert "rejected" in (condition(status, "Failed") or {})["message"]


def kill_host(namespace: Namespace, name: str) -> None:
    """Take a host's pod away at once."""
    hosts = namespace.list("pods", f"dpojob.io/job={name},dpojob.io/role=host")
    namespace.run("delete", "pod", hosts[0]["metadata"]["name"], "--grace-period=0", "--force")


def trains_again(status: Status) -> bool:
    """Return whether a second attempt has begun to train."""
    attempts = status.get("attempts", [])
    return len(attempts) > 1 and attempts[1].get("fromStep") is not None


def test_killed_host_ends_failed_and_never_complete_without_retries(namespace: Namespace) -> None:
    policy = {"infrastructure": {"maxRetries": 0}}
    namespace.apply(job("killed", training=LONG_TRAINING, retryPolicy=policy))
    namespace.wait("killed", "step 3", lambda s: step(s) >= 3, RUN_SECONDS)
    kill_host(namespace, "killed")
    status = namespace.wait("killed", "Failed", lambda s: is_true(s, "Failed"), 240)
    assert reason(status, "Failed") == "HostLost"
    assert not is_true(status, "Complete")
    namespace.run("delete", "dpojob", "killed", "--wait=true", "--timeout=60s")


def test_killed_host_is_followed_by_an_attempt_that_goes_on_at_the_checkpoint(namespace: Namespace) -> None:
    training = LONG_TRAINING | {"checkpointSteps": 4}
    policy = {"infrastructure": {"backoffSeconds": 1}}
    namespace.apply(job("retried", training=training, retryPolicy=policy))
    namespace.wait("retried", "step 9", lambda s: step(s) >= 9, RUN_SECONDS)
    kill_host(namespace, "retried")
    status = namespace.wait("retried", "attempt 2 to train", trains_again, RUN_SECONDS)
    first, second = status["attempts"]
    assert (first["outcome"], first["class"], first["reason"]) == ("Failed", "Infrastructure", "HostLost")
    assert status["retries"]["infrastructure"] == 1
    assert second["fromStep"] % 4 == 0 and second["fromStep"] >= 4
    assert first["stepsLost"] == max(0, first["toStep"] - second["fromStep"])
    assert first["recoverySeconds"] > 0
    pods = namespace.list("pods", "dpojob.io/job=retried")
    assert {pod["metadata"]["labels"]["dpojob.io/attempt"] for pod in pods} == {"2"}
    namespace.run("delete", "dpojob", "retried", "--wait=true", "--timeout=60s")


def test_suspended_job_saves_its_step_frees_the_slice_and_goes_on_there(namespace: Namespace) -> None:
    namespace.apply(job("suspended", training=LONG_TRAINING))
    namespace.wait("suspended", "step 3", lambda s: step(s) >= 3, RUN_SECONDS)
    namespace.run("patch", "dpojob", "suspended", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    status = namespace.wait("suspended", "Suspended", lambda s: is_true(s, "Suspended"), 240)
    assert namespace.list("pods,rayclusters,rayjobs", "dpojob.io/job=suspended") == []
    assert [a["outcome"] for a in status["attempts"]] == ["Stopped"]
    # No checkpoint is due before step 1000: what is there was saved on SIGTERM.
    saved = [int(p.name.split("_")[1]) for p in (namespace.outputs / "suspended/checkpoints").glob("step_*")]
    assert len(saved) == 1 and saved[0] >= status["attempts"][0]["toStep"] >= 3
    namespace.run("patch", "dpojob", "suspended", "--type=merge", "-p", '{"spec":{"suspend":false}}')
    status = namespace.wait("suspended", "attempt 2 to train", trains_again, RUN_SECONDS)
    assert status["attempts"][1]["fromStep"] == saved[0]
    assert status["attempts"][0]["stepsLost"] == 0
    assert "retries" not in status
    namespace.run("delete", "dpojob", "suspended", "--wait=true", "--timeout=60s")


def test_deleting_a_running_job_leaves_nothing_behind(namespace: Namespace) -> None:
    namespace.apply(job("deleted", training=LONG_TRAINING))
    namespace.wait("deleted", "step 1", lambda s: step(s) >= 1, RUN_SECONDS)
    namespace.run("delete", "dpojob", "deleted", "--wait=true", "--timeout=60s")
    until_gone(namespace, "deleted", 120)
