"""From bytes and work to the verdict, the seconds and the changes that could make a job fit."""

from typing import Any

import numpy as np
import pytest
from tests.unit import plan_builders

from dpojob_api.accelerator import chips
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.data.lengths import PairLengths
from dpojob_trainer.plan.fixes import candidates
from dpojob_trainer.plan.lengths import epoch_of, read_lengths
from dpojob_trainer.plan.measured import Measured
from dpojob_trainer.plan.memory import Sizes, Stage, breakdown, judge
from dpojob_trainer.plan.stages import stages_of
from dpojob_trainer.plan.telling import Probe, answer_of, tried
from dpojob_trainer.plan.timing import Load, StepTime, mean_step, step_time
from dpojob_trainer.training.utilisation import share_of_peak

GIB = 2**30
META = {"name": "job", "namespace": "test", "uid": "uid"}
V4 = chips()["v4"]
SIZES = Sizes(parameters=10, optimizer=20, reference=5, logits=4, elements=100, multiplied=90, largest=3)


def config(**spec: Any) -> TrainerConfig:
    return plan_builders.config(**({"gradientCheckpointing": "none"} | spec))


def measured(**values: float) -> Measured:
    base: dict[str, float] = {"arguments": 36, "outputs": 31, "aliased": 30, "temporaries": 50, "code": 2}
    return Measured(**(base | values))


def test_the_kinds_add_up_to_the_total() -> None:
    kinds = breakdown(measured(), SIZES)
    assert kinds["batch"] == 1
    assert kinds["activations and buffers"] == 50 - 10 - 4
    assert sum(kinds.values()) == measured().total


def test_a_small_heap_is_not_divided_into_more_than_it_is() -> None:
    kinds = breakdown(measured(temporaries=12), SIZES)
    assert (kinds["gradients"], kinds["logits"], kinds["activations and buffers"]) == (10, 2, 0)


def test_the_largest_stage_decides() -> None:
    stages = [Stage("a", 1.0, None, True), Stage("b", 31.0, None, True)]
    verdict = judge(stages, 30.0, at_least=False)
    assert (verdict.fits, verdict.stage, verdict.tight) == (False, "b", False)
    assert verdict.ends_in == "b"
    assert judge([Stage("first", 30.5, None, True), *stages], 30.0, at_least=False).ends_in == "first"
    assert judge(stages, 31.5, at_least=False).tight
    assert judge(stages, 31.5, at_least=False).ends_in is None
    assert not judge(stages, 31.5, at_least=True).fits, "what the compiler refused does not fit"


def test_the_optimizer_starts_beside_policy_and_reference() -> None:
    stages = {stage.name: stage for stage in stages_of(config(), SIZES, 89.0, 21.0, {"evaluation": 40.0})}
    assert stages["optimizer initialisation"].device == 10 + 5 + 21
    assert stages["loading"].host == 2 * 4 * 3
    assert stages["training step"].device == 89.0
    assert stages["checkpoint"].device == SIZES.resident
    assert stages["checkpoint"].host == 4 * (SIZES.parameters + SIZES.optimizer)
    names = ["loading", "optimizer initialisation", "evaluation", "training step", "checkpoint", "export"]
    assert list(stages) == names
    without = stages_of(config(training={"saveOptimizerState": False}), SIZES, 89.0, 21.0, {})
    assert {stage.name: stage.host for stage in without}["checkpoint"] == 4 * SIZES.parameters


def test_every_generation_of_the_table_has_a_chip() -> None:
    assert V4.usable_hbm_bytes == int(30.75 * GIB)
    assert set(chips()) == {"v4", "v5e", "v5p", "v6e", "tpu7x"}


def test_a_step_waits_for_collectives_that_nothing_hides() -> None:
    time = step_time(measured(cycles=2.1e9, blocking=150e9, hidden=15e9), V4, 32)
    assert (time.compute, time.waiting, time.hidden) == pytest.approx((2.0, 1.0, 0.1))
    assert time.seconds == pytest.approx(3.0)


def test_no_step_is_faster_than_its_arithmetic_at_the_peak() -> None:
    time = step_time(measured(cycles=1.0, products=4 * 275e12), V4, 4)
    assert time.seconds == time.floor == pytest.approx(1.0)


def test_short_batches_take_their_share_and_move_the_same_parameters() -> None:
    time = StepTime(compute=4.0, waiting=1.0, hidden=0.0, floor=0.0)
    assert mean_step({4096: time}, [Load(1024, 3), Load(4096, 1)]) == pytest.approx((3 * 2.0 + 5.0) / 4)


def test_short_batches_that_keep_more_have_their_own_time() -> None:
    long, short = (StepTime(compute, waiting=0.0, hidden=0.0, floor=0.0) for compute in (4.0, 1.5))
    loads = [Load(512, 2), Load(2048, 1), Load(4096, 1)]
    assert mean_step({4096: long, 1024: short}, loads) == pytest.approx((2 * 0.75 + 2.0 + 4.0) / 4)


def test_utilisation_is_of_all_chips() -> None:
    assert share_of_peak(275e12, 2.0, V4, 4) == pytest.approx(1 / 8)


