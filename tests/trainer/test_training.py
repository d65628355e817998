"""DPO on one process with real EasyDeL on 8 virtual CPU devices and a tiny random Qwen3."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if "jax" not in sys.modules:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.trainer import tiny_models
from tests.trainer.jobs import TRAINING, Claim, write_ragged_pairs
from tests.trainer.kills import finish

from dpojob_api.constants import OUTPUT_CHECKPOINTS, OUTPUT_MODEL
from dpojob_api.reasons import TrainerReason
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import data, easydel_compat, store
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.progress import Begun, Evaluation, Event, HostReport, Phase, Saved, Step

pytestmark = pytest.mark.jax

EIGHT_CHIPS = {"accelerator": {"type": "v4-16"}}
LN2 = math.log(2)


@dataclass(frozen=True)
class Run:
    """A finished run and what it told."""

    report: HostReport
    events: list[Event]

    @property
    def losses(self) -> list[float]:
        return [event.numbers["loss"] for event in self.events if isinstance(event, Step)]


Train = Callable[[TrainerConfig], Run]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Run a configuration as host 0 of 1."""
    easydel_compat.prepare()
    from dpojob_trainer.training import run as training

    def train(config: TrainerConfig) -> Run:
        out = store.open_store(config.output.uri)
        out.claim(config.job.uid, config.job.name)
        events: list[Event] = []
        place = training.Place(0, "localhost", tmp_path_factory.mktemp("work"))
        return Run(training.run(config, place, events.append), events)

    return train


@pytest.fixture(scope="module")
def first(train: Train, claim: Claim) -> Run:
    """The run that the others are compared with: 12 steps on fsdp=8, checkpoints of 5, 10 and 12, output in `first`."""
    return train(claim.config("first", training=TRAINING | {"checkpointsToKeep": 3}, **EIGHT_CHIPS))


def test_it_learns(first: Run) -> None:
    before, after = first.report.evaluations[0], first.report.evaluations[12]
    assert before["pairs"] == after["pairs"] == 13, (
        "the held-out pairs fill one batch of 8 and a part of the next"
    )
    assert before["loss"] == pytest.approx(LN2, abs=1e-6)
    assert (before["rewards/margins"], before["rewards/accuracies"]) == (0, 0)
    assert after["loss"] < LN2 - 0.2
    assert after["rewards/accuracies"] > 0.9
    assert after["rewards/margins"] == pytest.approx(
        after["rewards/chosen"] - after["rewards/rejected"], abs=1e-5
    )
    assert first.losses[0] == pytest.approx(LN2, abs=1e-6)
    assert -1 <= after["lengths/correlation"] <= 1
    assert (first.report.step, first.report.total) == (12, 12)


def test_it_tells_its_phases_and_every_step(first: Run) -> None:
    phases = [event.name for event in first.events if isinstance(event, Phase)]
    assert (phases[0], phases[-1]) == ("loading", "exporting")
    assert {"training", "evaluating", "checkpointing"} < set(phases)
    assert [event.step for event in first.events if isinstance(event, Step)] == list(range(1, 13))
    assert [event.step for event in first.events if isinstance(event, Evaluation)] == [0, 6, 12]


