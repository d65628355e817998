"""Attempt fencing: of several starts of one job, only the newest may write to its output folder.

A start puts down a mark that is ordered by the attempt's number, and looks for a newer one before it writes. The mark
of an earlier start of the same attempt is superseded as well, so that a run can be started again after a crash.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from google.api_core.exceptions import PreconditionFailed

from dpojob_api.reasons import TrainerReason
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.errors import TrainerError

FENCE = ".fence"
MAX_TRIES = 20


@dataclass(frozen=True)
class Writer:
    """One start of an attempt; `start` is a random name that all its processes share."""

    attempt: int
    start: str


def writer_of(config: TrainerConfig) -> Writer | None:
    """Return who writes with this configuration; None if no driver has named a start, as in tests of one part."""
    job = config.job
    return Writer(job.attempt, job.start) if job.start else None


class Fence(Protocol):
    """The mark of a writer in its output folder."""

    def take(self) -> None:
        """Put down the mark; from here on every older writer is refused.

        Raises:
            TrainerError: Fenced, if a newer attempt's mark is there.
        """
        ...

    def check(self) -> None:
        """Make sure that no newer mark is there.

        Raises:
            TrainerError: Fenced, naming the newer attempt.
        """
        ...


class NoFence:
    """Fences nobody."""

    def take(self) -> None:
        """Do nothing."""

    def check(self) -> None:
        """Do nothing."""


class LocalFence:
    """Marks are empty files ``.fence/<attempt>.<take>.<start>``, created exclusively; their names order them.

    A take-over removes the older marks. The check opens the writer's own one: NFS asks its server when a file is
    opened, and may answer from its cache when a folder is listed.
    """

    def __init__(self, root: Path, writer: Writer) -> None:
        self._folder, self._writer = root / FENCE, writer
        self._mark: Path | None = None

    def take(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        takes = [take for attempt, take, _ in self._marks() if attempt == self._writer.attempt]
        mine = (self._writer.attempt, max(takes, default=0) + 1, self._writer.start)
        self._mark = self._path(mine)
        self._mark.open("x").close()
        older = [mark for mark in self._marks() if mark < mine]
        try:
            self.check()
        except TrainerError:
            self._mark.unlink(missing_ok=True)
            raise
        for mark in older:
            self._path(mark).unlink(missing_ok=True)

    def check(self) -> None:
        marks = self._marks()
        mark = self._mark or next((self._path(m) for m in marks if m[2] == self._writer.start), None)
        self._mark = mark
        newest = max(marks, default=None)
        if mark is None or not _opens(mark) or (newest and self._path(newest) != mark):
            raise fenced(self._writer, self._folder, newest[0] if newest else None)

    def _marks(self) -> list[tuple[int, int, str]]:
        names = [path.name.split(".") for path in self._folder.iterdir()] if self._folder.is_dir() else []
        return [(int(name[0]), int(name[1]), name[2]) for name in names if _is_mark(name)]

    def _path(self, mark: tuple[int, int, str]) -> Path:
        return self._folder / f"{mark[0]:05d}.{mark[1]:05d}.{mark[2]}"


class GcsFence:
    """The mark is the object ``.fence``, its metadata say whose; a take-over replaces it on condition of the generation
    that was read.

    Args:
        bucket: returns the bucket's handle.
        name: the object's name.
    """

    def __init__(self, bucket: Callable[[], Any], name: str, writer: Writer) -> None:
        self._bucket, self._name, self._writer = bucket, name, writer

    def take(self) -> None:
        for _ in range(MAX_TRIES):
            found, generation = self._read()
            if found and found.attempt > self._writer.attempt:
                raise self._fenced(found)
            if found == self._writer or self._replaced(generation):
                return
        raise TrainerError(
            TrainerReason.OUTPUT_UNWRITABLE,
            f"{self._where()} changes all the time. Find and end the other processes that write it.",
        )

    def check(self) -> None:
        found, _ = self._read()
        if found != self._writer:
            raise self._fenced(found)

    def _read(self) -> tuple[Writer | None, int]:
        """Return the writer of the mark and the object's generation, 0 if there is none."""
        blob = self._bucket().get_blob(self._name)
        if blob is None:
            return None, 0
        mark = blob.metadata or {}
        return Writer(int(mark.get("attempt", 0)), mark.get("start", "")), int(blob.generation)

    def _replaced(self, generation: int) -> bool:
        blob = self._bucket().blob(self._name)
        blob.metadata = {"attempt": str(self._writer.attempt), "start": self._writer.start}
        try:
            blob.upload_from_string(f"attempt {self._writer.attempt}\n", if_generation_match=generation)
        except PreconditionFailed:
            return False
        return True

    def _where(self) -> str:
        return f"gs://{self._bucket().name}/{self._name}"

    def _fenced(self, found: Writer | None) -> TrainerError:
        return fenced(self._writer, self._where(), found.attempt if found else None)


def fenced(writer: Writer, where: object, newest: int | None) -> TrainerError:
    """Return Fenced with who has taken over, as far as the marks say it."""
    if newest is None:
        who = "its mark is gone: the output folder was cleared, or a newer attempt took it over"
    elif newest > writer.attempt:
        who = f"attempt {newest} has started and writes there now"
    else:
        who = f"attempt {newest} was started again and writes there now"
    return TrainerError(
        TrainerReason.FENCED,
        f"attempt {writer.attempt} may not write any more: {who} ({where}). End this process if it is still there; "
        "the newer one goes on from the last checkpoint.",
    )


def _is_mark(name: list[str]) -> bool:
    return len(name) == 3 and name[0].isdigit() and name[1].isdigit()


def _opens(mark: Path) -> bool:
    try:
        mark.open().close()
    except FileNotFoundError:
        return False
    return True
