"""The output store: a real folder, and the real GCS client against a stand-in of its JSON API (`gcs.py`).

GCS itself cannot be reached from the tests. A file system that refuses is made by failing the system call, because the
tests may run as root, whom permissions do not stop.
"""

import errno
import json
from pathlib import Path

import pytest
from tests.trainer.gcs import Gcs

from dpojob_api.reasons import TrainerReason
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.store import OutputStore, open_store
from dpojob_trainer.store import gcs as gcs_store


@pytest.fixture
def volume(mounts: Path) -> Path:
    """The folder at which the claim `out` is mounted."""
    folder = mounts / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def gcs(gcs: Gcs) -> Gcs:
    """A GCS with the bucket `out`."""
    gcs.buckets["out"] = {}
    return gcs


@pytest.fixture(params=["pvc", "gs"])
def uri(request: pytest.FixtureRequest) -> str:
    """The job's folder in either store."""
    request.getfixturevalue("volume" if request.param == "pvc" else "gcs")
    return f"{request.param}://out/runs/one"


def refusal(action: object, *arguments: object) -> TrainerError:
    """The error that a call ends with."""
    assert callable(action)
    with pytest.raises(TrainerError) as caught:
        action(*arguments)
    return caught.value


class TestBoth:
    def test_text_files(self, uri: str) -> None:
        store = open_store(uri)
        store.check_writable()
        assert store.list() == [] and not store.exists("a/b.json")
        store.write_text("a/b.json", "1")
        store.write_text("a/b.json", "2 ä")
        assert store.read_text("a/b.json") == "2 ä"
        assert store.exists("a/b.json") and store.exists("a") and not store.exists("a/b")
        assert store.list() == ["a"] and store.list("a") == ["b.json"] and store.list("none") == []
        with pytest.raises(FileNotFoundError):
            store.read_text("none")

    def test_lines_of_earlier_attempts_stay(self, uri: str) -> None:
        for attempt in (1, 2):
            store = open_store(uri)
            store.append_line("metrics.jsonl", f'{{"attempt": {attempt}}}')
            store.append_line("metrics.jsonl", f'{{"attempt": {attempt}, "step": 2}}\n')
            store.flush()
        lines = [json.loads(line) for line in open_store(uri).read_text("metrics.jsonl").splitlines()]
        assert [line["attempt"] for line in lines] == [1, 1, 2, 2]

    def test_folder_replaces_the_folder_before(self, uri: str, tmp_path: Path) -> None:
        store = open_store(uri)
        store.upload_dir(tree(tmp_path / "first", "config.json", "old.safetensors", "sub/x"), "model")
        store.upload_dir(tree(tmp_path / "second", "config.json", "new.safetensors"), "model")
        assert [name for name in store.list("model") if name != ".complete"] == [
            "config.json",
            "new.safetensors",
        ]
        assert store.read_text("model/config.json") == "second/config.json"
        assert store.list() == ["model"]

    def test_claim_by_the_same_job_again(self, uri: str) -> None:
        for _ in range(2):
            open_store(uri).claim("uid-1", "tune")
        assert json.loads(open_store(uri).read_text(".dpojob.json")) == {"job": "tune", "uid": "uid-1"}

    def test_claim_of_another_job(self, uri: str) -> None:
        open_store(uri).claim("uid-1", "tune")
        error = refusal(open_store(uri).claim, "uid-2", "other")
        assert error.reason == TrainerReason.OUTPUT_IN_USE
        assert "DPOJob tune (uid uid-1)" in error.message and "output.uri" in error.message
        assert "an earlier job of this name" in refusal(open_store(uri).claim, "uid-2", "tune").message

    def test_claim_of_results_without_marker(self, uri: str) -> None:
        open_store(uri).write_text("checkpoints/run-1/metadata.json", "{}")
        error = refusal(open_store(uri).claim, "uid-1", "tune")
        assert error.reason == TrainerReason.OUTPUT_IN_USE and "checkpoints" in error.message

    def test_claim_beside_foreign_files(self, uri: str) -> None:
        open_store(uri).write_text("lost+found/x", "")
        open_store(uri).claim("uid-1", "tune")

    def test_broken_marker(self, uri: str) -> None:
        open_store(uri).write_text(".dpojob.json", "[]")
        assert refusal(open_store(uri).claim, "uid-1", "tune").reason == TrainerReason.OUTPUT_IN_USE


