"""`gs://` against a real emulator whose requests are made to fail: the output store, and whole runs that keep everything
there (inputs, checkpoints by Orbax and tensorstore, metrics, model).

GCS itself cannot be reached from the tests. Which faults were injected is what the clients meet in practice: 429, 503,
504, a connection that breaks before the request arrives, one that breaks after it was carried out, and no answer at all.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from requests.adapters import HTTPAdapter
from safetensors.numpy import load
from tests.trainer.fake_gcs import FakeGcs, Kind
from tests.trainer.jobs import TRAINING, Claim, run_trainer

from dpojob_api.reasons import TrainerReason
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.host import SCRATCH_VARIABLE
from dpojob_trainer.store import OutputStore, Writer, open_store

URI = "gs://out/runs/one"
FAULTS: list[Kind] = [429, 503, 504, "drop", "lose", "hang"]
LARGE = 9 * 2**20


@pytest.fixture
def store(emulator: FakeGcs) -> OutputStore:
    """The job's folder, taken over by attempt 1."""
    found = open_store(URI, Writer(1, "a" * 16))
    found.take_over()
    return found


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let requests time out after one second instead of google-cloud-storage's sixty."""
    send = HTTPAdapter.send

    def send_in_a_second(self: HTTPAdapter, *arguments: Any, **options: Any) -> Any:
        return send(self, *arguments, **options | {"timeout": 1.0})

    monkeypatch.setattr(HTTPAdapter, "send", send_in_a_second)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", FAULTS, ids=str)
