"""From a DPOJob to the trainer's configuration file."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from dpojob_api.trainer_config import TrainerConfig, trainer_config
from dpojob_api.v1alpha1 import DPOJob, plan_of

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "docs/reference/trainer-config.schema.json").read_text())
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))

SPEC: dict[str, Any] = {
    "model": {"uri": "hf://Qwen/Qwen3-14B"},
    "dataset": {"uri": "hf://a/b"},
    "accelerator": {"type": "v4-64"},
    "output": {"uri": "gs://bucket/out"},
}


def job(**spec: Any) -> DPOJob:
    metadata = {"name": "tune", "namespace": "team", "uid": "u-1"}
    return DPOJob.from_wire({"metadata": metadata, "spec": SPEC | spec})


def test_job_attempt_and_slice_are_written_out() -> None:
    config = trainer_config(job(mesh={"tp": 4}), attempt=2)
    assert config.job.to_wire() == {"name": "tune", "namespace": "team", "uid": "u-1", "attempt": 2}
    assert config.generation == "v4"
    assert config.plan.to_wire() == {
        "acceleratorType": "v4-64",
        "topology": "2x4x4",
        "chips": 32,
        "hosts": 8,
        "chipsPerHost": 4,
        "slices": 1,
        "mesh": {"dp": 1, "fsdp": 8, "ep": 1, "tp": 4, "sp": 1},
    }


def test_lengths_are_resolved() -> None:
    config = trainer_config(job(dpo={"maxPromptLength": 100, "maxCompletionLength": 28}), 1)
    assert config.dpo.max_length == 128
    assert config.attention.max_positions == 128


def test_longer_rotary_table_is_kept() -> None:
    assert trainer_config(job(attention={"maxPositions": 4096}), 1).attention.max_positions == 4096


def test_run_without_steps_or_epochs_is_one_epoch() -> None:
    training = trainer_config(job(), 1).training
    assert (training.epochs, training.max_steps) == (1, None)


def test_steps_leave_epochs_open() -> None:
    training = trainer_config(job(training={"maxSteps": 5}), 1).training
    assert (training.epochs, training.max_steps) == (None, 5)


def test_learning_rate_ends_at_a_tenth() -> None:
    assert trainer_config(
        job(training={"learningRate": 2e-5}), 1
    ).training.learning_rate_end == pytest.approx(2e-6)


def test_learning_rate_end_of_the_spec_is_kept() -> None:
    config = trainer_config(job(training={"learningRate": 2e-5, "learningRateEnd": 1e-7}), 1)
    assert config.training.learning_rate_end == 1e-7


def test_file_is_read_back_equal() -> None:
    config = trainer_config(job(), 1)
    assert TrainerConfig.model_validate_json(config.to_json()) == config


def test_equal_jobs_give_equal_files() -> None:
    assert trainer_config(job(), 1).to_json() == trainer_config(job(), 1).to_json()


def test_file_fits_the_published_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(json.loads(trainer_config(job(), 1).to_json()))


def test_file_holds_no_secret_reference() -> None:
    secret = {"huggingFace": {"name": "hub-secret", "key": "token"}}
    assert "hub-secret" not in trainer_config(job(credentials=secret), 1).to_json()


def test_unknown_field_is_refused() -> None:
    text = trainer_config(job(), 1).to_json().replace('"generation"', '"generatoin"')
    with pytest.raises(ValidationError, match="generatoin"):
        TrainerConfig.model_validate_json(text)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_example_resolves(path: Path) -> None:
    for body in yaml.safe_load_all(path.read_text()):
        if body["kind"] == "DPOJob":
            body["metadata"].setdefault("namespace", "default")
            config = trainer_config(DPOJob.from_wire(body), 1)
            assert (
                config.plan.mesh.data_shards * config.plan.mesh.tp * config.plan.mesh.sp <= config.plan.chips
            )


def test_mesh_that_bypassed_admission_is_explained() -> None:
    with pytest.raises(ValueError, match="mesh axes multiply to 3, which does not divide 32 chips"):
        plan_of(job(mesh={"tp": 3}).spec)
