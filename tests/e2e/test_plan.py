"""``spec.plan`` on real pods: a job that does not fit is held before any host is asked for, and runs once it is changed."""

import json
from typing import Any

import yaml
from hack.demo.follow import Status, condition, is_true

from tests.e2e.cluster import Namespace, Object, reason
from tests.e2e.inputs import single_host_job
from tests.e2e.marks import ON_SINGLE_HOSTS, RUN_SECONDS

pytestmark = ON_SINGLE_HOSTS

PLAN_SECONDS = 300.0
# Too little for the whole batch at once, with recomputation too: those need 3.5 MB, two micro-batches 2.9 MB.
USABLE_BYTES = 3_150_000


def planned_job(name: str, **spec: Any) -> Object:
    """Return a job that must fit chips of so little memory."""
    body = single_host_job(name, plan={"enforce": "Require"}, **spec)
    limit = {"name": "DPOJOB_PLAN_USABLE_BYTES", "value": str(USABLE_BYTES)}
    body["spec"]["output"] |= {"cacheUri": "pvc://dpo-outputs/shared", "sampleCompletions": 0}
    body["spec"]["runtime"]["env"] = [limit]
    body["spec"]["training"] |= {"maxSteps": 2, "checkpointSteps": 2}
    return body


def patched(body: Object, name: str, fix: str) -> Object:
    """Return the job of another name with the change that a status suggests."""
    for field, value in yaml.safe_load(f"{{{fix}}}").items():
        *parents, last = field.removeprefix("spec.").split(".")
        part = body["spec"]
        for parent in parents:
            part = part.setdefault(parent, {})
        part[last] = value
    body["spec"]["output"]["uri"] = f"pvc://dpo-outputs/{name}"
    return body | {"metadata": {"name": name}}


def test_job_that_does_not_fit_is_held_and_runs_with_the_suggested_change(namespace: Namespace) -> None:
    namespace.apply(planned_job("large"))

    def held(status: Status) -> bool:
        return reason(status, "Stalled") == "DoesNotFitHBM"

    status = namespace.wait("large", "DoesNotFitHBM", held, PLAN_SECONDS)
    assert (condition(status, "FitsHBM") or {})["status"] == "False"
    assert status["plan"]["peakBytes"] > status["plan"]["usableBytes"] == USABLE_BYTES
    fix = status["plan"]["fix"]
    assert fix in (condition(status, "Stalled") or {})["message"]
    assert status.get("attempts", []) == []
    assert namespace.list("rayjobs,rayclusters,pods", "dpojob.io/job=large") == []

    namespace.apply(patched(planned_job("large"), "small", fix))
    status = namespace.wait("small", "FitsHBM", lambda s: is_true(s, "FitsHBM"), PLAN_SECONDS)
    assert status["plan"]["fingerprint"]
    status = namespace.wait("small", "Complete", lambda s: is_true(s, "Complete"), RUN_SECONDS)
    assert condition(status, "PlanDrift") is None
    summary = json.loads((namespace.outputs / "small" / "summary.json").read_text())
    assert summary["matchesPlan"] is True, "the trainer lowered the step that was planned"