class TestStoreUnderFaults:
    """Every call goes through in spite of a fault, and what it leaves is the same as without."""

    def test_claim(self, emulator: FakeGcs, kind: Kind) -> None:
        store = open_store(URI)
        emulator.fail("POST .*/o", kind)
        store.claim("uid-1", "tune")
        assert emulator.failed and json.loads(store.read_text(".dpojob.json"))["uid"] == "uid-1"
        with pytest.raises(TrainerError, match="OutputInUse"):
            open_store(URI).claim("uid-2", "other")

    def test_take_over(self, emulator: FakeGcs, store: OutputStore, kind: Kind) -> None:
        newer = open_store(URI, Writer(2, "b" * 16))
        emulator.fail("POST .*/o", kind)
        newer.take_over()
        emulator.fail("GET .*fence", kind)
        newer.check_fence()
        assert len(emulator.failed) == 2
        with pytest.raises(TrainerError) as caught:
            store.write_text("a", "1")
        assert caught.value.reason is TrainerReason.FENCED and "attempt 2 has started" in caught.value.message

    def test_lines(self, emulator: FakeGcs, store: OutputStore, kind: Kind) -> None:
        for line in ("1", "2", "3"):
            emulator.fail("POST .*/o", kind)
            store.append_line("metrics.jsonl", line)
            store.flush()
        assert len(emulator.failed) == 3
        assert store.read_text("metrics.jsonl") == "1\n2\n3\n"

    def test_text(self, emulator: FakeGcs, store: OutputStore, kind: Kind) -> None:
        emulator.fail("POST .*/o", kind)
        store.write_text("summary.json", "{}")
        emulator.fail("GET .*summary", kind)
        assert store.read_text("summary.json") == "{}" and len(emulator.failed) == 2

    def test_folder(self, emulator: FakeGcs, store: OutputStore, kind: Kind, tmp_path: Path) -> None:
        files = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * (LARGE // 256)}
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        emulator.fail("(POST|PUT) .*/o", kind, 2)
        store.upload_dir(tmp_path, "model")
        emulator.fail("GET .*prefix", kind)
        assert store.list("model") == [".complete", *sorted(files)]
        assert len(emulator.failed) == 3
        sizes = json.loads(store.read_text("model/.complete"))
        assert sizes == {name: len(content) for name, content in files.items()}
        assert store.exists("model/model.safetensors") and store.exists("model") and not store.exists("none")


def test_a_bucket_that_never_recovers_ends_as_output_unwritable(
    emulator: FakeGcs, store: OutputStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """404 is not worth a retry; the message has the fix."""
    emulator.fail("POST .*/o", 404, 100)
    with pytest.raises(TrainerError) as caught:
        store.write_text("a", "1")
    assert (
        caught.value.reason is TrainerReason.OUTPUT_UNWRITABLE and "Create the bucket" in caught.value.message
    )


def uploaded(claim: Claim) -> dict[str, Any]:
    """Copy the claim's model and pairs to the bucket `inputs`; return the parts of a spec that read them there."""
    inputs = open_store("gs://inputs")
    inputs.upload_dir(claim.path / "model", "model")
    inputs.write_text("pairs.jsonl", (claim.path / "pairs.jsonl").read_text())
    return {
        "model": {"uri": "gs://inputs/model"},
        "dataset": {"uri": "gs://inputs/pairs.jsonl", "evalFraction": 0.2, "columns": {"prompt": "prompt"}},
        "training": TRAINING | {"maxSteps": 4, "evalSteps": 4, "checkpointSteps": 2},
    }


def run(claim: Claim, attempt: int, spec: dict[str, Any]) -> None:
    """Run an attempt to its good end."""
    config = claim.config("in-gcs", attempt=attempt, **spec)
    output = config.output.model_copy(update={"uri": URI})
    path = claim.write_config(config.model_copy(update={"output": output}))
    code, result, printed = run_trainer(["local", "--config", str(path)])
    assert code == 0 and result is not None, printed[-4000:]
    assert result.reason is TrainerReason.SUCCEEDED and result.step == spec["training"]["maxSteps"]


@pytest.mark.slow
@pytest.mark.jax
def test_a_whole_run_and_its_resumption_in_gcs_with_faults(
    emulator: FakeGcs, claim: Claim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Downloads of another test would be used again.
    monkeypatch.setenv(SCRATCH_VARIABLE, str(tmp_path))
    spec = uploaded(claim)
    faults: list[tuple[str, Kind, int]] = [
        ("GET /download/.*inputs/o/model", 503, 2),
        ("GET /download/.*inputs/o/pairs", 429, 1),
        ("POST /upload/.*", 429, 2),
        ("POST /upload/.*checkpoints.*step_2", 503, 2),
        ("GET .*checkpoints", 503, 2),
        ("POST /upload/.*step_4", 429, 2),
    ]
    for fault in faults:
        emulator.fail(*fault)
    run(claim, 1, spec)
    left = [fault.pattern for fault in emulator.faults if fault.times]
    assert not left, f"never met: {left}"
    out = open_store(URI)
    assert steps(out) == [0, 1, 2, 3, 4, 4]
    assert {"step_2", "step_4"} <= set(out.list("checkpoints"))
    weights = load(blob("out", "runs/one/model/model.safetensors"))
    assert weights and set(json.loads(out.read_text("model/.complete"))) <= set(out.list("model"))
    assert json.loads(out.read_text("summary.json"))["resumedFrom"] == 0

    emulator.fail("GET .*checkpoints", 503, 3)
    run(claim, 2, spec | {"training": spec["training"] | {"maxSteps": 5}})
    assert json.loads(out.read_text("summary.json"))["resumedFrom"] == 4
    assert steps(out) == [0, 1, 2, 3, 4, 4, 5, 5]


def steps(out: OutputStore) -> list[int]:
    """The steps that metrics.jsonl tells of, evaluations included, in order."""
    return sorted(json.loads(line)["step"] for line in out.read_text("metrics.jsonl").splitlines())


def blob(bucket: str, name: str) -> bytes:
    """An object's content."""
    from dpojob_trainer.store.client import bucket_of

    content: Callable[[], bytes] = bucket_of(bucket).blob(name).download_as_bytes
    return content()
