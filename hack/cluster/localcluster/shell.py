"""How every other module runs programs, reports progress, waits with a deadline and fails with a reason."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

STARTED = time.monotonic()


class Problem(Exception):
    """A failure the user can act on: the message says what went wrong and what to do about it."""


def step(message: str) -> None:
    """Print one progress line with the seconds since this command began, to standard error."""
    print(f"[{time.monotonic() - STARTED:5.0f}s] {message}", file=sys.stderr, flush=True)


def run(
    command: Sequence[str | Path],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    seconds: float = 120,
    check: bool = True,
) -> str:
    """Run `command` to its end and return its standard output.

    Raises:
        Problem: it is missing, takes longer than `seconds`, or (with `check`) ends non-zero.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, input=stdin, env=env, cwd=cwd, timeout=seconds, text=True,
                              stdin=None if stdin is not None else subprocess.DEVNULL,
                              capture_output=True, check=False)  # fmt: skip
    except FileNotFoundError as error:
        raise Problem(
            f"{words[0]} is not installed; `hack/cluster/cluster check` names the package"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise Problem(f"no end after {seconds:.0f} s: {' '.join(words)}") from error
    if check and done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise Problem(f"exit code {done.returncode}: {' '.join(words)}\n{tail}")
    return done.stdout


def run_logged(command: Sequence[str | Path], log: Path, what: str, *, seconds: float = 3600,
               env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:  # fmt: skip
    """Run a long `command` with its output in `log`, saying every 30 s that it still runs.

    Raises:
        Problem: it ends non-zero or is not done after `seconds`; the message names `log`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with log.open("w") as out:
        child = subprocess.Popen([str(word) for word in command], env=env, cwd=cwd, stdin=subprocess.DEVNULL,
                                 stdout=out, stderr=subprocess.STDOUT)  # fmt: skip
        try:
            while (code := _poll(child, 30)) is None:
                step(f"... {what}: {time.monotonic() - began:.0f} s")
                if time.monotonic() - began > seconds:
                    raise Problem(f"{what}: no end after {seconds:.0f} s; see {log}")
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    if code:
        tail = "\n".join(log.read_text(errors="replace").strip().splitlines()[-12:])
        raise Problem(f"{what}: exit code {code}; the whole log is {log}\n{tail}")


def _poll(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def wait_for(
    what: str, ready: Callable[[], bool], seconds: float, look_in: Path | str, pause: float = 0.25
) -> None:
    """Poll `ready` until it holds.

    Raises:
        Problem: it does not hold within `seconds`; the message names `look_in`.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise Problem(f"{what}: not so after {seconds:.0f} s; look in {look_in}")
        time.sleep(pause)


@contextmanager
def locked(path: Path, what: str, seconds: float = 5400) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, saying so when another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        if not _try_lock(handle.fileno()):
            step(f"waiting for another process: {what}")
            wait_for(f"lock for {what}", lambda: _try_lock(handle.fileno()), seconds, path, pause=0.5)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write(path: Path, text: str, mode: int = 0o644) -> Path:
    """Write `text` to `path` by rename, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.touch(mode=mode)
    draft.write_text(text)
    draft.chmod(mode)
    return draft.replace(path)


def digest(parts: Iterable[str | bytes]) -> str:
    """Return a short hash of `parts`, the key of everything in the cache."""
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return total.hexdigest()[:16]