def test_recomputing_comes_first_with_whole_sequences_and_every_change_is_a_valid_job() -> None:
    found = list(candidates(config(mesh={"fsdp": 1, "sp": -1})))
    recomputed = {"spec.gradientCheckpointing": "nothing_saveable"}
    assert found[0].changes == recomputed | {"spec.mesh.fsdp": 32, "spec.mesh.sp": 1}
    assert found[1].changes == recomputed
    assert next(candidates(config(mesh={"fsdp": 32}))).changes == recomputed
    for fix in found:
        training, mesh = fix.config.training, fix.config.plan.mesh
        assert training.global_batch_size % (training.gradient_accumulation_steps * mesh.data_shards) == 0
        assert np.prod(mesh.dims()) == fix.config.plan.chips


def test_short_batches_keep_no_more_than_others_before_others_recompute_more() -> None:
    job = config(gradientCheckpointing="checkpoint_dots", shortGradientCheckpointing={"none": 512})
    first, second, *_ = candidates(job)
    assert first.changes == {"spec.shortGradientCheckpointing.none": 0}
    assert second.changes == first.changes | {"spec.gradientCheckpointing": "nothing_saveable"}
    assert second.config.checkpointing_of(512).value == "nothing_saveable"


def test_weights_that_every_chip_would_hold_are_divided_first() -> None:
    found = next(candidates(config(mesh={"dp": -1, "fsdp": 1})))
    assert found.changes == {"spec.mesh.dp": 1, "spec.mesh.fsdp": 32}
    assert found.config.plan.mesh.dims() == (1, 32, 1, 1, 1)
    slices = config(
        accelerator={"type": "v4-64", "slices": 2},
        mesh={"dp": 4, "fsdp": 16},
        training={"globalBatchSize": 64},
    )
    assert next(candidates(slices)).changes == {"spec.mesh.dp": 2, "spec.mesh.fsdp": 32}, (
        "between slices they stay"
    )


def test_what_is_done_already_is_not_suggested() -> None:
    spec = {"gradientCheckpointing": "nothing_saveable", "precision": {"params": "bfloat16"}}
    assert [fix.changes for fix in candidates(config(**spec))] == []


def test_a_larger_slice_is_of_the_same_generation_and_divides_the_batch() -> None:
    batch = {"globalBatchSize": 128, "gradientAccumulationSteps": 1}
    types = [fix.changes.get("spec.accelerator.type") for fix in candidates(config(training=batch))]
    assert [name for name in types if name] == ["v4-128", "v4-256"]


def lengths(count: int, prompt: int, completion: int) -> PairLengths:
    return PairLengths(*(np.full(count, tokens, np.int64) for tokens in (prompt, completion, completion)))


def test_unknown_pairs_are_as_long_as_allowed() -> None:
    epoch = epoch_of(config(dpo={"maxPromptLength": 256, "maxCompletionLength": 128}), None)
    assert (epoch.longest.sequence, epoch.longest.completion, epoch.pairs) == (384, 128, 0)
    assert epoch.tokens == 2 * 32 * 384


def test_known_pairs_get_the_trainers_own_lengths() -> None:
    short, long = lengths(320, 90, 30), lengths(64, 300, 200)
    both = PairLengths(
        *(np.concatenate(pair) for pair in zip(vars(short).values(), vars(long).values(), strict=True))
    )
    epoch = epoch_of(config(dpo={"maxPromptLength": 512, "maxCompletionLength": 512}), both)
    assert epoch.loads == (Load(128, 10), Load(512, 2))
    assert epoch.longest.sequence == 512


@pytest.mark.parametrize(
    "text", ['{"prompt": [1]}', "[]", '{"prompt": [1], "chosen": [1, 2], "rejected": [1]}', "no JSON"]
)
def test_a_wrong_file_of_lengths_is_refused(tmp_path: Any, text: str) -> None:
    file = tmp_path / "lengths.json"
    file.write_text(text)
    with pytest.raises(ValueError):
        read_lengths(file, config())


def probe(total: float, step: Measured | None) -> Probe:
    stages = [Stage("training step", total, None, True)]
    return Probe(40, [2, 4], SIZES, step, stages, judge(stages, 30.0, at_least=step is None), "f" * 64)


def test_the_answer_names_the_change_that_fits_and_what_the_job_costs() -> None:
    own = config(training={"maxSteps": 3600})
    fix = next(candidates(own))
    fits = tried(fix, probe(20.0, measured(cycles=1.05e9)))
    answer = answer_of(own, probe(40.0, measured(cycles=1.05e9)), epoch_of(own, None), 3600, 2.0, [fits], 1.0)
    assert (answer.fits, answer.fix, answer.needed_bytes) == (False, fits, 40)
    assert answer.time is not None
    assert (answer.time.step_seconds, answer.time.hours, answer.time.cost) == pytest.approx((1.0, 1.0, 64.0))


def test_a_refused_step_has_bytes_at_least_and_no_seconds() -> None:
    own = config()
    answer = answer_of(own, probe(40.0, None), epoch_of(own, None), None, None, [], 1.0)
    assert (answer.at_least, answer.time, answer.bytes, answer.fix) == (True, None, {}, None)
    assert any("at least" in remark for remark in answer.remarks)
