"""Long-lived processes: started so that they outlive the shell, known again by pid, start time and boot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .paths import MARK, Paths
from .shell import write

BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Daemon:
    """A process by name and command line."""

    name: str
    command: list[str | Path]


def start(paths: Paths, daemon: Daemon, mark: str | None = None) -> None:
    """Start `daemon` in a session of its own with its output in log/NAME.log; do nothing when it is alive.

    `mark` is the environment variable by which whoever started it finds it again, the cluster's by default.
    """
    if alive(paths, daemon.name):
        return
    log = log_of(paths, daemon.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    # The mark survives in /proc/PID/environ and passes on to the container shims: every process is found again by it.
    marked = {"PATH": os.environ["PATH"], "HOME": "/root", "LANG": "C", mark or MARK: str(paths.state)}
    with log.open("wb") as out:
        child = subprocess.Popen([str(word) for word in daemon.command], env=marked, cwd="/", start_new_session=True,
                                 stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)  # fmt: skip
    record = {"pid": child.pid, "started": started(child.pid), "boot": BOOT.read_text().strip()}
    write(_file(paths, daemon.name), json.dumps(record))


def alive(paths: Paths, name: str) -> bool:
    """Tell whether the recorded process still runs; a reused pid or another boot counts as dead."""
    return pid_of(paths, name) is not None


def pid_of(paths: Paths, name: str) -> int | None:
    """Return the pid of the live daemon `name`, or None."""
    try:
        record = json.loads(_file(paths, name).read_text())
    except (OSError, ValueError):
        return None
    if record["boot"] != BOOT.read_text().strip():
        return None
    now = started(record["pid"])
    return record["pid"] if now and now == record["started"] else None


def log_of(paths: Paths, name: str) -> Path:
    """Return the log file of the daemon `name`."""
    return paths.log / f"{name}.log"


def started(pid: int) -> str | None:
    """Return the start time of `pid` in clock ticks since boot; None when it is gone or a zombie."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else rest[18]


def kill(pids: Iterable[int], seconds: float = 10) -> list[int]:
    """Kill `pids` with SIGKILL and return those that are not gone after `seconds`."""
    left = list(pids)
    for pid in left:
        _signal(pid, signal.SIGKILL)
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in left if started(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def terminate(pid: int, seconds: float) -> None:
    """Ask `pid` to end, and kill it when it has not after `seconds`."""
    _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while started(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    kill([pid])


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _file(paths: Paths, name: str) -> Path:
    return paths.run / f"{name}.json"
