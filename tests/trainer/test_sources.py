"""Fetching models and data sets: the real Hub and GCS clients against local stand-ins of their HTTP APIs.

The stand-ins (`hub.py`, `gcs.py`) exist because neither service can be reached from the tests. Waiting is replaced by
recording how long would have been waited.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets.config
import huggingface_hub.constants
import pytest
from tests.trainer import hub as hub_api
from tests.trainer.gcs import Gcs
from tests.trainer.hub import GOOD_TOKEN, OTHER_TOKEN, Fault, Hub, Repo
from tests.trainer.manifests import config

from dpojob_api.input_spec import DatasetSpec, ModelSpec
from dpojob_api.reasons import TrainerReason
from dpojob_trainer import data
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.report import lineage_of
from dpojob_trainer.sources import fetch_dataset_files, fetch_model, pinned
from dpojob_trainer.sources.hub import load_split
from dpojob_trainer.sources.layout import layout_problem

WEIGHTS = bytes(range(256)) * 64
MODEL = {
    "config.json": b'{"model_type": "qwen3"}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle",
    "modeling_own.py": b"raise SystemExit('remote code was run')",
    "onnx/model.json": b"{}",
}
PAIRS = [{"prompt": f"question {n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(6)]
JSONL = "".join(json.dumps(pair) + "\n" for pair in PAIRS).encode()
NAME = "org/thing"


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that leaves this machine."""
    resolve = socket.getaddrinfo

    def guarded(host: Any, *args: Any, **kwargs: Any) -> Any:
        assert host in ("127.0.0.1", "localhost"), f"the test asked for {host}"
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", guarded)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clients and the retries would have slept, in seconds."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, waits: list[float]) -> Iterator[Hub]:
    """A Hub that the clients of this process use; huggingface_hub and datasets read HF_ENDPOINT at import only."""
    with hub_api.serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        files = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
        yield server


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files and return their folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def fetch(tmp_path: Path, revision: str | None = None, uri: str = f"hf://{NAME}") -> Path:
    """Fetch a model."""
    return fetch_model(ModelSpec(uri=uri, revision=revision), tmp_path / "work")


def refusal(tmp_path: Path, **spec: Any) -> TrainerError:
    """The error that fetching a model ends with."""
    with pytest.raises(TrainerError) as caught:
        fetch(tmp_path, **spec)
    return caught.value


def rows(tmp_path: Path, revision: str | None = None, split: str = "train") -> list[dict[str, Any]]:
    """The rows of the Hub's data set."""
    return list(load_split(NAME, revision, split, tmp_path / "work"))


