"""A claim with a tiny model and preference data at the place where the operator would mount it, and other stores."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.trainer import fake_gcs, tiny_models
from tests.trainer import gcs as gcs_api
from tests.trainer.fake_gcs import FakeGcs
from tests.trainer.gcs import Gcs
from tests.trainer.jobs import Claim, mounted, write_pairs

from dpojob_api import uris
from dpojob_api.constants import PVC_MOUNT_ROOT


@pytest.fixture(scope="session")
def claim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Claim]:
    """A claim with the tiny Qwen3 in model/ and 64 pairs in pairs.jsonl."""
    folder = tmp_path_factory.mktemp("claim")
    with ExitStack() as stack:
        try:
            mount = stack.enter_context(mounted(folder))
        except OSError as error:
            pytest.skip(f"claims are mounted below {PVC_MOUNT_ROOT}, which cannot be written here: {error}")
        tiny_models.write_model(folder / "model", tiny_models.QWEN3)
        write_pairs(folder / "pairs.jsonl", 64)
        yield mount


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with config.json and a small tokenizer with a ChatML template."""
    folder = tmp_path_factory.mktemp("model")
    tiny_models.write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps({"vocab_size": tiny_models.VOCABULARY}))
    return folder


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder below which this process looks for mounted claims."""
    folder = tmp_path / "mnt"
    folder.mkdir()
    monkeypatch.setattr(uris, "PVC_MOUNT_ROOT", str(folder))
    return folder


@pytest.fixture
def volume(mounts: Path) -> Path:
    """The folder at which the claim `inputs` is mounted."""
    folder = mounts / "inputs"
    folder.mkdir()
    return folder


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gcs]:
    """A GCS that the client of this process uses."""
    with gcs_api.serve() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcs]:
    """The GCS emulator with the buckets `inputs` and `out`, which the clients of this process and its children use."""
    with fake_gcs.serve() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        for bucket in ("inputs", "out"):
            server.create_bucket(bucket)
        yield server