def test_metrics_jsonl_has_every_step_at_full_precision(first: Run, claim: Claim) -> None:
    lines = [line for line in claim.metrics("first") if line["attempt"] == 1]
    steps = [line for line in lines if "loss" in line]
    assert [line["loss"] for line in steps] == first.losses
    names = {"grad_norm", "learning_rate", "seconds", "total", "tokens", "padded_tokens"}
    names |= {f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")}
    names |= {"logps/chosen", "logps/rejected", "rewards/margin_variance"}
    names |= {f"lengths/{name}" for name in ("differences", "variance", "covariance")}
    assert all(names < line.keys() for line in steps)
    assert all(0 < line["tokens"] < line["padded_tokens"] <= 8 * 2 * (32 + 32) for line in steps)
    assert all(line["padded_tokens"] % (8 * 2 * 16) == 0 for line in steps)
    evaluations = {line["step"]: line["eval/loss"] for line in lines if "eval/loss" in line}
    assert evaluations == {step: found["loss"] for step, found in first.report.evaluations.items()}


SCORE = """
import json, sys
import torch
from transformers import AutoModelForCausalLM
tuned, base = (AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32) for p in sys.argv[1:3])
def logp(model, prompt, completion):
    ids = torch.tensor([prompt + completion])
    scores = model(ids).logits[0, :-1].log_softmax(-1)
    return scores.gather(1, ids[0, 1:, None])[-len(completion):].sum().item()
margins = []
with torch.no_grad():
    for row in json.load(open(sys.argv[3])):
        gain = [logp(tuned, row["prompt_ids"], row[side]) - logp(base, row["prompt_ids"], row[side])
                for side in ("chosen_ids", "rejected_ids")]
        margins.append(0.1 * (gain[0] - gain[1]))
print(json.dumps(sum(margins) / len(margins)))
"""


def test_the_exported_model_has_the_reward_margin_in_transformers(
    first: Run, claim: Claim, tmp_path: Path
) -> None:
    """The margin that training reports is recomputed with torch from the exported files, pair by pair, unpadded."""
    prepared = data.prepare(claim.config("first"), claim.path / "model")
    assert prepared.evaluation is not None
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(list(prepared.evaluation)))
    models = [str(claim.path / "first" / OUTPUT_MODEL), str(claim.path / "model")]
    env = {name: value for name, value in os.environ.items() if name not in ("USE_TORCH", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", SCORE, *models, str(rows)],
        env=env, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(
        first.report.evaluations[12]["rewards/margins"], abs=2e-3
    )


def test_the_exported_model_is_the_base_of_another_job(first: Run, train: Train, claim: Claim) -> None:
    """Its untrained policy scores the held-out pairs as the first job's trained one did."""
    spec = EIGHT_CHIPS | {"training": TRAINING | {"maxSteps": 1}}
    second = train(claim.config("second", model={"uri": f"pvc://{claim.name}/first/{OUTPUT_MODEL}"}, **spec))
    before, tuned = second.report.evaluations[0], first.report.evaluations[12]
    for name in ("logps/chosen", "logps/rejected"):
        assert before[name] == pytest.approx(tuned[name], abs=1e-4)
    assert second.losses == pytest.approx([LN2], abs=1e-6)


def test_a_checkpoint_has_no_reference(first: Run, claim: Claim) -> None:
    """The optimizer is two arrays per parameter, so policy and optimizer are three times the base."""
    newest = claim.path / "first" / OUTPUT_CHECKPOINTS / "step_12"
    stored = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())
    assert stored < 3.5 * (claim.path / "model" / "model.safetensors").stat().st_size


def test_a_resumed_run_repeats_the_losses_exactly(first: Run, train: Train, claim: Claim) -> None:
    output = copy_output(claim, "first", "resumed")
    shutil.rmtree(output / OUTPUT_CHECKPOINTS / "step_12")
    again = train(claim.config("resumed", attempt=2, **EIGHT_CHIPS))
    assert again.report.resumed_from == 10
    assert again.losses == first.losses[10:]
    assert again.report.evaluations[12]["loss"] == first.report.evaluations[12]["loss"]


def test_a_finished_run_is_only_exported_again(first: Run, train: Train, claim: Claim) -> None:
    shutil.rmtree(copy_output(claim, "first", "finished") / OUTPUT_MODEL)
    again = train(claim.config("finished", attempt=2, **EIGHT_CHIPS))
    assert (again.report.resumed_from, again.losses) == (12, [])
    assert (claim.path / "finished" / OUTPUT_MODEL / "config.json").is_file()


def test_without_optimizer_state_the_learning_rate_goes_on(train: Train, claim: Claim) -> None:
    spec = EIGHT_CHIPS | {"training": TRAINING | {"saveOptimizerState": False, "maxSteps": 6}}
    whole = train(claim.config("weights-only", **spec))
    shutil.rmtree(claim.path / "weights-only" / OUTPUT_CHECKPOINTS / "step_6")
    again = train(claim.config("weights-only", attempt=2, **spec))
    assert again.report.resumed_from == 5
    assert again.losses == whole.losses[5:]
    rates = [e.numbers["learning_rate"] for run in (whole, again) for e in run.events if isinstance(e, Step)]
    assert rates[5] == rates[6]


def test_the_newest_checkpoint_that_can_be_read_is_used(first: Run, train: Train, claim: Claim) -> None:
    break_checkpoints(copy_output(claim, "first", "damaged"), 10, 12)
    again = train(claim.config("damaged", attempt=2, **EIGHT_CHIPS))
    assert again.report.resumed_from == 5
    assert again.losses == first.losses[5:]


def test_broken_checkpoints_are_not_silently_started_over(first: Run, train: Train, claim: Claim) -> None:
    """EasyDeL's own loop starts again at step 0 then."""
    break_checkpoints(copy_output(claim, "first", "broken"), 5, 10, 12)
    with pytest.raises(TrainerError) as caught:
        train(claim.config("broken", attempt=2, **EIGHT_CHIPS))
    assert caught.value.reason is TrainerReason.RESTORE_FAILED
    assert "delete that folder" in caught.value.message


def test_the_checkpoint_of_another_model_is_not_used(first: Run, train: Train, claim: Claim) -> None:
    copy_output(claim, "first", "other-model")
    wider = tiny_models.write_model(claim.path / "wider", tiny_models.QWEN3, intermediate_size=192).name
    with pytest.raises(TrainerError) as caught:
        train(
            claim.config(
                "other-model", attempt=2, model={"uri": f"pvc://{claim.name}/{wider}"}, **EIGHT_CHIPS
            )
        )
    assert caught.value.reason is TrainerReason.RESTORE_FAILED


@pytest.mark.parametrize(
    "mesh", [{"fsdp": 4, "tp": 2}, {"fsdp": 2, "tp": 2, "sp": 2}], ids=["tp2", "tp2-sp2"]
)
def test_a_checkpoint_goes_on_on_another_mesh(
    first: Run, train: Train, claim: Claim, mesh: dict[str, int], request: pytest.FixtureRequest
) -> None:
    name = f"mesh-{request.node.callspec.id}"
    drop_checkpoints(copy_output(claim, "first", name), 10, 12)
    again = train(claim.config(name, attempt=2, mesh=mesh, **EIGHT_CHIPS))
    assert again.report.resumed_from == 5
    assert again.losses == pytest.approx(first.losses[5:], abs=1e-5)


@pytest.mark.slow
def test_a_checkpoint_goes_on_on_one_device(first: Run, claim: Claim, tmp_path: Path) -> None:
    drop_checkpoints(copy_output(claim, "first", "one-chip"), 10, 12)
    config = claim.config("one-chip", attempt=2, **EIGHT_CHIPS)
    mesh = config.plan.mesh.model_copy(update={"fsdp": 1})
    plan = config.plan.model_copy(update={"chips": 1, "hosts": 1, "chips_per_host": 1, "mesh": mesh})
    finish(config.model_copy(update={"plan": plan}), tmp_path / "log")
    losses = {line["step"]: line["loss"] for line in claim.metrics("one-chip") if "loss" in line}
    assert sorted(losses) == list(range(6, 13))
    assert list(losses.values()) == pytest.approx(first.losses[5:], abs=1e-5)


def test_the_best_checkpoint_is_kept_and_rated(train: Train, claim: Claim) -> None:
    """There is an evaluation at every checkpoint, though evalSteps asks for one at the end."""
    spec = EIGHT_CHIPS | {
        "training": TRAINING
        | {
            "maxSteps": 6,
            "checkpointSteps": 1,
            "checkpointsToKeep": 1,
            "evalSteps": 6,
            "keepBestCheckpoint": True,
        }
    }
    run = train(claim.config("best", **spec))
    margins = {step: found["rewards/margins"] for step, found in run.report.evaluations.items() if step}
    assert sorted(margins) == [1, 2, 3, 4, 5, 6]
    saved = [event.step for event in run.events if isinstance(event, Saved)]
    assert saved == [1, 2, 3, 4, 5, 6], "the last step is one of those that are due and is saved once"
    kept = {max(margins, key=lambda step: margins[step]), 6}
    found = {entry.name for entry in (claim.path / "best" / OUTPUT_CHECKPOINTS).glob("step_*")}
    assert found == {f"step_{step}" for step in kept}


Pairwise = list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]


