"""Which pairs make up a step, how they are padded, and the plan of steps and learning rates."""

import numpy as np
import pytest
from datasets import Dataset
from tests.trainer.jobs import Claim

from dpojob_api.reasons import TrainerReason
from dpojob_api.training_spec import Scheduler, TrainingSpec
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.training import failures, plan
from dpojob_trainer.training.batches import (
    EvalBatches,
    Padding,
    Shape,
    TrainBatches,
    collate,
    order,
    token_counts,
)
from dpojob_trainer.training.shapes import padding_of

PADDING = Padding((Shape(sequence=6, completion=4),), pad_id=9)
RAGGED = Padding((Shape(8, 8), Shape(16, 16), Shape(32, 32)), pad_id=9)


def pairs(count: int) -> Dataset:
    """Pair n has prompt [n], chosen [n, n] and rejected [n, n, n]."""
    rows = [{"prompt_ids": [n], "chosen_ids": [n] * 2, "rejected_ids": [n] * 3} for n in range(count)]
    return Dataset.from_list(rows)


def train(count: int, *, shuffle: bool, seed: int = 7) -> TrainBatches:
    return TrainBatches(pairs(count), 4, PADDING, seed, shuffle)


def ragged(count: int) -> Dataset:
    """Pair n has a prompt of one token and completions of 1 to 31 tokens of id n."""
    sizes = np.random.default_rng(0).integers(1, 32, count).tolist()
    rows = [
        {"prompt_ids": [n], "chosen_ids": [n] * size, "rejected_ids": [n]} for n, size in enumerate(sizes)
    ]
    return Dataset.from_list(rows)


