"""The CRD itself: established, structural, with defaults, columns, a short name and a status of its own."""

from collections.abc import Callable
from typing import Any

from dpojob_api.crd import COLUMNS
from dpojob_api.spec import DPOJobSpec

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
DPOJOBS = "/apis/dpojob.io/v1alpha1"

DEFAULTS = {
    "model": {"uri": "pvc://no-such-claim/model"},
    "dataset": {
        "uri": "pvc://no-such-claim/data.jsonl",
        "split": "train",
        "evalFraction": 0,
        "seed": 0,
        "columns": {"chosen": "chosen", "rejected": "rejected"},
        "gate": {
            "onViolation": "Fail",
            "minPairs": 1,
            "maxDroppedFraction": 0.1,
            "maxTruncatedFraction": 0.5,
            "maxDuplicateFraction": 0.5,
            "maxOverlap": 0.1,
            "preflight": False,
        },
    },
    "dpo": {
        "beta": 0.1,
        "lossType": "sigmoid",
        "labelSmoothing": 0,
        "referenceFree": False,
        "referenceLogProbs": "precomputed",
        "maxPromptLength": 1024,
        "maxCompletionLength": 1024,
    },
    "training": {
        "globalBatchSize": 32,
        "gradientAccumulationSteps": 1,
        "learningRate": 1e-6,
        "scheduler": "cosine",
        "warmupSteps": 0,
        "weightDecay": 0,
        "clipGradNorm": 1,
        "optimizer": "adamw",
        "checkpointSteps": 500,
        "checkpointsToKeep": 2,
        "keepBestCheckpoint": False,
        "saveOptimizerState": True,
        "logSteps": 1,
        "reportSteps": 10,
        "shuffle": True,
        "lengthBuckets": 6,
        "seed": 42,
    },
    "precision": {"params": "float32", "compute": "bfloat16"},
    "mesh": {"dp": 1, "fsdp": -1, "ep": 1, "tp": 1, "sp": 1},
    "attention": {"mechanism": "auto"},
    "gradientCheckpointing": "nothing_saveable",
    "shortGradientCheckpointing": {"none": 0, "checkpointDots": 0},
    "accelerator": {"type": "v4-64", "slices": 1, "capacity": {"type": "OnDemand"}},
    "output": {
        "uri": "pvc://no-such-claim-either/out",
        "exportFormat": "safetensors",
        "sampleCompletions": 4,
        "sampleTokens": 64,
    },
    "tracking": {},
    "credentials": {},
    "runtime": {
        "imagePullPolicy": "IfNotPresent",
        "launcher": "slice",
        "platform": "tpu",
        "head": {"resources": {}},
        "host": {"resources": {}},
        "startupDeadlineSeconds": 1800,
    },
    "suspend": False,
    "retryPolicy": {
        "preempted": {"maxRetries": 50, "backoffSeconds": 10, "maxBackoffSeconds": 300},
        "infrastructure": {"maxRetries": 8, "backoffSeconds": 15, "maxBackoffSeconds": 600},
        "capacity": {"maxRetries": 40, "backoffSeconds": 60, "maxBackoffSeconds": 1800},
        "application": {"maxRetries": 3, "backoffSeconds": 30, "maxBackoffSeconds": 600},
        "configuration": {"maxRetries": 0, "backoffSeconds": 30, "maxBackoffSeconds": 600},
        "fenced": {"maxRetries": 0, "backoffSeconds": 30, "maxBackoffSeconds": 600},
    },
    "budget": {},
    "progress": {},
    "guards": {"learningRateFactor": 0.5},
    "plan": {"enforce": "Warn", "timeoutSeconds": 600},
}


def test_definition_is_established_and_structural(established_crd: dict[str, Any]) -> None:
    states = {c["type"]: c["status"] for c in established_crd["status"]["conditions"]}
    assert states == {"NamesAccepted": "True", "Established": "True"}


def test_names_and_status_are_served(admission: Any) -> None:
    served = {r["name"]: r for r in admission.get(DPOJOBS)["resources"]}
    assert set(served) == {"dpojobs", "dpojobs/status"}
    assert served["dpojobs"]["shortNames"] == ["dpo"]
    assert served["dpojobs"]["namespaced"]


def test_smallest_job_gets_every_default(admission: Any, job: Callable[..., Any]) -> None:
    assert admission.admit(job())["spec"] == DEFAULTS


def test_models_and_api_server_agree_on_defaults(job: Callable[..., Any]) -> None:
    assert DPOJobSpec.model_validate(job()["spec"]).to_wire() == DEFAULTS


def test_half_filled_objects_get_the_other_defaults(admission: Any, job: Callable[..., Any]) -> None:
    changes = {"spec.training": {"epochs": 3}, "spec.mesh": {"tp": 4}, "spec.runtime": {"head": {}}}
    spec = admission.admit(job(changes))["spec"]
    assert spec["training"] == DEFAULTS["training"] | {"epochs": 3}  # type: ignore[operator]
    assert spec["mesh"] == {"dp": 1, "fsdp": -1, "ep": 1, "tp": 4, "sp": 1}
    assert spec["runtime"] == DEFAULTS["runtime"]


def test_status_is_not_taken_from_the_user(admission: Any, job: Callable[..., Any]) -> None:
    assert "status" not in admission.admit(job({"status": {"summary": "Complete"}}))


def test_table_has_the_columns(admission: Any) -> None:
    columns = admission.get(f"{DPOJOBS}/dpojobs", TABLE)["columnDefinitions"]
    shown = [(c["name"], c["priority"]) for c in columns]
    assert shown == [("Name", 0), *((name, priority) for name, _, _, priority, _ in COLUMNS)]


def test_every_field_is_described(admission: Any) -> None:
    document = admission.get("/openapi/v3/apis/dpojob.io/v1alpha1")
    schema = document["components"]["schemas"]["io.dpojob.v1alpha1.DPOJob"]["properties"]
    undescribed = [*_undescribed(schema["spec"], "spec"), *_undescribed(schema["status"], "status")]
    assert undescribed == []


def _undescribed(schema: dict[str, Any], path: str) -> list[str]:
    own = [] if schema.get("description") else [path]
    children = schema.get("properties", {}) | schema.get("items", {}).get("properties", {})
    return own + [name for key, child in children.items() for name in _undescribed(child, f"{path}.{key}")]
