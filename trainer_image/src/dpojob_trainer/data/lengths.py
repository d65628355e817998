"""Lengths of tokenised pairs, read from Arrow's offsets without touching the tokens."""

from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from pyarrow import compute

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PairLengths:
    """Tokens of every pair's sides."""

    prompt: Ints
    chosen: Ints
    rejected: Ints

    @property
    def longer(self) -> Ints:
        """The tokens of the longer of both sequences: prompt and completion."""
        longer: Ints = self.prompt + np.maximum(self.chosen, self.rejected)
        return longer


def lengths_of(pairs: Dataset) -> PairLengths:
    """Return the lengths of tokenised pairs."""
    table = pairs.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"]).with_format("arrow")[:]
    counts: list[Ints] = [np.asarray(compute.list_value_length(column), np.int64) for column in table.columns]
    return PairLengths(*counts)