class TestHubModel:
    def test_downloads_what_is_needed_and_nothing_else(self, hub: Hub, tmp_path: Path) -> None:
        hub.models[NAME] = Repo({"main": MODEL})
        folder = fetch(tmp_path)
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
        assert sorted(path.name for path in folder.iterdir()) == [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
        assert hub.served(r"\.bin|\.py|onnx") == 0

    def test_revision_is_the_one_asked_for(self, hub: Hub, tmp_path: Path) -> None:
        hub.models[NAME] = Repo({"main": MODEL, "v2": MODEL | {"config.json": b'{"v": 2}'}})
        assert json.loads((fetch(tmp_path, "v2") / "config.json").read_text()) == {"v": 2}
        assert json.loads((fetch(tmp_path) / "config.json").read_text()) == {"model_type": "qwen3"}

    def test_commit_as_revision(self, hub: Hub, tmp_path: Path) -> None:
        hub.models[NAME] = Repo({"main": MODEL, "old": MODEL | {"config.json": b'{"v": 1}'}})
        commit = hub.models[NAME].commit("old")
        assert json.loads((fetch(tmp_path, commit) / "config.json").read_text()) == {"v": 1}

    def test_missing_repository(self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        error = refusal(tmp_path)
        assert error.reason == TrainerReason.MODEL_NOT_FOUND
        assert f"hf://{NAME} does not exist" in error.message and "credentials.huggingFace" in error.message
        monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
        assert "use a token that may read it" in refusal(tmp_path).message

    def test_missing_revision(self, hub: Hub, tmp_path: Path) -> None:
        hub.models[NAME] = Repo({"main": MODEL})
        for revision in ("v9", "0" * 40):
            error = refusal(tmp_path, revision=revision)
            assert error.reason == TrainerReason.MODEL_NOT_FOUND
            assert f"no revision '{revision}'" in error.message

    def test_gated_without_token(self, hub: Hub, tmp_path: Path) -> None:
        hub.models[NAME] = Repo({"main": MODEL}, gated=True)
        error = refusal(tmp_path)
        assert error.reason == TrainerReason.CREDENTIALS_MISSING
        assert "is gated" in error.message and "spec.credentials.huggingFace" in error.message

    def test_gated_with_token_that_was_not_granted(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub.models[NAME] = Repo({"main": MODEL}, gated=True)
        monkeypatch.setenv("HF_TOKEN", OTHER_TOKEN)
        error = refusal(tmp_path)
        assert error.reason == TrainerReason.CREDENTIALS_MISSING
        assert "has not been granted access" in error.message and OTHER_TOKEN not in error.message

    def test_gated_with_granted_token(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub.models[NAME] = Repo({"main": MODEL}, gated=True)
        monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
        assert (fetch(tmp_path) / "model.safetensors").read_bytes() == WEIGHTS
        assert hub.tokens == {GOOD_TOKEN}

    def test_token_that_is_not_valid(self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        hub.models[NAME] = Repo({"main": MODEL})
        monkeypatch.setenv("HF_TOKEN", "hf_revoked")
        error = refusal(tmp_path)
        assert error.reason == TrainerReason.CREDENTIALS_MISSING
        assert "valid token" in error.message and "hf_revoked" not in error.message

    @pytest.mark.parametrize("path", ["GET /api/models/org/thing/?", "GET /org/thing/resolve/.*safetensors"])
    def test_rate_limit_that_passes(self, hub: Hub, tmp_path: Path, waits: list[float], path: str) -> None:
        hub.models[NAME] = Repo({"main": MODEL})
        hub.faults = [Fault(path, 2, 429, {"Retry-After": "17"})]
        assert (fetch(tmp_path) / "model.safetensors").read_bytes() == WEIGHTS
        assert [round(wait) for wait in waits if wait >= 17] in ([17, 17], [18, 18])

    def test_rate_limit_that_stays(self, hub: Hub, tmp_path: Path, waits: list[float]) -> None:
        hub.models[NAME] = Repo({"main": MODEL})
        hub.faults = [Fault("/api/models", 10**6, 429, {"Retry-After": "9000"})]
        error = refusal(tmp_path)
        assert error.reason == TrainerReason.RATE_LIMITED and "429" in error.message
        assert hub.served("/api/models") == 5
        assert waits == [300.0] * 4

    def test_rate_limit_on_files_that_stays(self, hub: Hub, tmp_path: Path) -> None:
        hub.models[NAME] = Repo({"main": MODEL})
        hub.faults = [Fault("/resolve/", 10**6, 429)]
        assert refusal(tmp_path).reason == TrainerReason.RATE_LIMITED

    def test_server_errors_that_pass(self, hub: Hub, tmp_path: Path) -> None:
        hub.models[NAME] = Repo({"main": MODEL})
        hub.faults = [Fault("/api/models", 2, 503), Fault("/resolve/.*safetensors", 2, 502)]
        assert (fetch(tmp_path) / "model.safetensors").read_bytes() == WEIGHTS

    def test_server_errors_that_stay(self, hub: Hub, tmp_path: Path) -> None:
        hub.faults = [Fault("/api/models", 10**6, 503)]
        error = refusal(tmp_path)
        assert error.reason == TrainerReason.DOWNLOAD_FAILED and "503" in error.message

    def test_half_a_download_is_taken_up_again(self, hub: Hub, tmp_path: Path) -> None:
        hub.models[NAME] = Repo({"main": MODEL})
        hub.faults = [Fault("GET .*/resolve/.*safetensors", 2)]
        assert (fetch(tmp_path) / "model.safetensors").read_bytes() == WEIGHTS
        assert hub.served("GET .*/resolve/.*safetensors") == 3

    def test_half_a_download_every_time(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub.models[NAME] = Repo({"main": MODEL})
        hub.faults = [Fault("GET .*/resolve/.*safetensors", 10**6)]
        error = refusal(tmp_path)
        assert error.reason == TrainerReason.DOWNLOAD_FAILED
        assert "could not be downloaded" in error.message and "\n" not in error.message
        hub.faults.clear()
        assert (fetch(tmp_path) / "model.safetensors").read_bytes() == WEIGHTS

    def test_unreachable(self, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
        error = refusal(tmp_path)
        assert error.reason == TrainerReason.DOWNLOAD_FAILED and "reachable" in error.message

    def test_layout_is_checked_before_weights_are_downloaded(self, hub: Hub, tmp_path: Path) -> None:
        hub.models[NAME] = Repo({"main": {"config.json": b"{}", "pytorch_model.bin": WEIGHTS}})
        error = refusal(tmp_path)
        assert error.reason == TrainerReason.MODEL_NOT_FOUND and "safetensors are required" in error.message
        assert hub.served("/resolve/") == 0


class TestHubDataset:
    def test_reads_split_and_revision(self, hub: Hub, tmp_path: Path) -> None:
        new = JSONL.replace(b"good", b"better")
        hub.datasets[NAME] = Repo(
            {
                "main": {"train.jsonl": JSONL, "test.jsonl": JSONL[: JSONL.index(b"\n") + 1]},
                "v2": {"train.jsonl": new},
            }
        )
        assert rows(tmp_path) == PAIRS
        assert rows(tmp_path, split="test") == PAIRS[:1]
        assert rows(tmp_path, revision="v2")[0]["chosen"] == "better 0"

    def test_missing_split_names_those_that_exist(self, hub: Hub, tmp_path: Path) -> None:
        hub.datasets[NAME] = Repo({"main": {"train.jsonl": JSONL}})
        error = self.refusal(tmp_path, split="test")
        assert error.reason == TrainerReason.DATASET_NOT_FOUND
        assert "test" in error.message and "train" in error.message

    def test_missing_repository_and_revision(self, hub: Hub, tmp_path: Path) -> None:
        assert self.refusal(tmp_path).reason == TrainerReason.DATASET_NOT_FOUND
        hub.datasets[NAME] = Repo({"main": {"train.jsonl": JSONL}})
        error = self.refusal(tmp_path, revision="v9")
        assert error.reason == TrainerReason.DATASET_NOT_FOUND and "no revision 'v9'" in error.message

    def test_gated(self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        hub.datasets[NAME] = Repo({"main": {"train.jsonl": JSONL}}, gated=True)
        assert self.refusal(tmp_path).reason == TrainerReason.CREDENTIALS_MISSING
        monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
        assert rows(tmp_path) == PAIRS

    def test_script_is_not_run(self, hub: Hub, tmp_path: Path) -> None:
        hub.datasets[NAME] = Repo({"main": {"thing.py": b"raise SystemExit('remote code was run')"}})
        error = self.refusal(tmp_path)
        assert error.reason == TrainerReason.DATASET_INVALID and "script" in error.message

    def test_no_data_files(self, hub: Hub, tmp_path: Path) -> None:
        hub.datasets[NAME] = Repo({"main": {"README.md": b"# nothing"}})
        assert self.refusal(tmp_path).reason == TrainerReason.DATASET_NOT_FOUND

    def test_several_configurations(self, hub: Hub, tmp_path: Path) -> None:
        card = "---\nconfigs:\n" + "".join(
            f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("easy", "hard")
        )
        files = {"README.md": f"{card}---\n".encode(), "easy.jsonl": JSONL, "hard.jsonl": JSONL}
        hub.datasets[NAME] = Repo({"main": files})
        error = self.refusal(tmp_path)
        assert error.reason == TrainerReason.DATASET_INVALID
        assert "easy" in error.message and "hard" in error.message

    def test_rate_limit_and_half_a_download_pass(self, hub: Hub, tmp_path: Path) -> None:
        hub.datasets[NAME] = Repo({"main": {"train.jsonl": JSONL}})
        hub.faults = [Fault("GET .*train.jsonl", 1), Fault("/api/datasets", 2, 429, {"Retry-After": "3"})]
        assert rows(tmp_path) == PAIRS

    def test_rate_limit_that_stays(self, hub: Hub, tmp_path: Path) -> None:
        hub.faults = [Fault("/api/datasets", 10**6, 429)]
        assert self.refusal(tmp_path).reason == TrainerReason.RATE_LIMITED

    def refusal(self, tmp_path: Path, **arguments: Any) -> TrainerError:
        with pytest.raises(TrainerError) as caught:
            rows(tmp_path, **arguments)
        return caught.value


def test_endpoint_and_token_of_the_environment(hub: Hub, tmp_path: Path) -> None:
    """A process of its own, as in a pod: nothing but environment variables leads the clients to the Hub."""
    hub.models[NAME] = Repo({"main": MODEL}, private=True)
    hub.datasets[NAME] = Repo({"main": {"train.jsonl": JSONL}}, private=True)
    program = (
        "from pathlib import Path; import sys; from dpojob_api.spec import ModelSpec\n"
        "from dpojob_trainer.sources import fetch_model; from dpojob_trainer.sources.hub import load_split\n"
        f"work = Path(sys.argv[1]); print(fetch_model(ModelSpec(uri='hf://{NAME}'), work))\n"
        f"print(len(load_split('{NAME}', None, 'train', work)))"
    )
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": GOOD_TOKEN,
        "HF_HOME": str(tmp_path / "home"),
    }
    output = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "work")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert output.returncode == 0, output.stderr
    folder, count = output.stdout.split()
    assert (Path(folder) / "model.safetensors").read_bytes() == WEIGHTS and count == str(len(PAIRS))


class TestVolume:
    def test_model_is_not_copied(self, volume: Path, tmp_path: Path) -> None:
        folder = write(volume / "m", MODEL)
        assert fetch(tmp_path, uri="pvc://inputs/m") == folder

    def test_missing_folder_says_what_is_there(self, volume: Path, tmp_path: Path) -> None:
        write(volume / "models" / "qwen", MODEL)
        error = refusal(tmp_path, uri="pvc://inputs/models/quen")
        assert error.reason == TrainerReason.MODEL_NOT_FOUND and "with qwen in it" in error.message

    def test_data_set(self, volume: Path, tmp_path: Path) -> None:
        write(volume, {"pairs/train.jsonl": JSONL})
        for path in ("pairs", "pairs/train.jsonl"):
            assert fetch_dataset_files(DatasetSpec(uri=f"pvc://inputs/{path}"), tmp_path) == volume / path
        with pytest.raises(TrainerError, match="DatasetNotFound"):
            fetch_dataset_files(DatasetSpec(uri="pvc://inputs/none"), tmp_path)


@pytest.mark.usefixtures("waits")
class TestGcs:
    def test_model(self, gcs: Gcs, tmp_path: Path) -> None:
        gcs.buckets["models"] = {f"qwen/{name}": content for name, content in MODEL.items()}
        folder = fetch(tmp_path, uri="gs://models/qwen")
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
        assert not (folder / "pytorch_model.bin").exists() and not (folder / "onnx").exists()
        before = len(gcs.requests)
        assert fetch(tmp_path, uri="gs://models/qwen") == folder
        assert not any("safetensors" in request for request in gcs.requests[before:])

    def test_data_set_file_and_folder(self, gcs: Gcs, tmp_path: Path) -> None:
        gcs.buckets["data"] = {"p/train.jsonl": JSONL, "p/notes.txt": b"x", "p/test/0.jsonl": JSONL}
        folder = fetch_dataset_files(DatasetSpec(uri="gs://data/p"), tmp_path)
        found = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        assert found == ["test/0.jsonl", "train.jsonl"]
        assert fetch_dataset_files(DatasetSpec(uri="gs://data/p/train.jsonl"), tmp_path).read_bytes() == JSONL

    def test_missing_bucket_and_path(self, gcs: Gcs, tmp_path: Path) -> None:
        gcs.buckets["models"] = {}
        for uri in ("gs://absent/qwen", "gs://models/qwen"):
            assert refusal(tmp_path, uri=uri).reason == TrainerReason.MODEL_NOT_FOUND
        with pytest.raises(TrainerError, match="DatasetNotFound"):
            fetch_dataset_files(DatasetSpec(uri="gs://models/data"), tmp_path)

    def test_no_access(self, gcs: Gcs, tmp_path: Path) -> None:
        gcs.denied.add("models")
        error = refusal(tmp_path, uri="gs://models/qwen")
        assert error.reason == TrainerReason.CREDENTIALS_MISSING
        assert "roles/storage.objectViewer" in error.message and "no access to models" in error.message


SHARDS = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (set(), "is empty"),
        ({"model.safetensors"}, "no config.json"),
        ({"config.json", "tokenizer.json"}, "no weights"),
        ({"config.json", "tokenizer.json", "pytorch_model.bin"}, "safetensors are required"),
        ({"config.json", "model.safetensors"}, "no tokenizer"),
        ({"config.json", "tokenizer.json", *SHARDS}, "lacks model.safetensors.index.json"),
        (
            {
                "config.json",
                "tokenizer.json",
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
            },
            "lacks model-00002-of-00002.safetensors",
        ),
        ({"config.json", "tokenizer.json", "model.safetensors.index.json"}, "lacks every shard"),
        ({"config.json", "tokenizer.json", "model.safetensors.index.json", *SHARDS}, None),
        ({"config.json", "tokenizer.model", "model.safetensors"}, None),
    ],
)
def test_layout(names: set[str], words: str | None) -> None:
    problem = layout_problem(names)
    assert problem is None if words is None else problem is not None and words in problem


class TestLineage:
    def test_names_the_commits_that_were_read(
        self, hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = {file.name: file.read_bytes() for file in model.iterdir()} | {"model.safetensors": WEIGHTS}
        hub.models[NAME], hub.datasets[NAME] = Repo({"main": files}), Repo({"main": {"train.jsonl": JSONL}})
        job = config(
            model={"uri": f"hf://{NAME}"}, dataset={"uri": f"hf://{NAME}", "columns": {"prompt": "prompt"}}
        )
        monkeypatch.setenv("DPOJOB_IMAGE", "registry/trainer@sha256:0")
        folder = fetch_model(job.model, tmp_path / "work")
        prepared = data.prepare(job, folder, tmp_path / "work")
        found = lineage_of(job, folder, prepared)
        assert found["modelRevision"] == hub.models[NAME].commit("main")
        assert found["datasetRevision"] == hub.datasets[NAME].commit("main")
        assert (found["image"], len(found["chatTemplateSha256"])) == ("registry/trainer@sha256:0", 64)
        again = data.prepare(job, folder, tmp_path / "again")
        assert again.pairs_sha256 == found["pairsSha256"]
        hub.datasets[NAME] = Repo({"main": {"train.jsonl": JSONL.replace(b"good", b"better")}})
        assert data.prepare(job, folder, tmp_path / "other").pairs_sha256 != found["pairsSha256"]

    def test_a_local_file_has_no_revision(self, hub: Hub, tmp_path: Path) -> None:
        spec = DatasetSpec(uri=f"hf://{NAME}")
        assert pinned(spec, tmp_path / "pairs.jsonl") == spec
        assert hub.requests == []
