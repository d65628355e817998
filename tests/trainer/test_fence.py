"""Attempt fencing with two live writers: processes that share a folder, and stores that share a bucket of the stand-in.

The writers are real processes that obey line by line, so that the order of their writes is the test's.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.trainer.gcs import Gcs
from tests.trainer.jobs import mounted

from dpojob_api.reasons import TrainerReason
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.store import OutputStore, Writer, open_store

FIRST, AGAIN, SECOND = Writer(1, "a" * 16), Writer(1, "b" * 16), Writer(2, "c" * 16)
WRITER = """
import sys
from pathlib import Path
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.store import Writer, open_store

store = open_store(sys.argv[1], Writer(int(sys.argv[2]), sys.argv[3]))
local = Path(sys.argv[4])
ACTIONS = {
    "take": lambda: store.take_over(),
    "line": lambda: (store.append_line("metrics.jsonl", sys.argv[3]), store.flush()),
    "text": lambda: store.write_text("summary.json", sys.argv[3]),
    "folder": lambda: store.upload_dir(local, "model"),
    "check": lambda: store.check_fence(),
}
for line in sys.stdin:
    try:
        ACTIONS[line.strip()]()
        print("done", flush=True)
    except TrainerError as error:
        print(error, flush=True)
"""


class Process:
    """A writer in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def does(self, action: str) -> str:
        """What the writer answers to an action: done, or the reason and message that it failed with."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(action + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@contextmanager
def writing(uri: str, writer: Writer, folder: Path) -> Iterator[Process]:
    """Run a writer."""
    command = [sys.executable, "-c", WRITER, uri, str(writer.attempt), writer.start, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Process(process)
        assert process.stdin
        process.stdin.close()


@pytest.fixture(params=["pvc", "gs"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The job's folder, on a claim or in GCS, as other processes see it."""
    if request.param == "gs":
        gcs: Gcs = request.getfixturevalue("gcs")
        gcs.buckets["out"] = {}
        yield "gs://out/run"
        return
    with ExitStack() as stack:
        try:
            claim = stack.enter_context(mounted(tmp_path))
        except OSError as error:
            pytest.skip(f"claims cannot be mounted here: {error}")
        yield f"pvc://{claim.name}/run"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder to upload."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("newer", [SECOND, AGAIN], ids=["newer attempt", "same attempt again"])
def test_the_older_of_two_live_processes_writes_nothing_more(uri: str, model: Path, newer: Writer) -> None:
    with writing(uri, FIRST, model) as old, writing(uri, newer, model) as new:
        for action in ("take", "line", "text", "folder", "check"):
            assert old.does(action) == "done"
        assert new.does("take") == "done"
        for action in ("line", "text", "folder", "check", "line"):
            assert old.does(action).startswith("Fenced: attempt 1 may not write any more: attempt")
        for action in ("line", "text", "check", "line"):
            assert new.does(action) == "done"
            assert old.does(action).startswith("Fenced: ")
    store = open_store(uri)
    assert store.read_text("metrics.jsonl").splitlines() == [FIRST.start, newer.start, newer.start]
    assert store.read_text("summary.json") == newer.start


def refused(store: OutputStore) -> str:
    """What a store that takes over late is told."""
    with pytest.raises(TrainerError) as caught:
        store.take_over()
    assert caught.value.reason is TrainerReason.FENCED
    return caught.value.message


def test_an_older_attempt_that_starts_late_is_refused(uri: str) -> None:
    open_store(uri, SECOND).take_over()
    message = refused(open_store(uri, FIRST))
    assert "attempt 1 may not write any more" in message and "attempt 2 has started" in message
    open_store(uri, SECOND).check_fence()


def test_processes_of_one_start_write_with_the_mark_of_their_driver(uri: str) -> None:
    open_store(uri, FIRST).take_over()
    for host in (open_store(uri, FIRST), open_store(uri, FIRST)):
        host.check_fence()
        host.write_text("a", "1")


def test_a_store_without_writer_is_not_fenced(uri: str) -> None:
    open_store(uri, SECOND).take_over()
    open_store(uri).write_text("a", "1")


def test_cleared_output_ends_the_run_that_wrote_it(uri: str) -> None:
    with pytest.raises(TrainerError, match="mark is gone"):
        open_store(uri, FIRST).check_fence()


def test_one_of_many_racing_starts_wins(uri: str, model: Path) -> None:
    starts = [Writer(attempt, f"{attempt}{n}" * 8) for attempt in (3, 4) for n in range(3)]
    command = [sys.executable, "-c", WRITER, uri]
    racing = [
        subprocess.Popen(
            [*command, str(start.attempt), start.start, str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for start in starts
    ]
    for process in racing:
        assert process.stdin
        process.stdin.write("take\n")
        process.stdin.flush()
    answers = [process.communicate()[0].strip() for process in racing]
    assert "done" in answers[3:], answers
    allowed = [start for start in starts if may_write(open_store(uri, start))]
    assert len(allowed) == 1 and allowed[0].attempt == 4


def may_write(store: OutputStore) -> bool:
    """Whether the store's writer is the newest."""
    try:
        store.check_fence()
    except TrainerError:
        return False
    return True


class TestGcs:
    """What only an object store's generations can do."""

    @pytest.fixture
    def gcs(self, gcs: Gcs) -> Gcs:
        gcs.buckets["out"] = {}
        return gcs

    def test_lines_of_an_older_writer_are_refused_by_the_store_itself(
        self, gcs: Gcs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The older one has passed its check when the newer one starts and writes its first line."""
        old, new = open_store("gs://out/run", FIRST), open_store("gs://out/run", SECOND)
        old.take_over()
        old.append_line("metrics.jsonl", "old 1")
        old.append_line("metrics.jsonl", "old 2")
        check = old.check_fence

        def then_the_newer_starts() -> None:
            check()
            monkeypatch.setattr(old, "check_fence", check)
            new.take_over()
            new.append_line("metrics.jsonl", "new 1")

        monkeypatch.setattr(old, "check_fence", then_the_newer_starts)
        with pytest.raises(TrainerError) as caught:
            old.flush()
        assert caught.value.reason is TrainerReason.FENCED
        assert gcs.buckets["out"]["run/metrics.jsonl"] == b"old 1\nnew 1\n"

    def test_a_foreign_writer_of_the_lines_is_no_newer_attempt(self, gcs: Gcs) -> None:
        store = open_store("gs://out/run", FIRST)
        store.take_over()
        store.append_line("metrics.jsonl", "1")
        open_store("gs://out/run").write_text("metrics.jsonl", "foreign")
        store.append_line("metrics.jsonl", "2")
        with pytest.raises(TrainerError) as caught:
            store.flush()
        assert caught.value.reason is TrainerReason.OUTPUT_UNWRITABLE
        assert "changed by another process" in caught.value.message

    def test_few_requests(self, gcs: Gcs) -> None:
        """A line that is held back costs nothing; a flush costs one look at the mark."""
        store = open_store("gs://out/run", FIRST)
        store.take_over()
        store.append_line("metrics.jsonl", json.dumps({"step": 1}))
        gcs.requests.clear()
        for step in range(2, 50):
            store.append_line("metrics.jsonl", json.dumps({"step": step}))
        assert gcs.requests == []
        store.flush()
        assert [request.split()[0] for request in gcs.requests] == ["GET", "POST"]
