"""The data is examined before a slice is asked for: the Job, its verdict, what follows. The stand-in's Job controller and
pods are this file's own words; the real ones are in tests/integration.
"""

from datetime import timedelta

import pytest
from tests.unit import operator_builders as b
from tests.unit.before_attempt import started

from dpojob_api.metrics import DATA_KINDS
from dpojob_api.reasons import DATA_REASONS, OperatorReason, TrainerReason
from dpojob_api.result import MAX_TERMINATION_MESSAGE, TrainerResult, find_result
from dpojob_operator import checking, decide, kube, parse, status
from dpojob_operator.desired import check, pods
from dpojob_operator.plan import Apply, Check, Delete, Kind, Stage
from dpojob_trainer.exit_codes import exit_code

PREFLIGHT = {"dataset": {"gate": {"preflight": True}}}
PAIRS = dict(zip(DATA_KINDS, (100, 90, 8, 1, 1, 5, 2, 0), strict=True))
ACCEPTED = TrainerResult(reason="Succeeded", message="90 pairs can be trained on", pairs=PAIRS)
IMAGE = "example.test/trainer:1"


def job_body(*conditions, owner=b.UID, **meta):
    return {
        "metadata": {
            "name": "j-check",
            "uid": "c1",
            "ownerReferences": [{"uid": owner, "controller": True}],
            **meta,
        },
        "status": {"conditions": list(conditions)},
    }


def condition(kind, ago=0, **fields):
    time = (b.NOW - timedelta(seconds=ago)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": kind, "status": "True", "lastTransitionTime": time, **fields}


def pod_body(message=None, code=0, reason="Completed", job="c1", created="2026-11-23T11:59:00Z"):
    state = (
        {"terminated": {"exitCode": code, "reason": reason, "message": message}}
        if message is not None
        else {}
    )
    return {
        "metadata": {
            "name": "j-check-x1",
            "creationTimestamp": created,
            "labels": {"dpojob.io/check": "j"},
            "ownerReferences": [{"uid": job, "controller": True}],
        },
        "status": {"phase": "Running", "containerStatuses": [{"name": "check", "state": state}]},
    }


COMPLETE = condition("Complete", reason="CompletionsReached")
FAILED = condition("Failed", reason="PodFailurePolicy", message="exit code 3")


def seen(*conditions, result=None, **pod):
    """Return what is observed once the Job has these conditions and its pod has ended with a result."""
    message = result.to_line() if result else pod.pop("message", None)
    return b.nothing(check=parse.check(job_body(*conditions), [pod_body(message, **pod)]))


def plan(observed, job=None, now=b.NOW):
    return decide.decide(job or b.make_job(PREFLIGHT), observed, b.SETTINGS, now)


class TestJob:
    def built(self, spec=None):
        return check.build_check(b.make_job(b.deep_merge(PREFLIGHT, spec or {})), 1, IMAGE)

    def test_it_runs_the_trainers_check_and_its_last_word_is_the_termination_message(self):
        made = self.built()
        (container,) = made["spec"]["template"]["spec"]["containers"]
        assert container["command"][:4] == ["python", "-m", "dpojob_trainer", "check"]
        assert container["command"][-1] == container["terminationMessagePath"] == "/dev/termination-log"
        assert (made["metadata"]["name"], made["metadata"]["ownerReferences"][0]["uid"]) == ("j-check", b.UID)

    def test_pod_has_what_the_head_has_and_is_restricted(self):
        spec = {
            "model": {"uri": "pvc://models/m"},
            "credentials": {"huggingFace": {"name": "hf", "key": "token"}},
            "runtime": {
                "serviceAccountName": "trainer",
                "imagePullSecrets": ["pull"],
                "head": {"nodeSelector": {"pool": "cpu"}, "tolerations": [{"operator": "Exists"}]},
            },
        }
        job = b.make_job(b.deep_merge(PREFLIGHT, spec))
        head = pods.build_head(job, 1, IMAGE)["spec"]
        made = check.build_check(job, 1, IMAGE)["spec"]["template"]["spec"]
        for field in (
            "volumes",
            "serviceAccountName",
            "imagePullSecrets",
            "nodeSelector",
            "tolerations",
            "securityContext",
        ):
            assert made[field] == head[field]
        for field in ("env", "volumeMounts", "securityContext", "resources", "image"):
            assert made["containers"][0][field] == head["containers"][0][field]
        assert (made["restartPolicy"], made["automountServiceAccountToken"]) == ("Never", False)
        assert made["securityContext"]["runAsNonRoot"] is True
        assert "google.com/tpu" not in str(made)

    def test_its_pods_are_not_taken_for_pods_of_an_attempt(self):
        assert self.built()["spec"]["template"]["metadata"]["labels"] == {"dpojob.io/check": "j"}

    def test_what_is_final_is_not_tried_again_by_kubernetes(self):
        ignore, fail = self.built()["spec"]["podFailurePolicy"]["rules"]
        assert ignore["action"] == "Ignore"
        assert fail["onExitCodes"]["values"] == sorted(
            {int(exit_code(r)) for r in DATA_REASONS | {TrainerReason.CONFIG_INVALID}}
        )


class TestVerdict:
    def test_job_comes_before_the_rayjob(self):
        made = plan(b.nothing())
        assert (made.stage, made.reason) == (Stage.CHECKING, OperatorReason.CHECKING_DATA)
        assert made.actions == (Apply(1, absent=True), Check(1, IMAGE))

    def test_off_by_default(self):
        assert plan(b.nothing(), b.make_job()).stage is Stage.CREATED

    def test_it_is_waited_for(self):
        for observed in (b.nothing(check=parse.check(job_body(), [])), seen()):
            made = plan(observed)
            assert (made.stage, made.actions) == (Stage.CHECKING, ())
            assert "no chip is held" in made.message

    def test_what_keeps_its_pod_from_running_is_told(self):
        pod = pod_body()
        pod["status"] = {
            "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no CPU"}
            ]
        }
        made = plan(b.nothing(check=parse.check(job_body(), [pod])))
        assert made.message == "Job j-check waits: Unschedulable: no CPU"

    def test_accepted_data_is_written_down_and_then_the_attempt_is_made(self):
        job, observed = b.make_job(PREFLIGHT), seen(COMPLETE, result=ACCEPTED)
        made = plan(observed)
        assert (made.stage, made.actions, made.requeue_after) == (Stage.CHECKING, (), 0)
        new = status.next_status(job, made, observed, b.NOW)
        (valid,) = (c for c in new.conditions if c.type == "DataValid")
        assert (valid.status, valid.reason) == ("True", "DataAccepted")
        assert valid.message.startswith("100 pairs: 90 train, 8 eval; 2 dropped")
        assert new.attempts == []
        assert plan(b.nothing(), b.make_job(PREFLIGHT, new)).stage is Stage.CREATED

    def test_refused_data_ends_the_job_without_an_attempt(self):
        result = TrainerResult(reason="DataInvalid", message="dataset.gate.minPairs: 3 of 10")
        job, observed = b.make_job(PREFLIGHT), seen(FAILED, result=result, code=3, reason="Error")
        made = plan(observed)
        assert (made.stage, made.reason, made.message) == (Stage.FAILED, "DataInvalid", result.message)
        new = status.next_status(job, made, observed, b.NOW)
        truths = {c.type: (c.status, c.reason) for c in new.conditions}
        assert truths["DataValid"] == ("False", "DataInvalid")
        assert truths["Failed"] == ("True", "DataInvalid")
        assert (new.attempts, new.attempt) == ([], None)

    def test_what_can_be_put_right_stalls_and_is_looked_at_again(self):
        result = TrainerResult(reason="CredentialsMissing", message="The repository is gated.")
        made = plan(seen(FAILED, result=result, code=4))
        assert (made.stage, made.reason, made.actions) == (Stage.STALLED, "CredentialsMissing", ())
        later = plan(seen(FAILED, result=result, code=4), now=b.NOW + checking.AGAIN)
        assert later.actions == (Delete(Kind.CHECK, "j-check", "c1"),)

    def test_pod_without_a_word(self):
        failed = condition(
            "Failed", reason="BackoffLimitExceeded", message="Job has reached the specified backoff limit"
        )
        made = plan(seen(failed, message="", code=137, reason="OOMKilled"))
        assert (made.stage, made.reason) == (Stage.STALLED, OperatorReason.DATA_CHECK_FAILED)
        assert "BackoffLimitExceeded" in made.message
        assert "raise runtime.head.resources memory" in made.message

    def test_job_that_is_complete_without_counts_is_no_acceptance(self):
        bare = TrainerResult(reason="Succeeded", message="fine")
        assert plan(seen(COMPLETE, result=bare)).reason == OperatorReason.DATA_CHECK_FAILED
        assert plan(b.nothing(check=parse.check(job_body(COMPLETE), []))).stage is Stage.STALLED

    def test_pods_of_an_earlier_job_of_that_name_do_not_count(self):
        view = parse.check(job_body(), [pod_body(ACCEPTED.to_line(), job="c0")])
        assert (view.pod, view.result) == (None, None)

    def test_newest_pod_counts(self):
        old = pod_body("", code=1)
        new = pod_body(ACCEPTED.to_line(), created="2026-11-23T11:59:30Z")
        assert parse.check(job_body(), [new, old]).result == ACCEPTED

    def test_job_of_somebody_else(self):
        made = plan(b.nothing(check=parse.check(job_body(COMPLETE, owner="other"), [])))
        assert (made.stage, made.reason, made.actions) == (Stage.STALLED, OperatorReason.NAME_CONFLICT, ())

    def test_suspension_comes_first(self):
        job = b.make_job(PREFLIGHT | {"suspend": True})
        assert plan(b.nothing(), job).stage is Stage.SUSPENDED