@pytest.fixture
def per_step(monkeypatch: pytest.MonkeyPatch) -> Pairwise:
    """Margins and length differences of the pairs of each step to come, scored one by one before it."""
    from dpojob_trainer.training.trainer import PreferenceTrainer

    found: Pairwise = []
    dispatch = PreferenceTrainer.dispatch

    def watched(self: Any, state: Any, batch: Any) -> Any:
        arrays = batch.arrays
        logps = self._score(state, {name: array for name, array in arrays.items() if name[:4] != "ref_"})
        sides = ("chosen", "rejected")
        gains = [
            np.float64(side) - arrays[f"ref_{name}_logps"] for name, side in zip(sides, logps, strict=True)
        ]
        tokens = [np.asarray(arrays[f"{name}_label_mask"]).sum(-1) for name in sides]
        found.append((0.1 * (gains[0] - gains[1]), tokens[0] - tokens[1]))
        return dispatch(self, state, batch)

    monkeypatch.setattr(PreferenceTrainer, "dispatch", watched)
    return found


def assert_moments(
    told: dict[str, float], margins: np.ndarray[Any, Any], longer: np.ndarray[Any, Any]
) -> None:
    """Check what a step tells of margins and lengths against NumPy."""
    spread = np.cov(margins, longer, bias=True)
    assert told["lengths/differences"] == pytest.approx(longer.mean(), abs=1e-5)
    assert told["lengths/variance"] == pytest.approx(spread[1, 1], rel=1e-5)
    assert told["rewards/margin_variance"] == pytest.approx(spread[0, 0], rel=1e-3)
    assert told["lengths/covariance"] == pytest.approx(spread[0, 1], rel=1e-3, abs=1e-4)
    assert told["lengths/correlation"] == pytest.approx(np.corrcoef(margins, longer)[0, 1], abs=1e-3)


