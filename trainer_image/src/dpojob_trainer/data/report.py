"""What the tokenised pairs are like, in numbers: lengths, losses, repetitions. Pure; the gate judges by it.

All lengths are tokens before truncation. Nothing here looks at words, so it holds for every language.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dpojob_api.base import ApiModel
from dpojob_api.metrics import DATA_KINDS
from dpojob_trainer.data.tokens import Lengths

Ints = npt.NDArray[np.int64]
# Data sets with conversations of many lengths have hundreds of role sequences; the rest is summed up.
ROLES_LISTED = 10


@dataclass(frozen=True)
class Facts:
    """The rows of one part (training or evaluation), column by column, each of shape `[rows]`.

    ``kind`` is kept, empty or equal; ``prompt``, ``chosen`` and ``rejected`` are tokens before truncation; the keys are
    hashes of the ids kept, equal where those are.
    """

    split: str
    row: Ints
    kind: Sequence[str]
    roles: Sequence[str]
    prompt: Ints
    chosen: Ints
    rejected: Ints
    prompt_key: Ints
    pair_key: Ints

    def kept(self) -> "Facts":
        """Return the rows that can be learnt from."""
        where = np.array([kind == "kept" for kind in self.kind], dtype=bool)
        columns: dict[str, Any] = {name: getattr(self, name)[where] for name in INT_FACTS}
        columns |= {name: list(compress(getattr(self, name), where)) for name in TEXT_FACTS}
        return replace(self, **columns)


INT_FACTS = ("row", "prompt", "chosen", "rejected", "prompt_key", "pair_key")
TEXT_FACTS = ("kind", "roles")


class Bin(ApiModel):
    """One bar of a histogram."""

    up_to: int = Field(
        description="upTo is the largest number of tokens in this bin; it begins above the bin before."
    )
    count: int = Field(description="count is the number of sequences.")


class LengthStats(ApiModel):
    """Lengths of one kind of sequence in tokens, before truncation."""

    p50: int = Field(description="p50 is the median.")
    p90: int = Field(description="p90 is the length that 90 % do not exceed.")
    p99: int = Field(description="p99 is the length that 99 % do not exceed.")
    max: int = Field(description="max is the longest.")
    bins: list[Bin] = Field(
        description="bins is the histogram over powers of two and the middles between them."
    )


class LongestPrompt(ApiModel):
    """Where the longest prompt is."""

    split: str = Field(description="split is the split of the row.")
    row: int = Field(description="row counts from 1.")
    tokens: int = Field(description="tokens is the prompt's length before truncation.")


class DataReport(ApiModel):
    """What became of the rows. Pairs are the rows that can be used; shares of the gate are shares of them."""

    splits: dict[str, int] = Field(description="splits is the number of rows read, by split.")
    columns: dict[str, str] = Field(description="columns is the columns read, by their part in a pair.")
    roles: dict[str, int] = Field(
        description="roles is the number of pairs by the roles of their messages: prompt > completion, or both "
        "completions if they differ."
    )
    rows: int = Field(description="rows is the number of rows read, training and evaluation together.")
    train_pairs: int = Field(description="trainPairs is the pairs that are trained on.")
    eval_pairs: int = Field(description="evalPairs is the pairs that are held out.")
    dropped_empty: int = Field(description="droppedEmpty is the rows with a completion without text.")
    dropped_equal: int = Field(
        description="droppedEqual is the rows whose two sides do not differ in the tokens kept."
    )
    truncated_pairs: int = Field(description="truncatedPairs is the pairs that lost tokens anywhere.")
    truncated_prompts: int = Field(description="truncatedPrompts is the prompts that lost their beginning.")
    truncated_completions: int = Field(
        description="truncatedCompletions is the completions that lost their end, two per pair."
    )
    duplicate_pairs: int = Field(
        description="duplicatePairs is the training pairs that repeat an earlier one."
    )
    overlap_pairs: int = Field(description="overlapPairs is the evaluation pairs that are also trained on.")
    overlap_prompts: int = Field(
        description="overlapPrompts is the evaluation pairs whose prompt is also trained on."
    )
    longer_chosen: int = Field(
        description="longerChosen is the pairs whose chosen completion is the longer one; far from half of them, length "
        "alone tells the sides apart."
    )
    lengths: dict[str, LengthStats] = Field(description="lengths is those of prompt, chosen and rejected.")
    longest_prompt: LongestPrompt | None = Field(description="longestPrompt is where the longest prompt is.")
    violations: list[str] = Field(
        default=[], description="violations is the bounds of the gate that are not kept."
    )

    def by_kind(self) -> dict[str, float]:
        """Return the counts by the kinds of `dpojob_api.metrics.DATA_KINDS`."""
        counts = (
            self.rows,
            self.train_pairs,
            self.eval_pairs,
            self.dropped_empty,
            self.dropped_equal,
            self.truncated_pairs,
            self.duplicate_pairs,
            self.overlap_pairs,
        )
        return dict(zip(DATA_KINDS, counts, strict=True))


def report_of(train: Facts, evaluation: Facts | None, limits: Lengths, columns: dict[str, str]) -> DataReport:
    """Count everything there is to know about the rows of both parts."""
    parts = [train] if evaluation is None else [train, evaluation]
    pairs = [part.kept() for part in parts]
    rows_by_split: Counter[str] = Counter()
    for part in parts:
        rows_by_split[part.split] += len(part.kind)
    kinds = Counter(kind for part in parts for kind in part.kind)
    repeated, known_pairs, known_prompts = repetitions(pairs[0], pairs[1] if evaluation is not None else None)
    chosen, rejected = joined(pairs, "chosen"), joined(pairs, "rejected")
    return DataReport(
        splits=dict(rows_by_split),
        columns=columns,
        roles=most_common(Counter(roles for part in pairs for roles in part.roles)),
        rows=kinds.total(),
        train_pairs=len(pairs[0].kind),
        eval_pairs=len(pairs[1].kind) if evaluation is not None else 0,
        dropped_empty=kinds["empty"],
        dropped_equal=kinds["equal"],
        **truncations(joined(pairs, "prompt"), chosen, rejected, limits),
        duplicate_pairs=repeated,
        overlap_pairs=known_pairs,
        overlap_prompts=known_prompts,
        longer_chosen=int(np.sum(chosen > rejected)),
        lengths={
            name: stats
            for name in ("prompt", "chosen", "rejected")
            if (stats := length_stats(joined(pairs, name)))
        },
        longest_prompt=longest_prompt(pairs),
    )


def joined(parts: Sequence[Facts], name: str) -> Ints:
    """Return one column of all parts."""
    return np.concatenate([getattr(part, name) for part in parts])


def most_common(counts: Counter[str]) -> dict[str, int]:
    """Return the most frequent role sequences and the number of all others."""
    listed = dict(counts.most_common(ROLES_LISTED))
    rest = counts.total() - sum(listed.values())
    return listed | ({"other": rest} if rest else {})


def truncations(prompt: Ints, chosen: Ints, rejected: Ints, limits: Lengths) -> dict[str, int]:
    """Count what is longer than the lengths kept."""
    cut = [prompt > limits.prompt, chosen > limits.completion, rejected > limits.completion]
    return {
        "truncated_pairs": int(np.sum(cut[0] | cut[1] | cut[2])),
        "truncated_prompts": int(np.sum(cut[0])),
        "truncated_completions": int(np.sum(cut[1]) + np.sum(cut[2])),
    }


def repetitions(train: Facts, evaluation: Facts | None) -> tuple[int, int, int]:
    """Return the training pairs that repeat one, and the evaluation pairs that are, or whose prompts are, trained on."""
    repeated = len(train.pair_key) - len(np.unique(train.pair_key))
    if evaluation is None:
        return repeated, 0, 0
    pairs = np.isin(evaluation.pair_key, train.pair_key)
    prompts = np.isin(evaluation.prompt_key, train.prompt_key)
    return repeated, int(np.sum(pairs)), int(np.sum(prompts))


def length_stats(tokens: Ints) -> LengthStats | None:
    """Return percentiles (the smallest length that at least so many do not exceed) and bins; None without sequences."""
    if len(tokens) == 0:
        return None
    p50, p90, p99 = (int(np.percentile(tokens, share, method="inverted_cdf")) for share in (50, 90, 99))
    return LengthStats(p50=p50, p90=p90, p99=p99, max=int(tokens.max()), bins=bins_of(tokens))


def bins_of(tokens: Ints) -> list[Bin]:
    """Return the histogram from the first bin with a sequence to the last."""
    bounds = bounds_up_to(int(tokens.max()))
    counts = np.bincount(np.searchsorted(bounds, tokens))
    first = int(np.flatnonzero(counts)[0])
    return [
        Bin(up_to=bound, count=int(count))
        for bound, count in zip(bounds[first:], counts[first:], strict=False)
    ]


def bounds_up_to(longest: int) -> list[int]:
    """Return 1, 2, 3, 4, 6, 8, 12, 16, …: powers of two and the middles between them, the last not below ``longest``."""
    bounds = [1, 2]
    while bounds[-1] < longest:
        bounds += [bounds[-1] // 2 * 3, bounds[-1] * 2]
    return bounds


def longest_prompt(parts: Sequence[Facts]) -> LongestPrompt | None:
    """Return where the longest prompt is, the first of equals."""
    found = [
        LongestPrompt(split=part.split, row=int(part.row[at]), tokens=int(part.prompt[at]))
        for part in parts
        if len(part.prompt)
        for at in [int(part.prompt.argmax())]
    ]
    return max(found, key=lambda place: place.tokens, default=None)
