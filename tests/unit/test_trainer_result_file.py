"""``python -m dpojob_trainer check --result FILE``: the last line as a container's termination message."""

from pathlib import Path

import pytest

from dpojob_api.reasons import TrainerReason
from dpojob_api.result import TrainerResult, find_result
from dpojob_trainer import __main__ as trainer

REFUSED = TrainerResult(reason=TrainerReason.DATA_INVALID, message="3 of 10 pairs")


def test_result_is_printed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trainer, "run", lambda args: REFUSED)
    file = tmp_path / "termination-log"
    assert trainer.main(["check", "--config", "c.json", "--result", str(file)]) == 3
    assert find_result(file.read_text()) == find_result(capsys.readouterr().out) == REFUSED


def test_nothing_is_written_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "run", lambda args: REFUSED)
    assert trainer.main(["check", "--config", "c.json"]) == 3
