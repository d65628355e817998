"""Good manifests: admission takes them, and every accelerator of the table with the chips that the table says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dpojob_api import accelerator
from dpojob_api.v1alpha1 import DPOJob, plan_of

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
SECRET = {"name": "hub", "key": "token"}

GOOD: list[tuple[str, dict[str, Any]]] = [
    ("smallest job", {}),
    ("longest name", {"metadata.name": "a" * 31}),
    ("one letter as name", {"metadata.name": "a"}),
    ("topology named", {"spec.accelerator.topology": "2x4x4"}),
    ("v5e on flex-start", {"spec.accelerator": {"type": "v5litepod-32", "capacity": {"type": "FlexStart"}}}),
    ("reservation", {"spec.accelerator.capacity": {"type": "Reservation", "reservation": "mine"}}),
    ("whole mesh written out", {"spec.mesh": {"dp": 2, "fsdp": 4, "ep": 1, "tp": 2, "sp": 2}}),
    ("reference in every step", {"spec.dpo": {"referenceLogProbs": "live"}}),
    ("folder that jobs share", {"spec.output.cacheUri": "gs://team/dpo-cache"}),
    ("one length for all pairs", {"spec.training": {"lengthBuckets": 1}}),
    ("two slices that share the batch", {"spec.accelerator.slices": 2, "spec.mesh": {"dp": 2}, "spec.training": {"globalBatchSize": 64}}),
    ("seven slices whose parameters are sharded over all", {"spec.accelerator.slices": 7, "spec.training": {"globalBatchSize": 224}}),
    ("free dp over two slices", {"spec.accelerator.slices": 2, "spec.mesh": {"dp": -1, "fsdp": 8}, "spec.training": {"globalBatchSize": 64}}),
    ("all chips for sequence parallelism", {"spec.mesh": {"fsdp": 1, "sp": -1}, "spec.training": {"globalBatchSize": 3}}),
    ("batch smaller than the chips on tp", {"spec.mesh": {"fsdp": 2, "tp": -1}, "spec.training": {"globalBatchSize": 2}}),
    ("accumulation", {"spec.training": {"globalBatchSize": 128, "gradientAccumulationSteps": 4}}),
    ("lengths that add up", {"spec.dpo": {"maxPromptLength": 100, "maxCompletionLength": 28, "maxLength": 128}}),
    ("integers where numbers are meant", {"spec.dpo": {"beta": 1, "labelSmoothing": 0}, "spec.training": {"learningRate": 1, "clipGradNorm": 1, "weightDecay": 0}, "spec.dataset.evalFraction": 0}),
    ("robust with smoothing", {"spec.dpo": {"lossType": "robust", "labelSmoothing": 0.1}}),
    ("exo_pair with smoothing", {"spec.dpo": {"lossType": "exo_pair", "labelSmoothing": 0.001}}),
    ("steps with warm-up", {"spec.training": {"maxSteps": 10, "warmupSteps": 9}}),
    ("evaluation every few steps", {"spec.training": {"evalSteps": 5}, "spec.dataset.evalFraction": 0.1}),
    ("checkpoints that stay", {"spec.training": {"checkpointSteps": 50, "checkpointsToKeep": 0, "keepCheckpointEvery": 100, "keepBestCheckpoint": True}, "spec.dataset.evalFraction": 0.1}),
    ("evaluation split", {"spec.training": {"evalSteps": 5}, "spec.dataset.evalSplit": "test"}),
    ("gate", {"spec.dataset.gate": {"preflight": True, "onViolation": "Warn", "minPairs": 100, "maxDroppedFraction": 0, "maxTruncatedFraction": 1, "maxDuplicateFraction": 0.25, "maxOverlap": 0.0}}),
    ("Hub with revisions", {"spec.model": {"uri": "hf://Qwen/Qwen3-14B", "revision": "refs/pr/1"}, "spec.dataset": {"uri": "hf://a/b.c_d", "revision": "v1.0"}}),
    ("bucket without a folder", {"spec.model.uri": "gs://bucket"}),
    ("output beside the model", {"spec.model.uri": "gs://team/model", "spec.output.uri": "gs://team/model-2"}),
    ("W&B with its key", {"spec.tracking": {"wandb": {"project": "dpo"}, "weightHistogramSteps": 100}, "spec.credentials": {"wandb": SECRET}}),
    ("plain and secret variables", {"spec.runtime": {"env": [{"name": "A", "value": ""}, {"name": "MY_TOKEN", "secretKeyRef": SECRET}]}}),
    ("resources", {"spec.runtime": {"host": {"resources": {"requests": {"cpu": "1", "memory": "1.5Gi", "ephemeral-storage": "10Gi"}, "limits": {"cpu": "1500m", "memory": "2Gi"}}}}}),
    ("head on its node pool", {"spec.runtime": {"head": {"nodeSelector": {"cloud.google.com/gke-nodepool": "cpu"}, "tolerations": [{"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"}, {"operator": "Exists"}]}}}),
    ("options of the TPU compiler", {"spec.runtime": {"xlaFlags": {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000", "xla_tpu_enable_async_collective_fusion": "true"}}}),
    ("retries and limits", {"spec.retryPolicy": {"preempted": {"maxRetries": 98}, "application": {"maxRetries": 0}}, "spec.suspend": True, "spec.activeDeadlineSeconds": 86400, "spec.ttlSecondsAfterFinished": 0, "spec.budget": {"chipHours": 0.5}, "spec.progress": {"stallSeconds": 600}}),
    ("guards", {"spec.guards": {"rewardAccuracy": {}, "chosenLogProb": {"maxDrop": 1, "action": "Suspend"}, "lengthDrift": {"maxCorrelation": 0.9}, "gradNorm": {"maxRatio": 5.5, "afterSteps": 0, "action": "RollbackAndReduceLR"}, "nonFiniteLoss": {"action": "RollbackAndReduceLR"}, "learningRateFactor": 0.1}}),
    ("image of this machine", {"spec.runtime": {"image": "localhost/dpojob-trainer:dev"}}),
    ("short batches that keep more", {"spec.shortGradientCheckpointing": {"none": 512, "checkpointDots": 2048}}),
    ("plan", {"spec.plan": {"enforce": "Require", "timeoutSeconds": 60}}),
    ("no plan", {"spec.plan": {"enforce": "Off"}}),
    ("image without host and tag", {"spec.runtime": {"image": "trainer"}}),
    ("image by digest", {"spec.runtime": {"image": "host:5000/team/trainer@sha256:" + "a" * 64, "imagePullSecrets": ["registry"]}}),
]  # fmt: skip


@pytest.mark.parametrize("changes", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_good_job_is_taken_and_read_by_the_models(
    admission: Any, job: Callable[..., Any], changes: dict[str, Any]
) -> None:
    stored = admission.admit(job(changes))
    read = DPOJob.from_wire(stored)
    assert read.spec.to_wire() == stored["spec"]


def test_quantity_may_be_a_plain_number(admission: Any, job: Callable[..., Any]) -> None:
    stored = admission.admit(job({"spec.runtime": {"head": {"resources": {"requests": {"cpu": 2}}}}}))
    assert stored["spec"]["runtime"]["head"]["resources"]["requests"] == {"cpu": 2}
    assert DPOJob.from_wire(stored).spec.runtime.head.resources.requests == {"cpu": "2"}


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_example_is_taken(admission: Any, path: Path) -> None:
    for body in yaml.safe_load_all(path.read_text()):
        if body["kind"] == "DPOJob":
            assert plan_of(DPOJob.from_wire(admission.admit(body)).spec).chips > 0


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {"smollm2-demo", "qwen3-14b-orpo-dpo-mix"}


@pytest.mark.parametrize("kind", accelerator.accelerator_types())
def test_admission_counts_the_chips_of_the_table(admission: Any, job: Callable[..., Any], kind: str) -> None:
    chips = accelerator.find_shape(kind).chips
    batch = {"spec.training": {"globalBatchSize": chips * 2}, "spec.accelerator": {"type": kind}}
    admission.admit(job(batch | {"spec.mesh": {"fsdp": chips}}))
    refusal = admission.refuse(job(batch | {"spec.mesh": {"fsdp": chips * 2}}))
    assert refusal.names("spec.mesh", "must multiply to the chips"), refusal.causes


@pytest.mark.parametrize(
    "shape", accelerator.shapes(), ids=lambda s: f"{s.accelerator_type}-{s.topology}-{s.machine_type}"
)
def test_admission_takes_every_topology_of_the_table(
    admission: Any, job: Callable[..., Any], shape: accelerator.SliceShape
) -> None:
    kind = {"type": shape.accelerator_type, "topology": shape.topology}
    stored = admission.admit(
        job({"spec.accelerator": kind, "spec.training": {"globalBatchSize": shape.chips}})
    )
    assert plan_of(DPOJob.from_wire(stored).spec).chips == shape.chips