def test_gradient_accumulation_changes_nothing(
    first: Run, train: Train, claim: Claim, per_step: Pairwise
) -> None:
    spec = EIGHT_CHIPS | {
        "training": TRAINING | {"globalBatchSize": 16, "maxSteps": 3, "logSteps": 2},
        "dataset": {"uri": f"pvc://{claim.name}/pairs.jsonl", "columns": {"prompt": "prompt"}},
        "gradientCheckpointing": "nothing_saveable",
    }
    whole = train(claim.config("whole", **spec))
    spec["training"] = spec["training"] | {"gradientAccumulationSteps": 2}
    parts = train(claim.config("parts", **spec))
    for output in ("whole", "parts"):
        steps = [line["step"] for line in claim.metrics(output) if "loss" in line]
        assert steps == [1, 2, 3], "logSteps thins what trackers get, not metrics.jsonl"
        # Before the first step margins are rounding.
        for line in [line for line in claim.metrics(output) if "loss" in line][1:]:
            place = line["step"] - 1 + (3 if output == "parts" else 0)
            assert_moments(line, *per_step[place])
    both = ([event for event in run.events if isinstance(event, Step)] for run in (whole, parts))
    for one, two in zip(*both, strict=True):
        # Of the first step's pairs, which are tied, rounding decides which one is ahead.
        ahead = ["rewards/accuracies"] if one.step > 1 else []
        for name in ("loss", *ahead, "rewards/margins", "grad_norm"):
            assert one.numbers[name] == pytest.approx(two.numbers[name], abs=1e-4), name