def test_a_completion_follows_its_prompt_and_padding_follows_both() -> None:
    rows = {"prompt_ids": [[1, 2]], "chosen_ids": [[3]], "rejected_ids": [[4, 5, 6]]}
    batch = collate(rows, PADDING.shapes[0], PADDING.pad_id)
    assert batch["chosen_input_ids"].tolist() == [[1, 2, 3, 9, 9, 9]]
    assert batch["chosen_attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0]]
    assert batch["rejected_input_ids"].tolist() == [[1, 2, 4, 5, 6, 9]]
    assert batch["rejected_labels"].tolist() == [[4, 5, 6, 9]]
    assert batch["rejected_label_mask"].tolist() == [[1, 1, 1, 0]]
    assert batch["chosen_label_mask"].tolist() == [[1, 0, 0, 0]]
    assert all(array.dtype == np.int32 for array in batch.values())
    assert token_counts(batch) == {"tokens": 3 + 5, "padded_tokens": 12}


def test_a_label_stands_behind_the_place_that_predicts_it() -> None:
    rows = {"prompt_ids": [[1, 2], [1]], "chosen_ids": [[3, 4], [5]], "rejected_ids": [[6], [7, 8]]}
    batch = collate(rows, PADDING.shapes[0], PADDING.pad_id)
    for side in ("chosen", "rejected"):
        following = np.roll(batch[f"{side}_input_ids"], -1, axis=1)
        found = np.take_along_axis(following, batch[f"{side}_places"], axis=1)
        kept = batch[f"{side}_label_mask"].astype(bool)
        assert found[kept].tolist() == batch[f"{side}_labels"][kept].tolist()


def test_the_longest_pair_just_fits() -> None:
    rows = {"prompt_ids": [[1, 2]], "chosen_ids": [[3, 4, 5, 6]], "rejected_ids": [[7]]}
    assert collate(rows, PADDING.shapes[0], 9)["chosen_places"].tolist() == [[1, 2, 3, 4]]


def test_ragged_batches_have_the_shortest_length_that_fits_and_every_pair_once() -> None:
    batches = TrainBatches(ragged(64), 4, RAGGED, 7, True)
    seen: list[int] = []
    lengths = []
    for step in range(16):
        mask = batches[step]["chosen_attention_mask"]
        lengths.append(mask.shape[1])
        assert mask.shape[1] == next(s.sequence for s in RAGGED.shapes if s.sequence >= mask.sum(1).max())
        seen += batches[step]["chosen_input_ids"][:, 0].tolist()
    assert sorted(seen) == list(range(64))
    assert set(lengths) == {8, 16, 32}
    assert lengths != sorted(lengths)


def test_without_shuffle_ragged_batches_keep_the_files_order() -> None:
    batches = TrainBatches(ragged(64), 4, RAGGED, 7, False)
    assert [batches.indices(step).tolist() for step in (0, 15, 16)] == [
        [0, 1, 2, 3],
        [60, 61, 62, 63],
        [0, 1, 2, 3],
    ]


def test_a_limit_evaluates_the_first_pairs_of_the_file_whatever_their_length() -> None:
    counted = [
        pair
        for batch, weights in EvalBatches(ragged(64), 4, RAGGED, limit=3)
        for pair, weight in zip(batch["chosen_input_ids"][:, 0].tolist(), weights, strict=True)
        if weight
    ]
    assert sorted(counted) == list(range(12))


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_shapes_fit_all_pairs_and_are_the_same_on_every_mesh(claim: Claim, shuffle: bool) -> None:
    training = {"globalBatchSize": 4, "maxSteps": 1, "shuffle": shuffle}
    train, held_out = (
        ragged(64),
        Dataset.from_list([{"prompt_ids": [0] * 32, "chosen_ids": [1] * 30, "rejected_ids": [1]}]),
    )
    found = [
        padding_of(claim.config("x", training=training, mesh=mesh), train, held_out, 9)
        for mesh in ({"fsdp": 4}, {"sp": 2, "fsdp": 2})
    ]
    assert found[0] == found[1]
    assert found[0].shapes[-1] == Shape(64, 32)
    off = padding_of(claim.config("x", training=training | {"lengthBuckets": 1}), train, held_out, 9)
    assert off.shapes == (Shape(64, 32),)


def test_without_shuffle_the_file_order_repeats() -> None:
    batches = train(10, shuffle=False)
    assert [batches.indices(step).tolist() for step in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]


def test_every_epoch_has_its_own_order_without_repeating_a_pair() -> None:
    batches = train(8, shuffle=True)
    epochs = [np.concatenate([batches.indices(2 * e), batches.indices(2 * e + 1)]).tolist() for e in range(3)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_step_depends_on_seed_and_number_alone() -> None:
    first, again, other = train(40, shuffle=True), train(40, shuffle=True), train(40, shuffle=True, seed=8)
    assert first.indices(13).tolist() == again.indices(13).tolist()
    assert first.indices(13).tolist() != other.indices(13).tolist()


def test_a_short_run_needs_the_rows_of_its_steps_alone() -> None:
    batches = train(42, shuffle=True)
    few = batches.rows_of(3)
    assert few.tolist() == sorted(row for step in range(3) for row in batches.indices(step).tolist())
    assert len(few) == 12 and few.tolist() != list(range(12))
    assert batches.rows_of(10).tolist() == list(range(42)), "later epochs take other pairs than the first"


def test_the_order_of_a_seed_is_the_same_everywhere_and_for_good() -> None:
    """A run that resumes on another machine or after an upgrade must see the order that it began with."""
    assert order(8, 42, 0, shuffle=True).tolist() == [3, 4, 2, 7, 6, 1, 5, 0]
    assert order(8, 42, 1, shuffle=True).tolist() == [0, 4, 6, 1, 2, 7, 3, 5]


def test_a_far_step_needs_none_of_those_before_it() -> None:
    batches = train(8, shuffle=True)
    assert batches.indices(2 * 10**12 + 1).tolist() == order(8, 7, 10**12, shuffle=True)[4:].tolist()


def test_the_last_evaluation_batch_is_filled_up_with_weight_0() -> None:
    batches = EvalBatches(pairs(5), 4, PADDING)
    weights = [w.tolist() for _, w in batches]
    assert weights == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert {len(batch["chosen_input_ids"]) for batch, _ in batches} == {4}


@pytest.mark.parametrize(
    ("count", "size"), [(1, 4), (3, 4), (4, 4), (5, 4), (8, 4), (9, 4), (13, 8), (2, 16)]
)
def test_every_held_out_pair_counts_exactly_once(count: int, size: int) -> None:
    counted = dict.fromkeys(range(count), 0.0)
    for batch, weights in EvalBatches(pairs(count), size, PADDING):
        assert {len(array) for array in (weights, *batch.values())} == {size}
        for pair, weight in zip(batch["chosen_input_ids"][:, 0].tolist(), weights.tolist(), strict=True):
            counted[pair] += weight
    assert counted == dict.fromkeys(range(count), 1.0)


def test_the_rows_of_an_evaluation_are_those_of_its_batches() -> None:
    assert sorted(EvalBatches(ragged(64), 4, RAGGED, 3).rows.tolist()) == list(range(12))


def test_max_eval_steps_limits_the_batches() -> None:
    assert len(list(EvalBatches(pairs(9), 4, PADDING, limit=1))) == 1


@pytest.mark.parametrize(
    ("training", "steps"),
    [
        ({"epochs": 2}, 2 * (50 // 8)),
        ({}, 50 // 8),
        ({"max_steps": 100}, 100),
    ],
)
def test_total_steps(training: dict[str, int], steps: int) -> None:
    assert plan.total_steps(TrainingSpec(global_batch_size=8, **training), 50) == steps


@pytest.mark.parametrize("scheduler", [Scheduler.COSINE, Scheduler.LINEAR])
def test_the_learning_rate_rises_then_falls_to_its_end_on_the_last_step(scheduler: Scheduler) -> None:
    training = TrainingSpec(learning_rate=1e-3, learning_rate_end=1e-4, scheduler=scheduler, warmup_steps=4)
    rate = plan.learning_rate(training, 20)
    rates = [float(rate(step)) for step in range(20)]
    assert rates[0] == pytest.approx(1e-3 / 5)
    assert rates[4] == pytest.approx(1e-3) == max(rates)
    assert rates[19] == pytest.approx(1e-4)
    assert rates[:5] == sorted(rates[:5])
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_a_constant_learning_rate_may_be_warmed_up() -> None:
    rate = plan.learning_rate(
        TrainingSpec(learning_rate=1e-3, scheduler=Scheduler.CONSTANT, warmup_steps=2), 10
    )
    assert float(rate(0)) < float(rate(1)) < 1e-3
    assert [float(rate(step)) for step in (2, 9)] == pytest.approx([1e-3, 1e-3])


def test_a_run_of_one_step_takes_the_peak() -> None:
    assert float(plan.learning_rate(TrainingSpec(learning_rate=1e-3, warmup_steps=9), 1)(0)) == pytest.approx(
        1e-3
    )


def test_small_logits_are_one_block() -> None:
    assert plan.head_blocks(2, 64, 512) == (1, 1)


@pytest.mark.parametrize(("sequences", "length"), [(4, 4096), (128, 4096), (2, 48), (16, 4097)])
def test_blocks_of_logits_are_small_and_divide_the_positions(sequences: int, length: int) -> None:
    columns, positions = plan.head_blocks(sequences, length, 151936)
    assert length % positions == 0
    assert sequences * length * 151936 * 4 <= plan.MAX_LOGIT_BYTES * columns * positions
    assert 151936 / columns >= plan.MIN_COLUMNS / 2


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes"),
            "HBMExhausted",
            "gradientCheckpointing",
        ),
        (MemoryError(), "HBMExhausted", "accelerator.type"),
        (RuntimeError("Gloo all-reduce: Connection closed by peer"), "HostLost", "another host"),
        (TypeError("bad\nTraceback"), "Internal", "TypeError: bad"),
        (KeyError(), "Internal", "KeyError"),
    ],
)
def test_an_exception_gets_its_reason(claim: Claim, error: Exception, reason: str, words: str) -> None:
    found = failures.explain(error, claim.config("x"))
    assert found.reason.value == reason
    assert words in found.message
    assert "\n" not in found.message


def test_a_documented_failure_stays_as_it_is(claim: Claim) -> None:
    error = TrainerError(TrainerReason.DATASET_EMPTY, "none", step=3)
    assert failures.explain(error, claim.config("x")) is error


def test_memory_hints_leave_out_what_is_already_so(claim: Claim) -> None:
    hints = failures.memory_hints(claim.config("x", gradientCheckpointing="nothing_saveable"))
    assert "radientCheckpointing" not in hints
    short = {"checkpointDots": 512}
    hints = failures.memory_hints(claim.config("x", shortGradientCheckpointing=short))
    assert hints.startswith("the model does not fit into memory: leave out shortGradientCheckpointing")
    assert "maxCompletionLength" in hints
