"""The static lengths of a job's batches: the trainer's own choice for the pairs' lengths. Pure."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.data.lengths import PairLengths
from dpojob_trainer.plan.timing import Load
from dpojob_trainer.training.batches import Shape
from dpojob_trainer.training.shapes import batch_maxima, choose_shapes


@dataclass(frozen=True)
class Epoch:
    """The batches of an epoch.

    Attributes:
        shapes: ascending; the largest one decides about memory, unless shorter batches keep more.
        loads: batches by length, ascending; one batch of the longest length if the pairs are not known.
        pairs: how many there are, 0 if that is not known.
        tokens: of a batch on average, without padding; all positions if the pairs are not known.
    """

    shapes: tuple[Shape, ...]
    loads: tuple[Load, ...]
    pairs: int
    tokens: float

    @property
    def longest(self) -> Shape:
        """The largest shape."""
        return self.shapes[-1]


def epoch_of(
    config: TrainerConfig, lengths: PairLengths | None, held_out: PairLengths | None = None
) -> Epoch:
    """Return the batches of an epoch of pairs of these lengths, or of pairs as long as allowed.

    Args:
        config: the job.
        lengths: of the training pairs.
        held_out: of the others, which the shapes must have room for.
    """
    dpo, size = config.dpo, config.training.global_batch_size
    if lengths is None:
        longest = Shape(dpo.max_prompt_length + dpo.max_completion_length, dpo.max_completion_length)
        return Epoch((longest,), (Load(longest.sequence, 1),), 0, 2 * size * longest.sequence)
    shapes = choose_shapes(config, lengths, [lengths, *([held_out] if held_out else [])])
    tokens = float(np.mean(2 * lengths.prompt + lengths.chosen + lengths.rejected)) * size
    batches = _batches(lengths, shapes, size, shuffle=config.training.shuffle)
    loads = [Load(shape.sequence, count) for shape, count in zip(shapes, batches, strict=True) if count]
    return Epoch(shapes, tuple(loads), len(lengths.prompt), tokens)


def _batches(lengths: PairLengths, shapes: tuple[Shape, ...], size: int, *, shuffle: bool) -> list[int]:
    """Return the number of batches of every shape; pairs that fill no batch go into the next longer one."""
    units = lengths.longer if shuffle else batch_maxima(lengths.longer, size)
    below = np.searchsorted(np.sort(units), [shape.sequence for shape in shapes], side="right")
    return [int(count) for count in np.diff(below // (size if shuffle else 1), prepend=0)]


def read_lengths(file: Path, config: TrainerConfig) -> PairLengths:
    """Read tokens per pair from a JSON file: an object of the lists `prompt`, `chosen` and `rejected`.

    Lengths above the job's limits are cut to them, as the trainer does.

    Raises:
        ValueError: it has another form, or too few pairs for one batch.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    limits = {
        "prompt": config.dpo.max_prompt_length,
        "chosen": config.dpo.max_completion_length,
        "rejected": config.dpo.max_completion_length,
    }
    try:
        columns = {name: np.minimum(np.array(content[name], np.int64), most) for name, most in limits.items()}
    except (KeyError, TypeError) as error:
        raise ValueError("it must be an object with lists of numbers: prompt, chosen and rejected") from error
    sizes = {column.shape for column in columns.values()}
    size = config.training.global_batch_size
    if len(sizes) != 1 or len(columns["prompt"]) < size:
        raise ValueError(f"prompt, chosen and rejected must have one length, of at least {size} pairs")
    return PairLengths(**columns)
