"""What a run that fails leaves in GCS: the real client against the stand-in of `gcs.py`, the real EasyDeL on CPU devices.

Orbax cannot write to the stand-in, so checkpoints go to a folder; they play no part here.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

if "jax" not in sys.modules:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import pytest
from tests.trainer.gcs import Gcs
from tests.trainer.jobs import Claim

from dpojob_api.reasons import TrainerReason
from dpojob_trainer import easydel_compat, store
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.store.gcs import GcsStore

pytestmark = pytest.mark.jax


@pytest.fixture
def training() -> Any:
    """The module under test; it imports EasyDeL."""
    easydel_compat.prepare()
    from dpojob_trainer.training import run

    return run


@pytest.fixture
def lines(gcs: Gcs, tmp_path: Path) -> GcsStore:
    """A store in GCS whose checkpoints go to a folder."""

    class Lines(GcsStore):
        root = property(lambda self: str(tmp_path / "out"))  # type: ignore[assignment]

    gcs.buckets["out"] = {}
    return Lines("gs://out/run")


def written(gcs: Gcs) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl in GCS."""
    return [json.loads(line) for line in gcs.buckets["out"]["run/metrics.jsonl"].splitlines()]


def test_the_metrics_of_a_failed_run_are_kept(
    training: Any, claim: Claim, gcs: Gcs, lines: GcsStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpojob_trainer.training import recorder

    stepped = recorder.Recorder.stepped

    def fails_at_3(self: Any, state: Any, step: int, numbers: dict[str, float]) -> None:
        stepped(self, state, step, numbers)
        if step == 3:
            assert len(written(gcs)) < 4, "nothing is left to be flushed"
            raise TypeError("wrong argument")

    monkeypatch.setattr(recorder.Recorder, "stepped", fails_at_3)
    monkeypatch.setattr(store, "output_of", lambda config: lines)
    config = claim.config("failed", accelerator={"type": "v4-16"})
    with pytest.raises(TypeError, match="wrong argument"):
        training.run(config, training.Place(0, "localhost", tmp_path / "work"), lambda event: None)
    found = written(gcs)
    assert [line["step"] for line in found] == [0, 1, 2, 3]
    assert "eval/loss" in found[0] and all("loss" in line for line in found[1:])


def held_back(lines: GcsStore) -> GcsStore:
    """Append two lines, of which the second waits for a flush."""
    for step in (1, 2):
        lines.append_line("metrics.jsonl", json.dumps({"step": step}))
    return lines


def test_a_bucket_that_refuses_does_not_hide_why_the_run_failed(
    training: Any, gcs: Gcs, lines: GcsStore, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="of the run"), training.flushed(held_back(lines)):
        gcs.denied.add("out")
        raise ValueError("of the run")
    assert "metrics.jsonl are lost" in caplog.text and "roles/storage.objectAdmin" in caplog.text


def test_a_run_whose_last_lines_cannot_be_written_fails(training: Any, gcs: Gcs, lines: GcsStore) -> None:
    with pytest.raises(TrainerError) as caught, training.flushed(held_back(lines)):
        gcs.denied.add("out")
    assert caught.value.reason is TrainerReason.OUTPUT_UNWRITABLE
