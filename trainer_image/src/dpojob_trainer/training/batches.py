"""Feeds the steps: which pairs make up step n, padded to one of few static shapes. A pure function of the data, the seed
and the step, so a resumed run sees the same batches and every host builds the same ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from dpojob_trainer.data.lengths import lengths_of
from dpojob_trainer.training.buckets import Ints, gathered

Batch = dict[str, NDArray[np.generic]]
SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Shape:
    """The static lengths of a batch in tokens: of its sequences, and of its completions, of which alone there are logits."""

    sequence: int
    completion: int


@dataclass(frozen=True)
class Padding:
    """The shapes that batches can have, ascending, the last one for every pair; and the id that fills them up."""

    shapes: tuple[Shape, ...]
    pad_id: int

    def bucket(self, tokens: Ints) -> Ints:
        """Return the number of the smallest shape for sequences of so many tokens."""
        found: Ints = np.searchsorted([shape.sequence for shape in self.shapes], tokens)
        return found

    def shape_of(self, tokens: Ints) -> Shape:
        """Return the smallest shape for a batch of such sequences."""
        return self.shapes[int(self.bucket(tokens.max()))]


def collate(rows: dict[str, list[list[int]]], shape: Shape, pad_id: int) -> Batch:
    """Join each prompt with both of its completions, and pad on the right.

    Returns for `chosen` and `rejected`, int32: `input_ids` and `attention_mask` `[pairs, sequence]`; `labels` and
    `label_mask`, the completion's tokens `[pairs, completion]`; and `places`, the positions that predict them.
    """
    begins = np.array([[len(prompt)] for prompt in rows["prompt_ids"]])
    places = np.clip(begins + np.arange(shape.completion) - 1, 0, shape.sequence - 1).astype(np.int32)
    batch: Batch = {}
    for side in SIDES:
        completions = rows[f"{side}_ids"]
        joined = [[*prompt, *rest] for prompt, rest in zip(rows["prompt_ids"], completions, strict=True)]
        ids, mask = pad(joined, shape.sequence, pad_id, left=False)
        labels, label_mask = pad(completions, shape.completion, pad_id, left=False)
        arrays = {"input_ids": ids, "attention_mask": mask, "labels": labels, "label_mask": label_mask}
        batch |= {f"{side}_{name}": array for name, array in (arrays | {"places": places}).items()}
    return batch


def token_ids(batch: Batch) -> list[tuple[list[int], list[int], list[int]]]:
    """Return what :func:`collate` was given: prompt, chosen and rejected completion of every pair, none of them empty."""
    sides = [[batch[f"{side}_{name}"] for name in ("labels", "label_mask")] for side in SIDES]
    found = []
    for row, begin in enumerate((batch["chosen_places"][:, 0] + 1).tolist()):
        chosen, rejected = (labels[row][mask[row] > 0].tolist() for labels, mask in sides)
        found.append((batch["chosen_input_ids"][row, :begin].tolist(), chosen, rejected))
    return found


def blank(shape: Shape, pairs: int) -> Batch:
    """Return a batch of a shape without tokens."""
    empty: list[list[int]] = [[]] * pairs
    return collate({"prompt_ids": empty, "chosen_ids": empty, "rejected_ids": empty}, shape, 0)


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
    masks = [batch[f"{side}_attention_mask"] for side in SIDES]
    return {
        "tokens": float(sum(int(mask.sum()) for mask in masks)),
        "padded_tokens": float(sum(mask.size for mask in masks)),
    }


def order(pairs: int, seed: int, epoch: int, *, shuffle: bool) -> Ints:
    """Return the order of the pairs in one epoch (counted from 0)."""
    if not shuffle:
        return np.arange(pairs)
    return np.random.default_rng([seed, epoch]).permutation(pairs)


@dataclass(frozen=True)
class TrainBatches:
    """The batch of every optimizer step.

    Shuffled, a batch has pairs of similar length (:func:`buckets.gathered`); else it has the file's next ones.
    """

    pairs: Dataset
    size: int
    padding: Padding
    seed: int
    shuffle: bool

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes that batches can have."""
        return self.padding.shapes[: int(self._bucket.max()) + 1]

    def indices(self, step: int) -> Ints:
        """Return the rows of step `step` (counted from 0)."""
        epoch, place = divmod(step, len(self.pairs) // self.size)
        if epoch not in self._epochs:
            self._epochs.clear()
            self._epochs[epoch] = self._batches_of(epoch)
        rows: Ints = self._epochs[epoch][place]
        return rows

    def rows_of(self, steps: int) -> Ints:
        """Return the rows that the first `steps` steps take, ascending."""
        if steps >= len(self.pairs) // self.size:
            # Which pairs an epoch leaves out changes from epoch to epoch.
            return np.arange(len(self.pairs))
        return np.unique([self.indices(step) for step in range(steps)])

    def __getitem__(self, step: int) -> Batch:
        rows = self.indices(step)
        return collate(
            self.pairs[rows.tolist()], self.padding.shape_of(self._longer[rows]), self.padding.pad_id
        )

    @cached_property
    def _epochs(self) -> dict[int, Ints]:
        return {}

    def _batches_of(self, epoch: int) -> Ints:
        rows = order(len(self.pairs), self.seed, epoch, shuffle=self.shuffle)
        if self.shuffle:
            # The third number keeps the batches' order apart from the pairs' own.
            return gathered(rows, self._bucket, self.size, [self.seed, epoch, 1])
        return rows[: len(rows) // self.size * self.size].reshape(-1, self.size)

    @cached_property
    def _longer(self) -> Ints:
        return lengths_of(self.pairs).longer

    @cached_property
    def _bucket(self) -> Ints:
        return self.padding.bucket(self._longer)


@dataclass(frozen=True)
class EvalBatches:
    """The held-out pairs, the shorter ones first; the last batch is filled up with pairs of weight 0."""

    pairs: Dataset
    size: int
    padding: Padding
    limit: int | None = None

    def __len__(self) -> int:
        batches = -(-len(self.pairs) // self.size)
        return batches if self.limit is None else min(batches, self.limit)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes of the batches."""
        return tuple(dict.fromkeys(self._shape(rows) for rows in self._rows))

    def __iter__(self) -> Iterator[tuple[Batch, NDArray[np.float32]]]:
        """Yield batches and the weight of each pair `[pairs]`: 1, or 0 for a repeated one."""
        for rows in self._rows:
            weights = (np.arange(self.size) < len(rows)).astype(np.float32)
            filled = np.resize(rows, self.size).tolist()
            yield collate(self.pairs[filled], self._shape(rows), self.padding.pad_id), weights

    @property
    def rows(self) -> Ints:
        """The rows of all batches."""
        return np.concatenate(self._rows)

    def _shape(self, rows: Ints) -> Shape:
        return self.padding.shape_of(self._longer[rows])

    @cached_property
    def _longer(self) -> Ints:
        return lengths_of(self.pairs).longer

    @cached_property
    def _rows(self) -> list[Ints]:
        count = min(len(self.pairs), len(self) * self.size)
        rows = np.argsort(self.padding.bucket(self._longer[:count]), kind="stable")
        return [rows[at : at + self.size] for at in range(0, count, self.size)]
