"""Which shapes the batches of a job have: from the configuration and the pairs' own lengths."""

import logging
from math import lcm

import numpy as np
from datasets import Dataset

from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.data.lengths import PairLengths, lengths_of
from dpojob_trainer.training import buckets
from dpojob_trainer.training.batches import Padding, Shape

log = logging.getLogger(__name__)


def padding_of(config: TrainerConfig, train: Dataset, evaluation: Dataset | None, pad_id: int) -> Padding:
    """Choose the shapes for the training pairs such that the held-out pairs fit too; equal on every host."""
    found = [lengths_of(pairs) for pairs in (train, evaluation) if pairs is not None]
    shapes = choose_shapes(config, found[0], found)
    log.info("batches are padded to %s", ", ".join(f"{shape.sequence} tokens" for shape in shapes))
    return Padding(shapes, pad_id)


def choose_shapes(config: TrainerConfig, train: PairLengths, every: list[PairLengths]) -> tuple[Shape, ...]:
    """Return the shapes, ascending; `every` are the lengths of the training pairs and of all others."""
    training, dpo = config.training, config.dpo
    longest = dpo.max_prompt_length + dpo.max_completion_length
    if training.length_buckets == 1:
        return (Shape(longest, dpo.max_completion_length),)
    # Every device of the mesh's axis sp has the same number of positions.
    unit = lcm(buckets.UNITS[config.platform], config.plan.mesh.sp)
    size = training.global_batch_size
    longer = np.concatenate([pairs.longer for pairs in every])
    # In the file's order every batch is given, and has the length of its longest pair.
    units = train.longer if training.shuffle else batch_maxima(train.longer, size)
    lengths = buckets.choose(
        units, size=size if training.shuffle else 1, unit=unit, longest=longest, most=training.length_buckets
    )
    lengths = buckets.raised(lengths, int(longer.max()), unit, longest)
    completions = np.concatenate([np.maximum(pairs.chosen, pairs.rejected) for pairs in every])
    widths = buckets.widths(lengths, longer, completions, unit)
    return tuple(Shape(*both) for both in zip(lengths, widths, strict=True))


def batch_maxima(lengths: buckets.Ints, size: int) -> buckets.Ints:
    """Return the largest length in each whole batch of `size` pairs in a row."""
    largest: buckets.Ints = lengths[: len(lengths) // size * size].reshape(-1, size).max(axis=1)
    return largest
