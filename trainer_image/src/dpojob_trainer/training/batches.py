"""Feeds the steps: which pairs make up step n, padded to static shapes. A pure function of seed and step, so a resumed
run sees the same batches and every host builds the same ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

Batch = dict[str, NDArray[np.generic]]
# A pair is two sequences, so its prompt counts twice.
SEQUENCES = ("prompt", "chosen", "prompt", "rejected")
SIDES = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class Padding:
    """Static shapes in tokens, and the id that fills them up."""

    prompt: int
    completion: int
    pad_id: int


def collate(rows: dict[str, list[list[int]]], padding: Padding) -> Batch:
    """Pad token lists to EasyDeL's preference batch: prompts on the left, completions on the right.

    Returns `prompt_input_ids` and mask `[pairs, prompt]`, `chosen_*` and `rejected_*` `[pairs, completion]`, int32.
    """
    batch: Batch = {}
    for side in SIDES:
        width = padding.prompt if side == "prompt" else padding.completion
        ids, mask = pad(rows[f"{side}_ids"], width, padding.pad_id, left=side == "prompt")
        batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"] = ids, mask
    return batch


def pad(
    sequences: list[list[int]], width: int, pad_id: int, *, left: bool
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return ids and mask `[sequences, width]`, padded on the left or on the right."""
    ids = np.full((len(sequences), width), pad_id, np.int32)
    mask = np.zeros((len(sequences), width), np.int32)
    for row, tokens in enumerate(sequences):
        if tokens:
            where = slice(width - len(tokens), width) if left else slice(0, len(tokens))
            ids[row, where], mask[row, where] = tokens, 1
    return ids, mask


def token_counts(batch: Batch) -> dict[str, float]:
    """Return the positions of both sequences of every pair: `tokens` without and `padded_tokens` with padding."""
    masks = [batch[f"{side}_attention_mask"] for side in SEQUENCES]
    return {
        "tokens": float(sum(int(mask.sum()) for mask in masks)),
        "padded_tokens": float(sum(mask.size for mask in masks)),
    }


def order(pairs: int, seed: int, epoch: int, *, shuffle: bool) -> NDArray[np.int64]:
    """Return the order of the pairs in one epoch (counted from 0)."""
    if not shuffle:
        return np.arange(pairs)
    return np.random.default_rng([seed, epoch]).permutation(pairs)


@dataclass(frozen=True)
class TrainBatches:
    """The batch of every optimizer step."""

    pairs: Dataset
    size: int
    padding: Padding
    seed: int
    shuffle: bool

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return the rows of step `step` (counted from 0)."""
        per_epoch = len(self.pairs) // self.size
        epoch, place = divmod(step, per_epoch)
        rows = order(len(self.pairs), self.seed, epoch, shuffle=self.shuffle)
        return rows[place * self.size : (place + 1) * self.size]

    def __getitem__(self, step: int) -> Batch:
        return collate(self.pairs[self.indices(step).tolist()], self.padding)


@dataclass(frozen=True)
class EvalBatches:
    """The held-out pairs in file order; the last batch is filled up with pairs of weight 0."""

    pairs: Dataset
    size: int
    padding: Padding
    limit: int | None = None

    def __len__(self) -> int:
        batches = -(-len(self.pairs) // self.size)
        return batches if self.limit is None else min(batches, self.limit)

    def __iter__(self) -> Iterator[tuple[Batch, NDArray[np.float32]]]:
        """Yield batches and the weight of each pair `[pairs]`: 1, or 0 for a repeated one."""
        for number in range(len(self)):
            rows = np.arange(number * self.size, (number + 1) * self.size)
            weights = (rows < len(self.pairs)).astype(np.float32)
            yield collate(self.pairs[(rows % len(self.pairs)).tolist()], self.padding), weights
