"""Trackers beside metrics.jsonl: the real W&B client in offline mode, real event files."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.trainer.gcs import Gcs
from tests.trainer.manifests import config

from dpojob_api.reasons import TrainerReason
from dpojob_trainer import store
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.training.tracking import open_tracker

KEY = "0123456789abcdef0123456789abcdef01234567"
NUMBERS = {"loss": 0.625, "rewards/margins": 0.25}
WANDB = {"tracking": {"wandb": {"project": "preferences"}}}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """W&B writes into this folder; its key is set as in the pods."""
    folder = tmp_path / "wandb"
    folder.mkdir()
    for name, value in (
        ("MODE", "offline"),
        ("DIR", str(folder)),
        ("API_KEY", KEY),
        ("CACHE_DIR", str(tmp_path)),
    ):
        monkeypatch.setenv(f"WANDB_{name}", value)
    yield folder
    import wandb

    wandb.teardown()


@pytest.fixture
def out(mounts: Path) -> store.OutputStore:
    (mounts / "outputs").mkdir()
    return store.open_store("pvc://outputs/job")


def test_wandb_gets_every_number_and_never_tells_its_key(
    offline: Path,
    out: store.OutputStore,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with open_tracker(config(**WANDB), 0, out, tmp_path / "work") as tracker:
        tracker.log("train", 1, NUMBERS)
        tracker.log("eval", 1, NUMBERS)
    (run,) = offline.rglob("*.wandb")
    content = run.read_bytes()
    for name in (b"train/loss", b"eval/rewards/margins", b"0.625", b"preferences", b"default/job"):
        assert name in content
    printed = "".join(capfd.readouterr()) + caplog.text
    files = b"".join(file.read_bytes() for file in offline.rglob("*") if file.is_file())
    assert KEY not in printed and KEY.encode() not in files


def test_other_hosts_open_no_run(offline: Path, out: store.OutputStore, tmp_path: Path) -> None:
    with open_tracker(config(**WANDB), 1, out, tmp_path) as tracker:
        tracker.log("train", 1, NUMBERS)
    assert not list(offline.rglob("*.wandb")) and not (Path(out.root) / "tensorboard").exists()


def test_wandb_without_a_key_is_explained(
    offline: Path, out: store.OutputStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(TrainerError) as caught, open_tracker(config(**WANDB), 0, out, tmp_path):
        pass
    assert caught.value.reason is TrainerReason.TRACKING_FAILED
    assert "credentials.wandb" in caught.value.message and "short" not in caught.value.message


def numbers_in(folder: Path) -> dict[str, float]:
    """Read a folder of event files back: values by tag."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter

    assert RecordWriter is not None
    found: dict[str, float] = {}
    for file in folder.iterdir():
        content, at = file.read_bytes(), 0
        # A record is its length (8 bytes), a checksum (4), the event, a checksum (4).
        while at < len(content):
            size = int.from_bytes(content[at : at + 8], "little")
            event = Event.FromString(content[at + 12 : at + 12 + size])
            found |= {f"{value.tag}@{event.step}": value.simple_value for value in event.summary.value}
            at += size + 16
    return found


EXPECTED = {
    f"{kind}/{name}@{step}": value
    for kind, step in (("train", 1), ("eval", 6))
    for name, value in NUMBERS.items()
}


def test_event_files_hold_every_number(out: store.OutputStore, tmp_path: Path) -> None:
    with open_tracker(config(), 0, out, tmp_path) as tracker:
        tracker.log("train", 1, NUMBERS)
        tracker.log("eval", 6, NUMBERS)
    assert numbers_in(Path(out.root) / "tensorboard" / "attempt-1") == EXPECTED


def test_event_files_reach_gcs_also_when_a_run_fails(gcs: Gcs, tmp_path: Path) -> None:
    gcs.buckets["out"] = {}
    bucket = store.open_store("gs://out/job")
    with pytest.raises(RuntimeError), open_tracker(config(), 0, bucket, tmp_path) as tracker:
        tracker.log("train", 1, NUMBERS)
        raise RuntimeError("lost")
    assert [name for name in bucket.list("tensorboard/attempt-1") if name.startswith("events")]
