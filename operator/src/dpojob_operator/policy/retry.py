"""Whether and when an attempt that ended without a result is followed by another one."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from dpojob_api.constants import MAX_ATTEMPT
from dpojob_api.failure_class import FailureClass
from dpojob_api.lifecycle_spec import RetrySpec
from dpojob_api.status import AttemptStatus, RetriesStatus
from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator.policy.failure import Failure


@dataclass(frozen=True)
class Verdict:
    """Whether another attempt follows, in words."""

    retry: bool
    words: str


def judge(job: DPOJob, why: Failure, attempt: AttemptStatus) -> Verdict:
    """Return whether another attempt follows the one that ended.

    Args:
        job: its status holds the retries used before.
        why: the end.
        attempt: the attempt with everything that is known at its end.
    """
    kind = why.failure_class
    limit = job.spec.retry_policy.of(kind).max_retries
    used = (job.status.retries or RetriesStatus()).of(kind)
    if limit == 0:
        return Verdict(False, "")
    if used >= limit:
        return Verdict(
            False, f"All {limit} retries of class {kind.value} are used (spec.retryPolicy.{kind.field})."
        )
    if attempt.number >= MAX_ATTEMPT:
        return Verdict(False, f"All {MAX_ATTEMPT} attempts are used.")
    if kind is FailureClass.APPLICATION and not has_newer_checkpoint(job, attempt):
        return Verdict(
            False,
            f"There is no newer checkpoint than the one that attempt {attempt.number} started from (step "
            f"{attempt.from_step or 0}), so another attempt would fail in the same way.",
        )
    return Verdict(True, f"Retry {used + 1} of {limit} of class {kind.value}")


def has_newer_checkpoint(job: DPOJob, attempt: AttemptStatus) -> bool:
    """Return whether a checkpoint was due after the one that an attempt started from.

    A checkpoint is written in the background; if the newest one was not whole at the end, the next attempt finds out.
    """
    if attempt.from_step is None or attempt.to_step is None:
        return False
    every = job.spec.training.checkpoint_steps
    newest = attempt.to_step // every * every
    total = job.status.progress.total_steps if job.status.progress else 0
    if total and attempt.to_step >= total:
        newest = attempt.to_step
    return newest > attempt.from_step


def due_time(job: DPOJob, last: AttemptStatus) -> datetime:
    """Return when the attempt after `last` may start; from the spec as it is now, so that an edit counts at once."""
    if last.failure_class is None or last.end_time is None:
        return last.end_time or last.start_time
    policy = job.spec.retry_policy.of(last.failure_class)
    seconds = backoff(policy, streak(job.status.attempts), jitter(job.metadata.uid, last.number))
    return last.end_time + timedelta(seconds=seconds)


def streak(attempts: list[AttemptStatus]) -> int:
    """Return how many ends of the newest one's class there were in a row; one that made progress is the first."""
    count = 0
    for attempt in reversed(attempts):
        if attempt.failure_class is not attempts[-1].failure_class:
            break
        count += 1
        if made_progress(attempt):
            break
    return max(count, 1)


def made_progress(attempt: AttemptStatus) -> bool:
    """Return whether an attempt took steps."""
    return attempt.to_step is not None and attempt.to_step > (attempt.from_step or 0)


def backoff(policy: RetrySpec, failures: int, share: float) -> int:
    """Return the whole seconds to wait after a number of failures in a row.

    Args:
        share: 0 to 1; takes up to half of the delay away, so that jobs that failed together do not return together.
    """
    delay = min(policy.max_backoff_seconds, policy.backoff_seconds * 2.0 ** min(failures - 1, 30))
    return round(delay * (1 - share / 2))


def jitter(uid: str, attempt: int) -> float:
    """Return a number from 0 to 1 that belongs to a job's attempt; a restarted operator gets the same."""
    digest = hashlib.sha256(f"{uid}/{attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32
