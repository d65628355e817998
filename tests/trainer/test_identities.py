"""What must hold for any model and data: other meshes, orders and roles of the pairs change the numbers as predicted."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if "jax" not in sys.modules:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import pytest
from safetensors.numpy import load_file
from tests.trainer import tiny_models
from tests.trainer.jobs import Claim

from dpojob_api.reasons import TrainerReason
from dpojob_api.spec import DType, ExportFormat
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import easydel_compat, store, weights
from dpojob_trainer.errors import TrainerError

pytestmark = pytest.mark.jax
LN2 = math.log(2)
LENGTHS = {"maxPromptLength": 32, "maxCompletionLength": 32}
NAMES = ("loss", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected", "grad_norm")
Line = dict[str, float]
Train = Callable[..., list[Line]]


def configuration(claim: Claim, name: str, steps: int, export: bool = False, **spec: Any) -> TrainerConfig:
    """A job of a few steps on 8 devices that only writes metrics, and its model if `export`."""
    training = {"globalBatchSize": 8, "maxSteps": steps, "learningRate": 1e-3, "shuffle": False}
    base: dict[str, Any] = {
        "accelerator": {"type": "v4-16"},
        "dataset": {"uri": f"pvc://{claim.name}/pairs.jsonl", "columns": {"prompt": "prompt"}},
        "training": training,
    }
    config = claim.config(name, **(base | spec))
    if export:
        return config
    unexported = config.output.model_copy(update={"export_format": ExportFormat.NONE})
    return config.model_copy(update={"output": unexported})


@pytest.fixture
def train(claim: Claim, tmp_path: Path) -> Train:
    """Run a job and return the steps' numbers."""
    easydel_compat.prepare()
    from dpojob_trainer.training import run as training

    def train(name: str, steps: int, **spec: Any) -> list[Line]:
        config = configuration(claim, name, steps, **spec)
        store.open_store(config.output.uri).claim(config.job.uid, config.job.name)
        training.run(config, training.Place(0, "localhost", tmp_path / name), lambda event: None)
        return claim.metrics(name)

    return train


def assert_close(found: list[Line], expected: list[Line], tolerance: float = 1e-4) -> None:
    """Compare all metrics of all steps; relative where a number exceeds 1."""
    assert len(found) == len(expected) > 0
    for one, two in zip(found, expected, strict=True):
        for name in NAMES:
            assert abs(one[name] - two[name]) <= tolerance * max(1.0, abs(two[name])), (name, one, two)


ONE_DEVICE = """
import sys
from pathlib import Path
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import easydel_compat, store
easydel_compat.prepare()
from dpojob_trainer.training import run as training
config = TrainerConfig.model_validate_json(Path(sys.argv[1]).read_text())
store.open_store(config.output.uri).claim(config.job.uid, config.job.name)
training.run(config, training.Place(0, "localhost", Path(sys.argv[2])), lambda event: None)
"""


