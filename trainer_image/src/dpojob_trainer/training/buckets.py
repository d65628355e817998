"""Chooses the static lengths that sequences are padded to, and gathers pairs of similar length into batches.

A pair's length is that of the longer of its two sequences, in tokens: prompt and longer completion. Every length costs a
compiled program, so there are few. All functions are pure; the same pairs, batch size and seed give the same batches on
every host and every mesh.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpojob_api.slice_spec import Platform

Ints = NDArray[np.int64]

# Positions that lengths are multiples of. Splash attention on TPU takes blocks of 128, EasyDeL's smallest; another length
# falls back to a kernel that forms all scores. On the CPU 16 keep the rows of matrix products in whole vectors.
UNITS = {Platform.TPU: 128, Platform.CPU: 16}
# A program is worth its compilation if it saves this share of an epoch's positions, and so much of a step of the longest
# length: on the CPU a step takes longer than its compilation, and on a TPU an epoch has hundreds of steps.
LEAST_SHARE, LEAST_STEPS = 0.02, 0.5


def choose(lengths: Ints, *, size: int, unit: int, longest: int, most: int) -> tuple[int, ...]:
    """Return the ascending static lengths that leave the least padding in an epoch's batches of `size` pairs.

    Args:
        lengths: of the pairs, at most `longest`; there is at least one.
        size: pairs per batch. Pairs that fill no batch of their length count where they go: in the next larger one.
        unit: what lengths are multiples of, except `longest` itself.
        longest: the largest length allowed, which is the only one if `most` is 1.
        most: how many lengths there may be; fewer are returned if one more would save too little.
    """
    if most == 1:
        return (longest,)
    candidates, filled = batches_within(lengths, size, unit, longest)
    plans = cheapest(candidates, filled, most)
    chosen, cost = plans[0]
    for plan, lower in plans[1:]:
        if cost - lower < max(LEAST_SHARE * cost, LEAST_STEPS * candidates[-1]):
            break
        chosen, cost = plan, lower
    return tuple(int(candidates[at]) for at in chosen)


def batches_within(lengths: Ints, size: int, unit: int, longest: int) -> tuple[Ints, Ints]:
    """Return the lengths to choose from, ascending, and how many whole batches can be made of the pairs up to each."""
    rounded = np.minimum(-(-np.maximum(lengths, 1) // unit) * unit, longest)
    candidates, counts = np.unique(rounded, return_counts=True)
    return candidates, np.cumsum(counts) // size


def cheapest(candidates: Ints, filled: Ints, most: int) -> list[tuple[tuple[int, ...], int]]:
    """Return the best choice of at most 1, 2, … `most` candidates (by index) and its cost.

    The cost is the sum over all batches of their length. With the pairs that rise, there are ``filled[i] - filled[j]``
    batches of length i above length j, so the best choice of k lengths that ends with i extends a best one of k - 1.
    """
    cost = filled * candidates
    choice: list[tuple[int, ...]] = [(at,) for at in range(len(candidates))]
    found = [(choice[-1], int(cost[-1]))]
    for _ in range(min(most, len(candidates)) - 1):
        steps = [cost[:at] + (filled[at] - filled[:at]) * candidates[at] for at in range(1, len(candidates))]
        before = [int(options.argmin()) for options in steps]
        longer = [(*choice[j], at) for at, j in enumerate(before, start=1)]
        # One length has nothing below it to extend.
        choice = [choice[0], *longer]
        cost = np.array([cost[0], *(int(options.min()) for options in steps)])
        found.append((choice[-1], int(cost[-1])))
    return found


def gathered(order: Ints, bucket: Ints, size: int, seed: Sequence[int]) -> Ints:
    """Return an epoch's batches `[batches, size]` of pairs, each of one bucket but for those that rose.

    The pairs of a last, partial batch of the order are left out, as without buckets. From the smallest bucket up, the
    pairs that fill no batch of their own bucket go into the next larger one; which ones, the order decides anew in each
    epoch. Then the batches are shuffled, so that training is not sorted by length.

    Args:
        order: the pairs of the epoch.
        bucket: the bucket of every pair.
        size: pairs per batch.
        seed: of the batches' order.
    """
    taken = order[: len(order) // size * size]
    waiting, batches = taken[:0], [taken[:0].reshape(-1, size)]
    for number in np.unique(bucket[taken]):
        waiting = np.concatenate([waiting, taken[bucket[taken] == number]])
        whole = len(waiting) // size * size
        batches.append(waiting[:whole].reshape(-1, size))
        waiting = waiting[whole:]
    stacked = np.concatenate(batches)
    return stacked[np.random.default_rng(seed).permutation(len(stacked))] if bucket.any() else stacked


def raised(lengths: Sequence[int], tokens: int, unit: int, longest: int) -> tuple[int, ...]:
    """Return the lengths with the last one raised, if need be, such that `tokens` fit."""
    return (*lengths[:-1], max(lengths[-1], min(-(-tokens // unit) * unit, longest)))


def widths(lengths: Sequence[int], longer: Ints, completions: Ints, unit: int) -> tuple[int, ...]:
    """Return for each static length what the completions of all pairs up to it need, in multiples of `unit`.

    Args:
        lengths: what :func:`choose` returned.
        longer: the tokens of every pair's longer sequence.
        completions: the tokens of its longer completion.
        unit: what widths are multiples of.
    """
    most = (int(completions[longer <= length].max(initial=1)) for length in lengths)
    return tuple(-(-tokens // unit) * unit for tokens in most)
