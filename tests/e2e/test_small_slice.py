"""A v4-16 as two host pods of four virtual CPU devices; KubeRay, operator, trainer image and EasyDeL are real."""

import json
import math
import time
from collections.abc import Callable
from datetime import datetime

from hack.demo.follow import Status, condition, is_true

from tests.e2e.cluster import Namespace, reason, step
from tests.e2e.inputs import PAIRS, job
from tests.e2e.marks import RUN_SECONDS, WHOLE_JOBS

pytestmark = WHOLE_JOBS

LONG_TRAINING = {"maxSteps": 5000, "globalBatchSize": 8, "learningRate": 1e-3, "checkpointSteps": 1000}


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
    namespace.apply(job("tiny", gradientCheckpointing="nothing_saveable"))
    status = namespace.wait("tiny", "Complete", lambda s: is_true(s, "Complete"), RUN_SECONDS)
    namespace.run("wait", "dpojob/tiny", "--for=condition=Complete", "--timeout=5s")

    assert status["plan"] | {"mesh": None} == {
        "acceleratorType": "v4-16",
        "topology": "2x2x2",
        "slices": 1,
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
    summary = json.loads((namespace.outputs / "tiny" / "summary.json").read_text())
    (completion,) = summary["samples"]["completions"]
    assert completion["beforeTokens"] is not None and completion["afterTokens"] is not None


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


def kill_host(namespace: Namespace, name: str) -> None:
    """End all of a host's processes by SIGKILL.

    Deleting the pod, even by force, sends SIGTERM first, and a trainer that saves in time reports Preempted.
    """
    hosts = namespace.list("pods", f"dpojob.io/job={name},dpojob.io/role=host")
    namespace.run("exec", hosts[0]["metadata"]["name"], "--", "sh", "-c", "kill -KILL -1")


def trains(number: int) -> Callable[[Status], bool]:
    """Return whether an attempt has begun to train, as a question to a status."""

    def asked(status: Status) -> bool:
        return any(a["number"] == number and "fromStep" in a for a in status.get("attempts", []))

    return asked


def saved_steps(namespace: Namespace, name: str) -> list[int]:
    """Return the steps whose checkpoints are in a job's output."""
    folders = (namespace.outputs / name / "checkpoints").glob("step_*")
    return sorted(int(folder.name.split("_")[1]) for folder in folders)


def test_job_outlives_a_killed_host_and_a_suspension_and_ends_when_its_retries_do(
    namespace: Namespace,
) -> None:
    policy = {"infrastructure": {"backoffSeconds": 1}}
    namespace.apply(job("long", training=LONG_TRAINING | {"checkpointSteps": 20}, retryPolicy=policy))
    namespace.wait("long", "step 25", lambda s: step(s) >= 25, RUN_SECONDS)
    kill_host(namespace, "long")
    status = namespace.wait("long", "attempt 2 to train", trains(2), RUN_SECONDS)
    first, second = status["attempts"]
    assert (first["outcome"], first["class"], first["reason"]) == ("Failed", "Infrastructure", "HostLost")
    assert status["retries"]["infrastructure"] == 1
    assert second["fromStep"] % 20 == 0 and second["fromStep"] >= 20
    assert first["stepsLost"] == max(0, first["toStep"] - second["fromStep"])
    assert first["recoverySeconds"] > 0
    pods = namespace.list("pods", "dpojob.io/job=long")
    assert {pod["metadata"]["labels"]["dpojob.io/attempt"] for pod in pods} == {"2"}

    namespace.run("patch", "dpojob", "long", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    status = namespace.wait("long", "Suspended", lambda s: is_true(s, "Suspended"), 240)
    assert namespace.list("pods,rayclusters", "dpojob.io/job=long") == []
    assert [a["outcome"] for a in status["attempts"]] == ["Failed", "Stopped"]
    saved = saved_steps(namespace, "long")[-1]
    assert saved >= status["attempts"][1]["toStep"]
    spec = {"suspend": False, "retryPolicy": {"infrastructure": {"maxRetries": 1}}}
    namespace.run("patch", "dpojob", "long", "--type=merge", "-p", json.dumps({"spec": spec}))
    status = namespace.wait("long", "attempt 3 to train", trains(3), RUN_SECONDS)
    assert status["attempts"][2]["fromStep"] == saved
    assert status["attempts"][1]["stepsLost"] == 0
    assert status["retries"]["infrastructure"] == 1

    kill_host(namespace, "long")
    status = namespace.wait("long", "Failed", lambda s: is_true(s, "Failed"), 240)
    assert reason(status, "Failed") == "HostLost"
    assert "All 1 retries" in (condition(status, "Failed") or {})["message"]
    assert not is_true(status, "Complete")
    namespace.run("delete", "dpojob", "long", "--wait=true", "--timeout=60s")
    namespace.wait_gone("long", 120)
