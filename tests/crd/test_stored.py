"""A stored job: few fields of its spec change, its labels do, its status only through the status sub-resource."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException
from tests.unit.operator_builders import deep_merge

from dpojob_api.spec import MUTABLE, DPOJobSpec

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
SECRET = {"name": "hub", "key": "token"}

EDITS: dict[str, Any] = {
    "model": {"uri": "hf://other/model"},
    "dataset": {"seed": 1},
    "dpo": {"beta": 0.2},
    "training": {"maxSteps": 5},
    "precision": {"params": "bfloat16"},
    "mesh": {"fsdp": 1, "tp": -1},
    "attention": {"mechanism": "splash"},
    "gradientCheckpointing": "none",
    "shortGradientCheckpointing": {"none": 512},
    "accelerator": {"type": "v5p-64"},
    "output": {"uri": "gs://other/folder"},
    "tracking": {"wandb": {"project": "dpo"}},
    "credentials": {"huggingFace": SECRET},
    "runtime": {"env": [{"name": "A", "value": "1"}]},
}
EDITABLE: dict[str, Any] = {
    "retryPolicy": {
        "preempted": {"maxRetries": 7},
        "configuration": {"maxRetries": 1, "backoffSeconds": 600},
    },
    "suspend": True,
    "activeDeadlineSeconds": 3600,
    "ttlSecondsAfterFinished": 0,
    "budget": {"chipHours": 12.5},
    "progress": {"stallSeconds": 900},
    "guards": {"rewardAccuracy": {}, "learningRateFactor": 0.1},
    "plan": {"enforce": "Require"},
}


@pytest.fixture(scope="module")
def stored(admission: Any, namespace: str) -> Iterator[dict[str, Any]]:
    body = {
        "apiVersion": "dpojob.io/v1alpha1",
        "kind": "DPOJob",
        "metadata": {"name": "stored"},
        "spec": {
            "model": {"uri": "pvc://no-such-claim/model"},
            "dataset": {"uri": "pvc://no-such-claim/data.jsonl"},
            "accelerator": {"type": "v4-64"},
            "output": {"uri": "pvc://no-such-claim-either/out"},
        },
    }
    yield admission.create(body, namespace)


def test_every_field_of_the_spec_is_tried() -> None:
    assert set(EDITS | EDITABLE) == {info.alias or name for name, info in DPOJobSpec.model_fields.items()}
    assert set(EDITABLE) == MUTABLE


@pytest.mark.parametrize("field", EDITS)
def test_edited_spec_is_refused(admission: Any, stored: dict[str, Any], field: str) -> None:
    with pytest.raises(ApiException) as caught:
        admission.edit(stored, {"spec": {field: EDITS[field]}}, dry_run="All")
    assert caught.value.status == 422
    assert f"spec.{field} is immutable; create a new DPOJob" in caught.value.body


@pytest.mark.parametrize("field", EDITABLE)
def test_what_may_be_edited_is_taken(admission: Any, stored: dict[str, Any], field: str) -> None:
    changed = admission.edit(stored, {"spec": {field: EDITABLE[field]}}, dry_run="All")
    assert changed["metadata"]["generation"] == stored["metadata"]["generation"] + 1
    assert deep_merge(changed["spec"], {field: EDITABLE[field]}) == changed["spec"]


def test_class_that_is_named_keeps_its_other_defaults(admission: Any, stored: dict[str, Any]) -> None:
    changed = admission.edit(
        stored, {"spec": {"retryPolicy": {"capacity": {"maxRetries": 1}}}}, dry_run="All"
    )
    policy = changed["spec"]["retryPolicy"]
    assert policy["capacity"] == {"maxRetries": 1, "backoffSeconds": 60, "maxBackoffSeconds": 1800}
    assert policy["preempted"]["maxRetries"] == 50


def test_labels_and_annotations_can_be_edited(admission: Any, stored: dict[str, Any]) -> None:
    patch = {"metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}}}
    changed = admission.edit(stored, patch, dry_run="All")
    assert changed["metadata"]["labels"]["team"] == "a"
    assert changed["metadata"]["annotations"]["note"] == "b"
    assert changed["metadata"]["generation"] == stored["metadata"]["generation"]


def test_same_spec_can_be_applied_again(admission: Any, stored: dict[str, Any]) -> None:
    changed = admission.edit(stored, {"spec": stored["spec"]}, dry_run="All")
    assert changed["spec"] == stored["spec"]


def test_status_is_ignored_on_the_main_resource(admission: Any, stored: dict[str, Any]) -> None:
    changed = admission.edit(stored, {"status": {"summary": "Forged"}}, dry_run="All")
    assert changed.get("status", {}).get("summary") != "Forged"


def test_unknown_condition_status_is_refused(admission: Any, stored: dict[str, Any]) -> None:
    bad = {"type": "Running", "status": "Maybe", "reason": "A", "message": "b", "observedGeneration": 1}
    with pytest.raises(ApiException) as caught:
        _patch_status(
            admission, stored, {"conditions": [bad | {"lastTransitionTime": "2026-01-01T00:00:00Z"}]}
        )
    assert "status.conditions[0].status" in caught.value.body


def test_status_sub_resource_fills_the_columns(admission: Any, stored: dict[str, Any]) -> None:
    progress = {"phase": "training", "step": 3, "totalSteps": 40, "steps": "3/40", "loss": 0.5, "eta": "2m"}
    progress |= {"rewardAccuracy": 0.75, "rewardMargin": 0.25, "mfu": 0.4}
    ledger = {"since": "2026-01-01T00:00:00Z", "total": 7200, "chipHours": 2.0, "goodput": 0.9}
    status = {"summary": "Training", "attempt": 1, "progress": progress, "ledger": ledger}
    _patch_status(admission, stored, status, dry_run=None)
    meta = stored["metadata"]
    path = f"/apis/dpojob.io/v1alpha1/namespaces/{meta['namespace']}/dpojobs/{meta['name']}"
    table = admission.get(path, TABLE)
    cells = dict(zip((c["name"] for c in table["columnDefinitions"]), table["rows"][0]["cells"], strict=True))
    assert cells.pop("Age")
    assert cells == {
        "Name": "stored", "Status": "Training", "Step": "3/40", "Loss": 0.5, "Acc": 0.75, "Margin": 0.25, "ETA": "2m",
        "Attempt": 1, "Accelerator": "v4-64", "MFU": 0.4, "Chip-Hours": 2.0, "Goodput": 0.9,
        "Output": stored["spec"]["output"]["uri"],
    }  # fmt: skip


def _patch_status(
    admission: Any, stored: dict[str, Any], status: dict[str, Any], dry_run: str | None = "All"
) -> Callable[..., Any]:
    meta = stored["metadata"]
    options = {"dry_run": dry_run} if dry_run else {}
    return admission.objects.patch_namespaced_custom_object_status(  # type: ignore[no-any-return]
        group="dpojob.io",
        version="v1alpha1",
        plural="dpojobs",
        namespace=meta["namespace"],
        name=meta["name"],
        body={"status": status},
        _content_type="application/merge-patch+json",
        **options,
    )