class TestLocal:
    def test_root_is_the_mounted_folder(self, volume: Path) -> None:
        assert open_store("pvc://out/runs/one").root == str(volume / "runs/one")
        assert open_store("pvc://out").root == str(volume)

    def test_claim_that_is_not_mounted(self, volume: Path) -> None:
        error = refusal(open_store("pvc://absent/x").check_writable)
        assert error.reason == TrainerReason.OUTPUT_UNWRITABLE and "not mounted" in error.message
        assert not (volume.parent / "absent").exists()

    @pytest.mark.parametrize(
        ("number", "words"),
        [(errno.EROFS, "read-write"), (errno.EACCES, "fsGroup"), (errno.ENOSPC, "space on the volume")],
    )
    def test_volume_that_refuses(
        self, volume: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
    ) -> None:
        def refuse(self: Path, *arguments: object, **options: object) -> None:
            raise OSError(number, "refused", str(self))

        store = open_store("pvc://out/x")
        monkeypatch.setattr(Path, "mkdir", refuse)
        for error in (refusal(store.check_writable), refusal(store.write_text, "a", "b")):
            assert error.reason == TrainerReason.OUTPUT_UNWRITABLE and words in error.message

    def test_file_where_the_folder_should_be(self, volume: Path) -> None:
        (volume / "x").write_text("")
        assert refusal(open_store("pvc://out/x").check_writable).reason == TrainerReason.OUTPUT_UNWRITABLE

    def test_nothing_is_left_behind(self, volume: Path, tmp_path: Path) -> None:
        store = open_store("pvc://out/x")
        store.check_writable()
        store.write_text("a", "1")
        store.upload_dir(tree(tmp_path / "first", "f"), "model")
        store.upload_dir(tree(tmp_path / "second", "f"), "model")
        assert sorted(path.name for path in (volume / "x").iterdir()) == ["a", "model"]

    def test_failed_upload_leaves_the_folder_before(self, volume: Path, tmp_path: Path) -> None:
        store = open_store("pvc://out/x")
        store.upload_dir(tree(tmp_path / "first", "f"), "model")
        assert (
            refusal(store.upload_dir, tmp_path / "absent", "model").reason == TrainerReason.OUTPUT_UNWRITABLE
        )
        assert store.list() == ["model"] and store.read_text("model/f") == "first/f"

    def test_lines_are_in_the_file_at_once(self, volume: Path) -> None:
        open_store("pvc://out/x").append_line("metrics.jsonl", "{}")
        assert (volume / "x/metrics.jsonl").read_text() == "{}\n"


class TestGcs:
    def test_root(self) -> None:
        assert open_store("gs://out/runs/one/").root == "gs://out/runs/one"
        assert open_store("gs://out").root == "gs://out"

    def test_bucket_without_prefix(self, gcs: Gcs) -> None:
        store = open_store("gs://out")
        store.claim("uid-1", "tune")
        store.write_text("model/config.json", "{}")
        assert store.list() == [".dpojob.json", "model"]

    def test_missing_bucket(self, gcs: Gcs) -> None:
        error = refusal(open_store("gs://absent/x").check_writable)
        assert error.reason == TrainerReason.OUTPUT_UNWRITABLE
        assert "bucket does not exist" in error.message and "Create the bucket" in error.message

    def test_no_access(self, gcs: Gcs) -> None:
        gcs.denied.add("out")
        error = refusal(open_store("gs://out/x").check_writable)
        assert error.reason == TrainerReason.OUTPUT_UNWRITABLE
        assert "no access to out" in error.message and "roles/storage.objectAdmin" in error.message

    def test_probe_is_deleted(self, gcs: Gcs) -> None:
        open_store("gs://out/x").check_writable()
        assert gcs.buckets["out"] == {}

    def test_no_identity(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
        error = refusal(open_store("gs://out/x").check_writable)
        assert error.reason == TrainerReason.OUTPUT_UNWRITABLE and "Workload Identity" in error.message

    def test_lines_are_rewritten_now_and_then(self, gcs: Gcs, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [1000.0]
        monkeypatch.setattr(gcs_store.time, "monotonic", lambda: now[0])
        store = open_store("gs://out/x")
        for line in ("1", "2", "3"):
            store.append_line("metrics.jsonl", line)
        assert gcs.buckets["out"]["x/metrics.jsonl"] == b"1\n"
        now[0] += gcs_store.REWRITE_SECONDS
        store.append_line("metrics.jsonl", "4")
        assert gcs.buckets["out"]["x/metrics.jsonl"] == b"1\n2\n3\n4\n"

    def test_complete_is_written_last_and_removed_first(self, gcs: Gcs, tmp_path: Path) -> None:
        store = open_store("gs://out/x")
        store.upload_dir(tree(tmp_path / "first", "a", "gone"), "model")
        gcs.requests.clear()
        store.upload_dir(tree(tmp_path / "second", "a"), "model")
        writes = [request.split()[0] for request in gcs.requests if not request.startswith("GET")]
        assert writes == ["DELETE", "POST", "DELETE", "POST"]
        assert json.loads(gcs.buckets["out"]["x/model/.complete"]) == {"a": len("second/a")}


def tree(folder: Path, *names: str) -> Path:
    """A folder with files that say where they are from."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{folder.name}/{name}")
    return folder


def test_unknown_scheme() -> None:
    with pytest.raises(ValueError, match="output is pvc"):
        open_store("hf://org/name")


def test_both_are_output_stores() -> None:
    stores: list[OutputStore] = [open_store("pvc://out/x"), open_store("gs://out/x")]
    assert len({type(store) for store in stores}) == 2