@pytest.mark.parametrize("text", ["x" * 9000, "ü" * 3000], ids=["long", "escaped"])
def test_line_fits_into_a_termination_message(text):
    line = TrainerResult(reason="DataInvalid", message=text, pairs=PAIRS).to_short_line()
    assert len(line.encode()) <= MAX_TERMINATION_MESSAGE
    result = find_result(line)
    assert (result.reason, result.pairs, result.message[:100]) == ("DataInvalid", PAIRS, text[:100])


def test_short_line_is_left_alone():
    assert ACCEPTED.to_short_line() == ACCEPTED.to_line()


async def checked(kill_at=None):
    """Live a job up to its RayJob with the operator killed at one point of its calls, and return the cluster."""
    return await started(
        PREFLIGHT, "j-check", COMPLETE, lambda uid: pod_body(ACCEPTED.to_line(), job=uid), kill_at
    )


async def test_reconciler_makes_the_job_reads_its_pod_and_only_then_the_rayjob():
    world = await checked()
    assert world.created == ["j-check", "j-a1"]
    assert (kube.CONFIGMAPS, "j-a1") in world.objects
    assert world.events[:2] == ["CheckingData", "DataAccepted"]


async def test_killed_at_any_call_it_makes_each_once():
    points = (await checked()).calls
    for point in range(1, points + 1):
        world = await checked(point)
        assert world.created == ["j-check", "j-a1"], f"killed at point {point}"
        valid = next(c for c in world.job["status"]["conditions"] if c["type"] == "DataValid")
        assert valid["status"] == "True"