def test_short_batches_have_the_losses_of_padded_ones_and_all_programs_come_first(
    train: Train, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpojob_trainer.training import trainer

    compiled: list[int] = []
    compile_all = trainer.compile_all

    def counted(tasks: Iterator[Callable[[], None]], tell: Callable[[str], None]) -> None:
        found = list(tasks)
        compiled.append(len(found))
        compile_all(found, tell)

    monkeypatch.setattr(trainer, "compile_all", counted)
    write_ragged_pairs(claim.path / "ragged.jsonl", 32)
    found = {}
    for buckets in (6, 1):
        name = f"ragged-{buckets}"
        wanted = {"shuffle": False, "maxSteps": 4, "lengthBuckets": buckets, "gradientAccumulationSteps": 2}
        spec = EIGHT_CHIPS | {
            "training": TRAINING | wanted,
            "dataset": {"uri": f"pvc://{claim.name}/ragged.jsonl", "columns": {"prompt": "prompt"}},
        }
        run = train(claim.config(name, **spec))
        begun = next(at for at, event in enumerate(run.events) if isinstance(event, Begun))
        assert run.events[begun:].count(Phase("compiling")) == 1
        found[name] = [line for line in claim.metrics(name) if "loss" in line]
    short, long = found.values()
    assert compiled == [len({line["padded_tokens"] for line in lines}) for lines in (short, long)] == [2, 1]
    for one, two in zip(short, long, strict=True):
        assert one["tokens"] == two["tokens"]
        for number in ("loss", "grad_norm", "logps/chosen", "logps/rejected", "rewards/margins"):
            assert one[number] == pytest.approx(two[number], rel=1e-5, abs=1e-5), number


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        {"dpo": {"maxPromptLength": 32, "maxCompletionLength": 32, "referenceFree": True}},
        {"dpo": {"maxPromptLength": 32, "maxCompletionLength": 32, "lossType": "ipo"}},
        {"mesh": {"fsdp": 2, "tp": 2, "sp": 2}},
        {"precision": {"params": "float32", "compute": "bfloat16"}},
        {"training": TRAINING | {"optimizer": "lion", "learningRate": 1e-4, "weightDecay": 0.1}},
    ],
    ids=["reference-free", "ipo", "fsdp-tp-sp", "bfloat16", "lion"],
)
def test_variants_learn(
    train: Train, claim: Claim, spec: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    found = train(claim.config(name, **(EIGHT_CHIPS | spec))).report.evaluations
    assert found[12]["loss"] < found[0]["loss"]
    assert found[12]["rewards/margins"] > found[0]["rewards/margins"]


def test_an_error_around_a_step_ends_the_run(
    train: Train, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EasyDeL's own loop takes a TypeError in a hook for the end of training and returns normally."""
    from dpojob_trainer.training import recorder

    def broken(self: Any, state: Any, step: int, numbers: dict[str, float]) -> None:
        if step == 2:
            raise TypeError("wrong argument")

    monkeypatch.setattr(recorder.Recorder, "stepped", broken)
    with pytest.raises(TypeError, match="wrong argument"):
        train(claim.config("hook", **EIGHT_CHIPS))
    assert not (claim.path / "hook" / OUTPUT_MODEL).exists()


def test_a_loss_that_is_not_finite_ends_the_run(train: Train, claim: Claim) -> None:
    poisoned = claim.path / "poisoned"
    shutil.copytree(claim.path / "model", poisoned)
    parameters = load_file(poisoned / "model.safetensors")
    parameters["model.norm.weight"] = np.full_like(parameters["model.norm.weight"], np.nan)
    save_file(parameters, poisoned / "model.safetensors")
    with pytest.raises(TrainerError) as caught:
        train(claim.config("nan", model={"uri": f"pvc://{claim.name}/poisoned"}, **EIGHT_CHIPS))
    assert caught.value.reason is TrainerReason.NON_FINITE_LOSS
    assert not (claim.path / "nan" / OUTPUT_MODEL).exists()


def test_a_checkpoint_that_cannot_be_written_ends_the_run(train: Train, claim: Claim) -> None:
    (claim.path / "full").mkdir()
    config = claim.config("full", **EIGHT_CHIPS)
    store.open_store(config.output.uri).claim(config.job.uid, config.job.name)
    (claim.path / "full" / OUTPUT_CHECKPOINTS).write_text("a file where a folder should be")
    with pytest.raises(TrainerError) as caught:
        train(config)
    assert caught.value.reason is TrainerReason.CHECKPOINT_FAILED


def drop_checkpoints(output: Path, *steps: int) -> None:
    for step in steps:
        shutil.rmtree(output / OUTPUT_CHECKPOINTS / f"step_{step}")


def break_checkpoints(output: Path, *steps: int) -> None:
    """Take the second half of every array file."""
    for step in steps:
        for file in (output / OUTPUT_CHECKPOINTS / f"step_{step}").rglob("d/*"):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def copy_output(claim: Claim, source: str, target: str) -> Path:
    """Copy a run's output to another job's folder, as if that job had written it."""
    config = claim.config(target)
    store.open_store(config.output.uri).claim(config.job.uid, config.job.name)
    folder = claim.path / target
    for entry in (claim.path / source).iterdir():
        if entry.is_dir():
            shutil.copytree(entry, folder / entry.name)
    return folder
