"""The static lengths of batches and which pairs share one: pure functions, against brute force and real lengths."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpojob_trainer.training import buckets

# Tokens of the 300 pairs of LLaMA-Factory's dpo_en_demo.json with SmolLM2's tokenizer and template, nothing cut.
DEMO = json.loads((Path(__file__).parent / "demo_lengths.json").read_text())
SMALL = st.lists(st.integers(1, 40), min_size=1, max_size=40)
# The same examples in every run, and no timing: a slow machine must not fail them.
IN_ANY_CASE = settings(derandomize=True, deadline=None)


def cost(lengths: list[int], chosen: tuple[int, ...], size: int) -> int:
    """Sum the length of every batch if pairs that fill none of their length rise, counted batch by batch."""
    total, waiting = 0, 0
    for below, length in zip((0, *chosen), chosen, strict=False):
        waiting += sum(below < tokens <= length for tokens in lengths)
        total += waiting // size * length
        waiting %= size
    return total


@IN_ANY_CASE
@given(SMALL, st.integers(1, 5), st.sampled_from([1, 4, 16]), st.integers(1, 4))
def test_no_other_choice_leaves_less_padding(tokens: list[int], size: int, unit: int, most: int) -> None:
    candidates, filled = buckets.batches_within(np.array(tokens), size, unit, 40)
    plans = buckets.cheapest(candidates, filled, most)
    for count, (plan, found) in enumerate(plans, start=1):
        chosen = tuple(int(candidates[at]) for at in plan)
        below = combinations(candidates[:-1].tolist(), count - 1)
        best = min(cost(tokens, (*some, int(candidates[-1])), size) for some in below)
        assert len(chosen) <= count
        assert found == cost(tokens, chosen, size) == best


@IN_ANY_CASE
@given(SMALL, st.integers(1, 8), st.sampled_from([1, 4, 16]), st.integers(1, 6), st.integers(40, 50))
def test_lengths_ascend_fit_every_pair_and_keep_the_unit(
    tokens: list[int], size: int, unit: int, most: int, longest: int
) -> None:
    lengths = buckets.choose(np.array(tokens), size=size, unit=unit, longest=longest, most=most)
    assert list(lengths) == sorted(set(lengths))
    assert 1 <= len(lengths) <= most
    assert max(tokens) <= lengths[-1] <= longest
    assert all(length % unit == 0 or length == longest for length in lengths)


def test_one_length_is_the_longest() -> None:
    assert buckets.choose(np.array([3, 4]), size=1, unit=4, longest=64, most=1) == (64,)


def test_a_length_that_saves_less_than_a_step_is_not_compiled() -> None:
    """Of 10 batches the first could be shorter, by a quarter of a step."""
    tokens = np.array([48] + [64] * 9)
    assert buckets.choose(tokens, size=1, unit=16, longest=64, most=6) == (64,)


@IN_ANY_CASE
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 5), st.data())
def test_every_pair_is_in_one_batch_and_none_is_dropped_that_was_not_before(
    bucket: list[int], size: int, epoch: int, data: st.DataObject
) -> None:
    order = np.array(data.draw(st.permutations(range(len(bucket)))))
    batches = buckets.gathered(order, np.array(bucket), size, [7, epoch, 1])
    assert batches.shape == (len(bucket) // size, size)
    assert sorted(batches.ravel().tolist()) == sorted(order[: len(bucket) // size * size].tolist())


@IN_ANY_CASE
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 9))
def test_pairs_rise_only_from_what_is_left_of_smaller_buckets(bucket: list[int], size: int) -> None:
    batches = buckets.gathered(np.arange(len(bucket)), np.array(bucket), size, [0])
    found = np.array(bucket)[batches]
    for number in range(4):
        assert ((found < number) & (found.max(axis=1, keepdims=True) == number)).sum() < size


def test_the_batches_of_a_seed_are_the_same_everywhere_and_for_good() -> None:
    """A run that resumes on another machine or after an upgrade must see the batches that it began with."""
    order, bucket = np.arange(12), np.array([0, 1] * 6)
    first, second = (buckets.gathered(order, bucket, 4, [42, epoch, 1]).tolist() for epoch in (0, 1))
    assert first == [[8, 10, 1, 3], [5, 7, 9, 11], [0, 2, 4, 6]]
    assert second == [[0, 2, 4, 6], [5, 7, 9, 11], [8, 10, 1, 3]]


def test_with_one_bucket_the_order_is_that_of_the_pairs() -> None:
    order = np.array([3, 4, 2, 7, 6, 1, 5, 0])
    assert buckets.gathered(order, np.zeros(8, int), 3, [0]).tolist() == [[3, 4, 2], [7, 6, 1]]


def test_batches_are_not_sorted_by_length() -> None:
    bucket = np.repeat([0, 1, 2], 80)
    found = bucket[buckets.gathered(np.arange(240), bucket, 8, [1])].max(axis=1)
    assert sorted(found) == [0] * 10 + [1] * 10 + [2] * 10
    assert len(np.flatnonzero(np.diff(found))) > 10


def share_of_padding(prompt: int, completion: int, size: int, unit: int, most: int) -> float:
    """Return the padding of one epoch of the demo's pairs, all batches counted."""
    prompts = np.minimum(DEMO["prompt"], prompt)
    sides = [np.minimum(DEMO[side], completion) for side in ("chosen", "rejected")]
    longer = prompts + np.maximum(*sides)
    lengths = buckets.choose(longer, size=size, unit=unit, longest=prompt + completion, most=most)
    bucket = np.searchsorted(lengths, longer)
    batches = buckets.gathered(
        np.random.default_rng([42, 0]).permutation(len(longer)), bucket, size, [42, 0, 1]
    )
    padded = sum(2 * size * lengths[at] for at in bucket[batches].max(axis=1))
    return float(1 - (2 * prompts + sides[0] + sides[1])[batches].sum() / padded)


@pytest.mark.parametrize("size", [4, 8])
def test_the_demo_pairs_have_less_than_15_percent_padding(size: int) -> None:
    static = share_of_padding(256, 256, size, 16, 1)
    assert static == pytest.approx(0.274, abs=0.005)
    assert share_of_padding(256, 256, size, 16, 6) < 0.15


def test_widths_hold_every_completion_up_to_a_length() -> None:
    longer, completions = np.array([10, 20, 30]), np.array([8, 3, 17])
    assert buckets.widths((16, 24, 32), longer, completions, 8) == (8, 8, 24)


def test_held_out_pairs_raise_the_last_length() -> None:
    assert buckets.raised((16, 32), 33, 16, 100) == (16, 48)
    assert buckets.raised((16, 32), 90, 128, 100) == (16, 100)
    assert buckets.raised((16, 32), 5, 16, 100) == (16, 32)
