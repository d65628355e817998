"""The report on tokenised pairs, and the bounds of dataset.gate on it: one small data set per problem."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.trainer import manifests
from tests.trainer.manifests import Row, chat, chats

from dpojob_api.input_spec import GateSpec
from dpojob_api.reasons import TrainerReason
from dpojob_trainer import data
from dpojob_trainer.data import gate
from dpojob_trainer.data.report import DataReport, Facts, bounds_up_to, length_stats, report_of
from dpojob_trainer.data.tokens import Lengths, key
from dpojob_trainer.errors import TrainerError

LIMITS = Lengths(prompt=10, completion=5)


def facts(*pairs: tuple[int, int, int], kind: str = "kept", keys: list[int] | None = None) -> Facts:
    """Rows of these lengths, all different unless `keys` says otherwise; a prompt's key is its pair's times ten."""
    columns = np.array(pairs, dtype=np.int64).reshape(-1, 3)
    numbers = np.array(keys if keys is not None else range(len(pairs)), dtype=np.int64)
    return Facts(
        split="train",
        row=np.arange(1, len(pairs) + 1),
        kind=[kind] * len(pairs),
        roles=["user > assistant"] * len(pairs),
        prompt=columns[:, 0],
        chosen=columns[:, 1],
        rejected=columns[:, 2],
        prompt_key=numbers * 10,
        pair_key=numbers,
    )


def report(train: Facts, evaluation: Facts | None = None) -> DataReport:
    """The report on some rows."""
    return report_of(train, evaluation, LIMITS, {"chosen": "chosen", "rejected": "rejected"})


class TestReport:
    def test_truncation_counts_pairs_once(self) -> None:
        found = report(facts((10, 5, 5), (11, 5, 5), (12, 6, 7), (1, 1, 6)))
        assert (found.truncated_prompts, found.truncated_completions, found.truncated_pairs) == (2, 3, 3)

    def test_repetitions(self) -> None:
        train = facts(*[(1, 1, 1)] * 4, keys=[1, 2, 1, 1])
        evaluation = facts(*[(1, 1, 1)] * 3, keys=[2, 7, 2])
        found = report(train, evaluation)
        assert (found.duplicate_pairs, found.overlap_pairs, found.overlap_prompts) == (2, 2, 2)

    def test_dropped_rows_count_for_nothing_else(self) -> None:
        found = report(facts((99, 99, 1), kind="equal"))
        assert (found.rows, found.dropped_equal, found.train_pairs) == (1, 1, 0)
        assert (found.truncated_pairs, found.lengths, found.longest_prompt) == (0, {}, None)

    def test_percentiles_are_lengths_that_occur(self) -> None:
        stats = length_stats(np.arange(1, 101))
        assert stats is not None
        assert (stats.p50, stats.p90, stats.p99, stats.max) == (50, 90, 99, 100)

    def test_bins_hold_every_sequence(self) -> None:
        stats = length_stats(np.array([3, 4, 5, 8, 9, 100]))
        assert stats is not None
        bins = {found.up_to: found.count for found in stats.bins}
        assert bins == {3: 1, 4: 1, 6: 1, 8: 1, 12: 1, 16: 0, 24: 0, 32: 0, 48: 0, 64: 0, 96: 0, 128: 1}

    @pytest.mark.parametrize("longest", [1, 2, 3, 4, 5, 6, 7, 1000])
    def test_bounds_reach_the_longest(self, longest: int) -> None:
        bounds = bounds_up_to(longest)
        assert bounds == sorted(set(bounds)) and bounds[-1] >= longest

    def test_longest_prompt_is_found(self) -> None:
        found = report(facts((3, 1, 1), (9, 1, 1)), facts((7, 1, 1))).longest_prompt
        assert found is not None and (found.row, found.tokens) == (2, 9)

    def test_longer_chosen(self) -> None:
        assert report(facts((1, 2, 1), (1, 1, 1), (1, 1, 2))).longer_chosen == 1


def test_keys_are_those_of_the_ids() -> None:
    assert key([1, 2], [3]) == key([1, 2], [3])
    assert len({key([1, 2], [3]), key([1], [2, 3]), key([1, 2, 3]), key([1, 2], [3], [])}) == 4


GATE = GateSpec(
    min_pairs=4,
    max_dropped_fraction=0.2,
    max_truncated_fraction=0.2,
    max_duplicate_fraction=0.2,
    max_overlap=0.2,
)
GOOD = facts(*[(5, 3, 3)] * 5)


class TestGate:
    def test_good_data(self) -> None:
        assert gate.violations(report(GOOD, facts((5, 3, 3), keys=[9])), GATE) == []

    def test_share_at_the_bound_is_allowed(self) -> None:
        assert gate.violations(report(facts(*[(5, 3, 3)] * 4, (11, 3, 3))), GATE) == []

    @pytest.mark.parametrize(
        ("found", "words"),
        [
            (report(facts((5, 3, 3), (5, 3, 3))), ["minPairs is 4", "2 pairs are left"]),
            (
                report(facts((5, 3, 3), (5, 3, 3), (5, 3, 3), (50, 3, 9), (11, 3, 3))),
                [
                    "maxTruncatedFraction is 0.2",
                    "0.4 (2 of 5)",
                    "maxPromptLength (99 % of the prompts have up to 50",
                    "maxCompletionLength (99 % of the completions have up to 9",
                ],
            ),
            (
                report(facts(*[(5, 3, 3)] * 5, keys=[1, 1, 1, 2, 3])),
                ["maxDuplicateFraction is 0.2", "0.4 (2 of 5)"],
            ),
            (report(GOOD, facts((5, 3, 3), keys=[4])), ["maxOverlap is 0.2", "1 (1 of 1)", "evalSplit"]),
        ],
        ids=["few", "truncated", "duplicates", "overlap"],
    )
    def test_violation_names_field_number_and_fix(self, found: DataReport, words: list[str]) -> None:
        (sentence,) = gate.violations(found, GATE)
        assert sentence.startswith("dataset.gate.") and all(word in sentence for word in words)

    def test_dropped(self) -> None:
        half = report(GOOD).model_copy(update={"rows": 10, "dropped_empty": 2, "dropped_equal": 3})
        (sentence,) = gate.violations(half, GATE)
        assert "maxDroppedFraction is 0.2" in sentence and "0.5 (5 of 10)" in sentence
        assert "2 have an empty side, 3 have sides that are equal" in sentence


class TestWholeWay:
    """From a file through the tokenizer to the verdict."""

    def examine(
        self, tmp_path: Path, model: Path, rows: list[Row], **spec: Any
    ) -> tuple[data.PreparedData, Any]:
        config = manifests.config(**spec)
        _, pairs = manifests.write(tmp_path, rows, {})
        return data.examine(config, model, tmp_path / "work", pairs), config

    def test_report_of_a_file(self, tmp_path: Path, model: Path) -> None:
        system = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
        other = {side: [*system, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
        rows = [*chats(8), chats(1)[0], chat("x", "a", "a"), chat("x", "", "a"), other]
        found = self.examine(tmp_path, model, rows, dataset={"evalFraction": 0.25})[0].report
        assert found.splits == {"train": 12}
        assert found.columns == {"chosen": "chosen", "rejected": "rejected"}
        assert found.roles == {"user > assistant": 9, "system user > assistant": 1}
        assert (found.dropped_equal, found.dropped_empty) == (1, 1)
        assert found.train_pairs + found.eval_pairs == 10
        assert found.duplicate_pairs + found.overlap_pairs == 1
        assert sum(one.count for one in found.lengths["prompt"].bins) == 10
        assert found.longest_prompt is not None and found.longest_prompt.row == 12

    def test_summary_form_is_json(self, tmp_path: Path, model: Path) -> None:
        found = self.examine(tmp_path, model, chats(4))[0].report
        again = json.loads(json.dumps(found.model_dump(by_alias=True)))
        assert (
            again["trainPairs"] == 4 and again["lengths"]["prompt"]["p50"] > 0 and again["violations"] == []
        )

    def test_violation_ends_the_job(self, tmp_path: Path, model: Path) -> None:
        prepared, config = self.examine(tmp_path, model, chats(1) * 4)
        assert len(prepared.report.violations) == 1
        with pytest.raises(TrainerError) as caught:
            data.accept(prepared, config)
        assert caught.value.reason is TrainerReason.DATA_INVALID
        assert "dataset.gate.maxDuplicateFraction is 0.5 and 0.75 (3 of 4)" in caught.value.message

    def test_violation_only_warns(
        self, tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        lenient = {"gate": {"onViolation": "Warn"}}
        prepared, config = self.examine(tmp_path, model, chats(1) * 4, dataset=lenient)
        with caplog.at_level(logging.WARNING):
            data.accept(prepared, config)
        assert "maxDuplicateFraction" in caplog.text and len(prepared.report.violations) == 1

    def test_pairs_that_only_differ_beyond_the_length_repeat_each_other(
        self, tmp_path: Path, model: Path
    ) -> None:
        rows = [chat("q", f"yes yes {number}", "no no") for number in range(3)]
        whole = self.examine(tmp_path, model, rows)[0].report
        short = self.examine(tmp_path, model, rows, dpo={"maxCompletionLength": 1})[0].report
        assert (whole.duplicate_pairs, short.duplicate_pairs) == (0, 2)
