"""Holds the data report against ``dataset.gate``: which bounds are not kept, and what to do about each. Pure."""

from collections.abc import Iterator

from dpojob_api.input_spec import GateSpec, OnViolation
from dpojob_api.reasons import TrainerReason
from dpojob_trainer.data.report import DataReport
from dpojob_trainer.errors import TrainerError


def violations(report: DataReport, gate: GateSpec) -> list[str]:
    """Return a sentence per bound that is not kept: the field, its value, the number found and the fix."""
    checks = (few_pairs, dropped, truncated, duplicates, overlap)
    return [sentence for check in checks for sentence in check(report, gate)]


def enforce(report: DataReport, gate: GateSpec) -> None:
    """Refuse data that does not keep a bound, unless the gate only warns.

    Raises:
        TrainerError: DataInvalid, with every violation.
    """
    if report.violations and gate.on_violation is OnViolation.FAIL:
        raise TrainerError(TrainerReason.DATA_INVALID, " ".join(report.violations))


def few_pairs(report: DataReport, gate: GateSpec) -> Iterator[str]:
    """Check minPairs."""
    if report.train_pairs < gate.min_pairs:
        yield (
            f"dataset.gate.minPairs is {gate.min_pairs} and {report.train_pairs} pairs are left to train on. "
            "Add pairs or lower it."
        )


def dropped(report: DataReport, gate: GateSpec) -> Iterator[str]:
    """Check maxDroppedFraction."""
    count = report.dropped_empty + report.dropped_equal
    if exceeds(count, report.rows, gate.max_dropped_fraction):
        yield (
            f"dataset.gate.maxDroppedFraction is {gate.max_dropped_fraction:g} and {share(count, report.rows)} of the rows "
            f"cannot be used: {report.dropped_empty} have an empty side, {report.dropped_equal} have sides that are equal in "
            "the tokens kept. Correct or remove these rows, raise dpo.maxCompletionLength if the sides differ later, or "
            "raise the bound."
        )


def truncated(report: DataReport, gate: GateSpec) -> Iterator[str]:
    """Check maxTruncatedFraction."""
    pairs = report.train_pairs + report.eval_pairs
    if exceeds(report.truncated_pairs, pairs, gate.max_truncated_fraction):
        yield (
            f"dataset.gate.maxTruncatedFraction is {gate.max_truncated_fraction:g} and "
            f"{share(report.truncated_pairs, pairs)} of the pairs lose tokens: {report.truncated_prompts} prompts and "
            f"{report.truncated_completions} completions. {length_advice(report)}, remove long rows, or raise the bound."
        )


def length_advice(report: DataReport) -> str:
    """Name the lengths that would keep 99 % of what is cut."""
    completion = max(report.lengths[side].p99 for side in ("chosen", "rejected"))
    advice = []
    if report.truncated_prompts:
        advice.append(
            f"dpo.maxPromptLength (99 % of the prompts have up to {report.lengths['prompt'].p99} tokens)"
        )
    if report.truncated_completions:
        advice.append(f"dpo.maxCompletionLength (99 % of the completions have up to {completion} tokens)")
    return "Raise " + " and ".join(advice)


def duplicates(report: DataReport, gate: GateSpec) -> Iterator[str]:
    """Check maxDuplicateFraction."""
    if exceeds(report.duplicate_pairs, report.train_pairs, gate.max_duplicate_fraction):
        yield (
            f"dataset.gate.maxDuplicateFraction is {gate.max_duplicate_fraction:g} and "
            f"{share(report.duplicate_pairs, report.train_pairs)} of the training pairs repeat an earlier one. "
            "Remove the repetitions or raise the bound."
        )


def overlap(report: DataReport, gate: GateSpec) -> Iterator[str]:
    """Check maxOverlap."""
    if exceeds(report.overlap_pairs, report.eval_pairs, gate.max_overlap):
        yield (
            f"dataset.gate.maxOverlap is {gate.max_overlap:g} and {share(report.overlap_pairs, report.eval_pairs)} of the "
            "evaluation pairs are also trained on, so the evaluation flatters the model. Remove repeated rows before "
            "splitting, use an evalSplit of its own, or raise the bound."
        )


def exceeds(count: int, total: int, bound: float) -> bool:
    """Whether a share is above its bound; nothing has no share."""
    return total > 0 and count / total > bound


def share(count: int, total: int) -> str:
    """Write a share with the counts behind it."""
    return f"{count / total:.3g} ({count} of {total})"
