"""The output folder on a mounted claim."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from dpojob_api.reasons import TrainerReason
from dpojob_api.uris import claim_folder, local_path, parse_uri
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.store.fence import Fence, LocalFence, NoFence, Writer
from dpojob_trainer.store.marker import MARKER, check_marker, check_unmarked, marker_text

FIXES = {
    "EROFS": "Mount the claim read-write (accessModes ReadWriteMany).",
    "EACCES": "Make the volume writable for user 1000 (fsGroup 1000, or the owner of the folder).",
    "EPERM": "Make the volume writable for user 1000 (fsGroup 1000, or the owner of the folder).",
    "ENOSPC": "Free or add space on the volume.",
    "EDQUOT": "Free or add space on the volume.",
}


class LocalStore:
    """An :class:`OutputStore` in a folder; every file appears whole, by rename."""

    def __init__(self, uri: str, writer: Writer | None = None) -> None:
        self._uri = uri
        self._mount = Path(claim_folder(parse_uri(uri).root))
        self._root = Path(local_path(uri))
        self._fence: Fence = LocalFence(self._root, writer) if writer else NoFence()

    @property
    def root(self) -> str:
        return str(self._root)

    @property
    def folder(self) -> Path | None:
        return self._root

    def check_writable(self) -> None:
        # Creating the mount point itself would write into the container's own disk.
        if not self._mount.is_dir():
            raise TrainerError(
                TrainerReason.OUTPUT_UNWRITABLE,
                f"{self._uri}: the claim is not mounted at {self._mount}. Use an operator and a trainer image of the same "
                "version.",
            )
        with self._writing():
            self._root.mkdir(parents=True, exist_ok=True)
            probe = self._root / f".write-test-{uuid4().hex}"
            probe.write_text("x")
            probe.unlink()

    def claim(self, job_uid: str, job_name: str) -> None:
        marker = self._root / MARKER
        with self._writing():
            self._root.mkdir(parents=True, exist_ok=True)
            if not marker.exists():
                check_unmarked(self._uri, self.list())
                self._create(marker, marker_text(job_uid, job_name))
            check_marker(self._uri, marker.read_text(), job_uid, job_name)

    def take_over(self) -> None:
        with self._writing():
            self._fence.take()

    def check_fence(self) -> None:
        with self._writing():
            self._fence.check()

    def write_text(self, path: str, text: str) -> None:
        self.write_bytes(path, text.encode())

    def write_bytes(self, path: str, content: bytes) -> None:
        target = self._root / path
        self.check_fence()
        with self._writing():
            target.parent.mkdir(parents=True, exist_ok=True)
            self._whole(target, content).replace(target)

    def append_line(self, path: str, line: str) -> None:
        target = self._root / path
        self.check_fence()
        with self._writing():
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("a", encoding="utf-8") as file:
                file.write(line.rstrip("\n") + "\n")

    def flush(self) -> None:
        """Do nothing: lines are in the file already."""

    def upload_dir(self, local_dir: Path, path: str) -> None:
        target = self._root / path
        self.check_fence()
        new, old = (target.with_name(f".{target.name}.{word}-{uuid4().hex}") for word in ("new", "old"))
        with self._writing():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copytree(local_dir, new)
                self._fence.check()
                if target.exists():
                    target.rename(old)
                new.rename(target)
            finally:
                shutil.rmtree(new, ignore_errors=True)
                shutil.rmtree(old, ignore_errors=True)

    def exists(self, path: str) -> bool:
        target = self._root / path
        return target.is_file() or (target.is_dir() and any(target.iterdir()))

    def read_text(self, path: str) -> str:
        return (self._root / path).read_text(encoding="utf-8")

    def read_bytes(self, path: str) -> bytes:
        return (self._root / path).read_bytes()

    def list(self, path: str = "") -> list[str]:
        folder = self._root / path
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

    def _whole(self, target: Path, content: bytes) -> Path:
        """Write bytes beside their target and return that file, on the disk."""
        beside = target.with_name(f".{target.name}.{uuid4().hex}")
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return beside

    def _create(self, target: Path, text: str) -> None:
        """Create a file unless another process has just done so. (Object stores behind a mount know no hard links.)"""
        try:
            with target.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            return

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise not_writable(self._uri, error) from error


def not_writable(uri: str, error: OSError) -> TrainerError:
    """Return OutputUnwritable with the system's words and the fix."""
    name = os.strerror(error.errno) if error.errno else str(error)
    fix = FIXES.get(errno_name(error), "Check the volume behind the claim.")
    where = f" ({error.filename})" if error.filename else ""
    return TrainerError(TrainerReason.OUTPUT_UNWRITABLE, f"{uri} cannot be written: {name}{where}. {fix}")


def errno_name(error: OSError) -> str:
    """Return the symbolic name of an error's number."""
    return errno.errorcode.get(error.errno or 0, "")
