"""Where a run writes: ``output.uri`` on a mounted claim or in GCS, behind one small interface.

Checkpoint arrays do not pass through here: Orbax writes them below :attr:`OutputStore.root` itself.
"""

from pathlib import Path
from typing import Protocol

from dpojob_api.constants import OUTPUT_PAIRS
from dpojob_api.trainer_config import TrainerConfig
from dpojob_api.uris import parse_uri
from dpojob_trainer.store.fence import Writer, writer_of
from dpojob_trainer.store.gcs import GcsStore
from dpojob_trainer.store.local import LocalStore


class OutputStore(Protocol):
    """The job's output folder. Paths are relative to it, with forward slashes."""

    @property
    def root(self) -> str:
        """The folder as EasyDeL's ePath takes it: an absolute path or ``gs://bucket/path``, no slash at the end."""
        ...

    @property
    def folder(self) -> Path | None:
        """The same as a folder of this machine's file system; None if it is in GCS."""
        ...

    def check_writable(self) -> None:
        """Write and delete a small file.

        Raises:
            TrainerError: OutputUnwritable, with the system's words and the fix.
        """
        ...

    def claim(self, job_uid: str, job_name: str) -> None:
        """Mark the folder as this job's with ``.dpojob.json``; the same uid may claim it again (another attempt).

        Raises:
            TrainerError: OutputInUse if it is another job's, naming that job; OutputUnwritable.
        """
        ...

    def take_over(self) -> None:
        """Fence: from here on a store with an older writer may not write, and this one may.

        Raises:
            TrainerError: Fenced if a newer attempt has done so already; OutputUnwritable.
        """
        ...

    def check_fence(self) -> None:
        """Make sure that no newer writer has taken over; every method that writes does so itself.

        Raises:
            TrainerError: Fenced, naming the newer attempt; OutputUnwritable.
        """
        ...

    def write_text(self, path: str, text: str) -> None:
        """Write a whole file; a reader sees the old or the new content, never a part."""
        ...

    def write_bytes(self, path: str, content: bytes) -> None:
        """Write a whole file of bytes, as :meth:`write_text` does."""
        ...

    def append_line(self, path: str, line: str) -> None:
        """Append one line to a file of which this process is the only writer, keeping the lines of earlier attempts.

        Local: flushed to the file at once, so it survives a crash. GCS has no append: the object is rewritten at most
        every 30 s and by :meth:`flush`, so a crash loses at most the lines since.
        """
        ...

    def flush(self) -> None:
        """Write what :meth:`append_line` still holds back. Call it before the run ends."""
        ...

    def upload_dir(self, local_dir: Path, path: str) -> None:
        """Put a whole folder at ``path``, replacing what is there, as close to atomically as the store allows.

        Local: copied beside it, then renamed. GCS: all files first, ``.complete`` last; readers that need a whole
        folder wait for that file.
        """
        ...

    def exists(self, path: str) -> bool:
        """Whether a file or a folder with something in it is there."""
        ...

    def read_text(self, path: str) -> str:
        """Return a file's text.

        Raises:
            FileNotFoundError: there is none.
        """
        ...

    def read_bytes(self, path: str) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: there is none.
        """
        ...

    def list(self, path: str = "") -> list[str]:
        """Return the names directly below a folder, sorted; empty if there is no such folder."""
        ...


def output_of(config: TrainerConfig) -> OutputStore:
    """Return the job's output, to which only the newest start of its newest attempt may write."""
    return open_store(config.output.uri, writer_of(config))


def cache_of(config: TrainerConfig, out: OutputStore) -> OutputStore:
    """Return where what can be computed again is kept: the folder that jobs share, or `out`.

    Nothing is fenced there: who writes checks the fence of `out` first. Names follow from contents, so that jobs which
    write the same file write the same.
    """
    return out if config.output.cache_uri is None else open_store(config.output.cache_uri)


def open_store(uri: str, writer: Writer | None = None) -> OutputStore:
    """Return the store behind a ``pvc://`` or ``gs://`` URI; nothing is written or read yet.

    Without a writer nothing is fenced.

    STORAGE_EMULATOR_HOST is honoured for GCS.

    Raises:
        ValueError: neither pvc:// nor gs://.
    """
    scheme = parse_uri(uri).scheme
    if scheme == "pvc":
        return LocalStore(uri, writer)
    if scheme == "gs":
        return GcsStore(uri, writer)
    raise ValueError(f"{uri!r}: an output is pvc://claim/path or gs://bucket/path")


def pairs_of(out: OutputStore) -> Path | None:
    """Return the folder of the tokenised pairs, which the driver hands over to its hosts; None if the output is in GCS."""
    return None if out.folder is None else out.folder / OUTPUT_PAIRS
