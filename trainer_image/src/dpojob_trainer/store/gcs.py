"""The output folder in Google Cloud Storage."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from mimetypes import guess_type
from pathlib import Path
from typing import Any
from uuid import uuid4

from google.api_core.exceptions import NotFound, PreconditionFailed
from google.cloud.storage import transfer_manager

from dpojob_api.reasons import TrainerReason
from dpojob_api.uris import parse_uri
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.store.client import GCS_ERRORS, IDENTITY_FIX, bucket_of, is_denied, is_missing, words_of
from dpojob_trainer.store.fence import FENCE, Fence, GcsFence, NoFence, Writer
from dpojob_trainer.store.marker import MARKER, check_marker, check_unmarked, marker_text

COMPLETE = ".complete"
REWRITE_SECONDS = 30.0


class GcsStore:
    """An :class:`OutputStore` under a prefix of a bucket."""

    def __init__(self, uri: str, writer: Writer | None = None) -> None:
        parsed = parse_uri(uri)
        self._uri = uri
        self._bucket_name = parsed.root
        self._prefix = parsed.path
        self._handle: Any = None
        fence = GcsFence(self._bucket, self._name(FENCE), writer) if writer else NoFence()
        self._fence: Fence = fence
        self._lines: dict[str, str] = {}
        self._generations: dict[str, int] = {}
        self._written = 0.0
        self._dirty: set[str] = set()

    @property
    def root(self) -> str:
        return f"gs://{self._bucket_name}/{self._prefix}".rstrip("/")

    @property
    def folder(self) -> Path | None:
        return None

    def check_writable(self) -> None:
        with self._writing():
            probe = self._blob(f".write-test-{uuid4().hex}")
            probe.upload_from_string("x")
            probe.delete()

    def claim(self, job_uid: str, job_name: str) -> None:
        with self._writing():
            marker = self._blob(MARKER)
            if not marker.exists():
                check_unmarked(self._uri, self.list())
                self._create(marker, marker_text(job_uid, job_name))
            check_marker(self._uri, marker.download_as_text(), job_uid, job_name)

    def take_over(self) -> None:
        with self._writing():
            self._fence.take()

    def check_fence(self) -> None:
        with self._writing():
            self._fence.check()

    def write_text(self, path: str, text: str) -> None:
        self.check_fence()
        with self._writing():
            # A browser shows report.html only as what it is called.
            self._blob(path).upload_from_string(text, content_type=guess_type(path)[0] or "text/plain")

    def write_bytes(self, path: str, content: bytes) -> None:
        self.check_fence()
        with self._writing():
            self._blob(path).upload_from_string(content, content_type="application/octet-stream")

    def append_line(self, path: str, line: str) -> None:
        if path not in self._lines:
            self._lines[path], self._generations[path] = self._current(path)
        self._lines[path] += line.rstrip("\n") + "\n"
        self._dirty.add(path)
        if time.monotonic() - self._written >= REWRITE_SECONDS:
            self.flush()

    def flush(self) -> None:
        for path in sorted(self._dirty):
            self._rewrite(path)
        self._dirty.clear()
        self._written = time.monotonic()

    def upload_dir(self, local_dir: Path, path: str) -> None:
        self.check_fence()
        files = sorted(str(file.relative_to(local_dir)) for file in local_dir.rglob("*") if file.is_file())
        with self._writing():
            stale: set[str] = set(self._below(path)) - set(files)
            self._delete(path, {COMPLETE} & stale)
            self._upload(local_dir, files, path)
            self._delete(path, stale - {COMPLETE})
            sizes = {name: (local_dir / name).stat().st_size for name in files}
            self._blob(f"{path}/{COMPLETE}").upload_from_string(json.dumps(sizes, indent=2) + "\n")

    def exists(self, path: str) -> bool:
        with self._writing():
            return bool(self._blob(path).exists() or self._below(path, limit=1))

    def read_text(self, path: str) -> str:
        return self.read_bytes(path).decode()

    def read_bytes(self, path: str) -> bytes:
        try:
            return bytes(self._blob(path).download_as_bytes())
        except NotFound as error:
            raise FileNotFoundError(f"{self.root}/{path}") from error

    def list(self, path: str = "") -> list[str]:
        start = self._name(f"{path}/") if path else self._start()
        with self._writing():
            pages = self._bucket().list_blobs(prefix=start or None, delimiter="/")
            names = {blob.name for blob in pages} | set(pages.prefixes)
        return sorted(name[len(start) :].rstrip("/") for name in names if name != start)

    def _bucket(self) -> Any:
        if self._handle is None:
            self._handle = bucket_of(self._bucket_name)
        return self._handle

    def _start(self) -> str:
        return f"{self._prefix}/" if self._prefix else ""

    def _name(self, path: str) -> str:
        return self._start() + path

    def _blob(self, path: str) -> Any:
        return self._bucket().blob(self._name(path))

    def _create(self, blob: Any, text: str) -> None:
        """Create an object unless another process has just done so."""
        try:
            blob.upload_from_string(text, if_generation_match=0)
        except PreconditionFailed:
            return

    def _current(self, path: str) -> tuple[str, int]:
        """Return an object's text and generation, nothing and 0 if there is none."""
        with self._writing():
            blob = self._blob(path)
            try:
                return str(blob.download_as_text()), int(blob.generation)
            except NotFound:
                return "", 0

    def _rewrite(self, path: str) -> None:
        """Write the lines of a file if nobody else has written it since.

        The condition refuses what an older attempt still sends after a newer one's first line. It also fails when the
        answer to a write is lost and the client sends it again; then the object is what was to be written.
        """
        self.check_fence()
        blob = self._blob(path)
        with self._writing():
            try:
                blob.upload_from_string(self._lines[path], if_generation_match=self._generations[path])
                self._generations[path] = int(blob.generation)
                return
            except PreconditionFailed:
                text, self._generations[path] = self._current(path)
        if text != self._lines[path]:
            self.check_fence()
            raise changed(f"{self.root}/{path}")

    def _below(self, path: str, limit: int | None = None) -> Sequence[str]:
        start = self._name(f"{path}/")
        return [
            blob.name[len(start) :] for blob in self._bucket().list_blobs(prefix=start, max_results=limit)
        ]

    def _upload(self, local_dir: Path, files: Sequence[str], path: str) -> None:
        transfer_manager.upload_many_from_filenames(
            self._bucket(),
            files,
            source_directory=str(local_dir),
            blob_name_prefix=self._name(f"{path}/"),
            worker_type=transfer_manager.THREAD,
            raise_exception=True,
        )

    def _delete(self, path: str, names: set[str]) -> None:
        for name in sorted(names):
            self._blob(f"{path}/{name}").delete()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except GCS_ERRORS as error:
            raise not_writable(self._uri, error) from error


def changed(uri: str) -> TrainerError:
    """Return OutputUnwritable for an object that something which is no attempt of this job has written."""
    return TrainerError(
        TrainerReason.OUTPUT_UNWRITABLE,
        f"{uri} was changed by another process while this one wrote it. Find and end the other writer.",
    )


def not_writable(uri: str, error: Exception) -> TrainerError:
    """Return OutputUnwritable with the service's words and the fix."""
    if is_missing(error):
        fix = "Create the bucket or correct output.uri."
    elif is_denied(error):
        fix = f"{IDENTITY_FIX} roles/storage.objectAdmin on the bucket."
    else:
        fix = "Check that the cluster reaches GCS, then create the DPOJob again."
    return TrainerError(TrainerReason.OUTPUT_UNWRITABLE, f"{uri} cannot be written: {words_of(error)}. {fix}")
