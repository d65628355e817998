"""Turns the configuration into numbers of steps and the learning rate of each: pure functions of config and data size."""

from collections.abc import Callable

import optax

from dpojob_api.training_spec import Scheduler, TrainingSpec

# A device holds at most this many bytes of logits; where all of them are more, the head runs in blocks.
MAX_LOGIT_BYTES = 256 * 2**20
# Matrix products of fewer columns are slow.
MIN_COLUMNS = 4096
FLOAT32_BYTES = 4


def steps_per_epoch(training: TrainingSpec, pairs: int) -> int:
    """Return the optimizer steps of one pass; the pairs of a last, partial batch wait for the next epoch's order."""
    return pairs // training.global_batch_size


def total_steps(training: TrainingSpec, pairs: int) -> int:
    """Return the optimizer steps of the whole run; with maxSteps the data is repeated as often as needed."""
    if training.max_steps is not None:
        return training.max_steps
    return (training.epochs or 1) * steps_per_epoch(training, pairs)


def micro_batch_size(training: TrainingSpec) -> int:
    """Return the pairs of one forward pass on the whole slice."""
    return training.global_batch_size // training.gradient_accumulation_steps


def learning_rate(training: TrainingSpec, total: int) -> Callable[[int], float]:
    """Return the schedule: a linear warm-up from 0, the peak, then a decay that reaches its end on the last step."""
    peak = training.learning_rate
    end = training.learning_rate_end if training.learning_rate_end is not None else peak / 10
    warmup = min(training.warmup_steps, max(total - 1, 0))
    decay = max(total - 1 - warmup, 1)
    shape: optax.Schedule
    if training.scheduler is Scheduler.CONSTANT:
        shape = optax.constant_schedule(peak)
    elif training.scheduler is Scheduler.LINEAR:
        shape = optax.linear_schedule(peak, end, decay)
    else:
        shape = optax.cosine_decay_schedule(peak, decay, alpha=end / peak)
    if not warmup:
        return shape  # type: ignore[no-any-return]
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, shape], [warmup])  # type: ignore[no-any-return]


def head_blocks(sequences_per_device: int, length: int, vocabulary: int) -> tuple[int, int]:
    """Return into how many blocks the head divides its part of the vocabulary, and the positions: (1, 1) for none."""
    entries = MAX_LOGIT_BYTES // FLOAT32_BYTES
    needed = _ceil(sequences_per_device * length * vocabulary, entries)
    columns = min(needed, _ceil(vocabulary, MIN_COLUMNS))
    wanted = _ceil(needed, columns)
    return columns, next(blocks for blocks in range(min(wanted, length), length + 1) if length % blocks == 0)


def _ceil(number: int, by: int) -> int:
    return -(-number // by)
