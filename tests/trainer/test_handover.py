"""Tokenised pairs that the driver hands over to its hosts through the output."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.trainer.test_data import ROWS, config, write_rows

from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import data, preflight, store
from dpojob_trainer.data import handover
from dpojob_trainer.data.tokens import Lengths


@pytest.fixture
def folder(mounts: Path, volume: Path, model: Path) -> Path:
    """The output folder of the job; the claim `inputs` has its data, and its model without weights."""
    write_rows(volume, ROWS)
    shutil.copytree(model, volume / "m")
    (volume / "m" / "model.safetensors").write_bytes(b"")
    (mounts / "out").mkdir()
    return mounts / "out" / "x"


def job(**dataset: Any) -> TrainerConfig:
    return config({"evalFraction": 0.25} | dataset)


def host(folder: Path, model: Path, work: Path, spec: TrainerConfig | None = None) -> data.PreparedData:
    """Prepare the data as a host does."""
    return data.prepare(spec or job(), model, work, folder / "pairs")


def found(prepared: data.PreparedData) -> bool:
    return prepared.rows is not None and prepared.rows.found


def test_hosts_read_what_the_driver_tokenised(
    folder: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = data.prepare(job(), model, tmp_path / "own")
    report = preflight.check(job(), tmp_path / "driver")

    def again(*_: Any) -> None:
        raise AssertionError("the pairs were tokenised again")

    monkeypatch.setattr(sys.modules["dpojob_trainer.data.prepare"], "encode_pairs", again)
    read = host(folder, model, tmp_path / "host")
    assert found(read) and not found(own)
    assert read.train.to_dict() == own.train.to_dict()
    assert read.evaluation is not None and own.evaluation is not None
    assert read.evaluation.to_dict() == own.evaluation.to_dict()
    assert (read.report, read.pairs_sha256) == (own.report, own.pairs_sha256)
    assert read.report == report
    assert read.rows is not None and read.rows.train.cache_files, "the rows are mapped, not copied"
    assert preflight.check(job(), tmp_path / "restart") == report


def test_other_data_are_tokenised(folder: Path, volume: Path, model: Path, tmp_path: Path) -> None:
    preflight.check(job(), tmp_path / "driver")
    assert not found(host(folder, model, tmp_path / "seed", job(seed=1)))
    assert not found(
        host(folder, model, tmp_path / "length", config({"evalFraction": 0.25}, {"maxPromptLength": 7}))
    )
    write_rows(volume, ROWS[:7])
    assert host(folder, model, tmp_path / "rows").report.rows == 7


def test_another_template_is_another_address(folder: Path, volume: Path, model: Path, tmp_path: Path) -> None:
    lengths = Lengths(8, 8)
    first = handover.address_of(job().dataset, lengths, model, tmp_path)
    other = shutil.copytree(model, tmp_path / "other")
    assert handover.address_of(job().dataset, lengths, other, tmp_path) == first
    (other / "chat_template.jinja").write_text("{{ messages }}")
    assert handover.address_of(job().dataset, lengths, other, tmp_path) != first


def test_a_looser_gate_needs_no_new_tokens(folder: Path, model: Path, tmp_path: Path) -> None:
    preflight.check(job(), tmp_path / "driver")
    strict = job(gate={"minPairs": 9, "onViolation": "Warn"})
    read = host(folder, model, tmp_path / "host", strict)
    assert found(read)
    assert "minPairs" in read.report.violations[0]


@pytest.mark.parametrize("damage", ["address", "rows"])
def test_what_cannot_be_read_is_made_again(folder: Path, model: Path, tmp_path: Path, damage: str) -> None:
    preflight.check(job(), tmp_path / "driver")
    if damage == "address":
        (folder / "pairs" / handover.ADDRESS).write_text("{")
    else:
        for file in (folder / "pairs" / "train").glob("*.arrow"):
            file.write_bytes(file.read_bytes()[:100])
    read = host(folder, model, tmp_path / "host")
    assert not found(read) and len(read.train) == 6
    preflight.check(job(), tmp_path / "again")
    assert found(host(folder, model, tmp_path / "later"))


def test_an_output_in_gcs_has_no_folder_to_share() -> None:
    assert store.pairs_of(store.open_store("gs://out/x")) is None


def test_the_folder_holds_both_parts_and_their_address(folder: Path, model: Path, tmp_path: Path) -> None:
    preflight.check(job(), tmp_path / "driver")
    found = json.loads((folder / "pairs" / handover.ADDRESS).read_text())
    assert len(found["address"]) == 64
    assert sorted(entry.name for entry in (folder / "pairs").iterdir()) == [
        "address.json",
        "evaluation",
        "train",
    ]