@pytest.fixture(scope="module")
def one_device(claim: Claim, tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    """The numbers of two steps in a process that has a single device."""
    config = configuration(claim, "one-device", 2)
    single = {"chips": 1, "hosts": 1, "chips_per_host": 1}
    mesh = config.plan.mesh.model_copy(update={"fsdp": 1})
    config = config.model_copy(update={"plan": config.plan.model_copy(update=single | {"mesh": mesh})})
    work = tmp_path_factory.mktemp("one")
    done = subprocess.run(
        [sys.executable, "-c", ONE_DEVICE, str(claim.write_config(config)), str(work)],
        env=os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return claim.metrics("one-device")


@pytest.mark.parametrize(
    "mesh",
    [{"fsdp": 8}, {"fsdp": 2, "tp": 4}, {"fsdp": 1, "sp": 8}, {"dp": 1, "fsdp": 2, "tp": 2, "sp": 2}],
    ids=["fsdp8", "fsdp2-tp4", "sp8", "fsdp2-tp2-sp2"],
)
def test_every_mesh_has_the_numbers_of_one_device(
    one_device: list[Line], train: Train, mesh: dict[str, int], request: pytest.FixtureRequest
) -> None:
    assert_close(train(request.node.callspec.id, 2, mesh=mesh), one_device)


def test_swapped_sides_have_opposite_gradients(train: Train, claim: Claim) -> None:
    """At a margin of 0 the sigmoid's gradient only changes its sign, so its norm and the loss stay."""
    (line,) = train("as-it-is", 1)
    columns = {"prompt": "prompt", "chosen": "rejected", "rejected": "chosen"}
    dataset = {"uri": f"pvc://{claim.name}/pairs.jsonl", "columns": columns}
    (mirrored,) = train("mirrored", 1, dataset=dataset)
    assert line["loss"] == mirrored["loss"] == pytest.approx(LN2, abs=1e-6)
    assert mirrored["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-5)
    assert mirrored["logps/chosen"] == pytest.approx(line["logps/rejected"], rel=1e-6)
    assert mirrored["logps/rejected"] == pytest.approx(line["logps/chosen"], rel=1e-6)


def test_the_order_within_a_batch_does_not_matter(train: Train, claim: Claim) -> None:
    rows = (claim.path / "pairs.jsonl").read_text().splitlines()[:16]
    for name, lines in (("forward", rows), ("backward", rows[7::-1] + rows[:7:-1])):
        (claim.path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    forward, backward = (
        train(name, 2, dataset={"uri": f"pvc://{claim.name}/{name}.jsonl", "columns": {"prompt": "prompt"}})
        for name in ("forward", "backward")
    )
    assert_close(backward, forward, 2e-5)


@pytest.mark.parametrize(("params", "compute"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_run_in_two_precisions_begins_at_a_margin_of_exactly_0(
    train: Train, claim: Claim, params: str, compute: str
) -> None:
    """Parameters that are rounded on one side only would make a margin of the rounding."""
    before, step, *_ = train(
        f"{params}-{compute}",
        1,
        precision={"params": params, "compute": compute},
        dataset={
            "uri": f"pvc://{claim.name}/pairs.jsonl",
            "columns": {"prompt": "prompt"},
            "evalFraction": 0.2,
        },
    )
    assert (before["eval/rewards/chosen"], before["eval/rewards/rejected"]) == (0, 0)
    assert (step["rewards/chosen"], step["rewards/rejected"]) == (0, 0)


def changed(claim: Claim, name: str) -> float:
    """Return the share of numbers that a run has changed in the exported model."""
    tuned, base = (load_file(claim.path / path / "model.safetensors") for path in (f"{name}/model", "model"))
    differ = sum(int((tuned[key] != base[key].astype(tuned[key].dtype)).sum()) for key in base)
    return differ / sum(value.size for value in base.values())


def test_a_small_learning_rate_reaches_nearly_every_weight(train: Train, claim: Claim) -> None:
    """In bfloat16 most updates are lost, hence the default and the warning in the status (`Discouraged`)."""
    shares = {}
    for params in ("float32", "bfloat16"):
        training = {"globalBatchSize": 8, "maxSteps": 2, "learningRate": 1e-5}
        precision = {"params": params, "compute": "bfloat16"}
        train(f"small-{params}", 2, export=True, training=training, precision=precision)
        shares[params] = changed(claim, f"small-{params}")
    assert shares["float32"] > 0.9 and shares["bfloat16"] < 0.5, shares


def test_without_a_reference_the_first_loss_is_free(train: Train) -> None:
    (line,) = train("alone", 1, dpo=LENGTHS | {"referenceFree": True})
    assert abs(line["loss"] - LN2) > 1e-3
    assert line["rewards/chosen"] == pytest.approx(0.1 * line["logps/chosen"], rel=1e-5)


def test_dropout_in_the_model_is_switched_off(train: Train, claim: Claim) -> None:
    dropping = tiny_models.write_model(
        claim.path / "dropping", tiny_models.LLAMA, attention_dropout=0.5, resid_pdrop=0.5, embd_pdrop=0.5
    )
    assert json.loads((dropping / "config.json").read_text())["resid_pdrop"] == 0.5
    (line,) = train("dropping-run", 1, model={"uri": f"pvc://{claim.name}/dropping"})
    assert line["loss"] == pytest.approx(LN2, abs=1e-6)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_another_model_as_reference_ends_the_run(
    train: Train, claim: Claim, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    from dpojob_trainer.training import reference

    other = tiny_models.write_model(claim.path / "other", tiny_models.QWEN3, seed=1)

    def stranger(config: TrainerConfig, model_dir: Path) -> Any:
        return weights.load_model(other, config, matrix_dtype=DType.FLOAT32)

    monkeypatch.setattr(reference, "load", stranger)
    with pytest.raises(TrainerError) as caught:
        train(f"stranger-{loss}", 2, dpo=LENGTHS | {"lossType": loss, "referenceLogProbs": "live"})
    assert caught.value.reason is TrainerReason.REFERENCE_MISMATCH
    assert (f"{LN2:.7g}" if loss == "sigmoid" else "25") in caught.value.message
    assert not (claim.path / f"stranger-{loss}" / "metrics.jsonl").exists()
