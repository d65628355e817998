"""What Kubernetes runs in a pod before it stops it (``preStop``): hosts get SIGTERM and the time to save.

Ray does not pass the signal on: ``ray start``, the container's first process, kills its workers at once when it gets
one, and the hosts of a driver that is gone as well. So a host's pod tells its process and waits for it, and the head's
pod, which Kubernetes stops at the same moment, waits for the driver. In a container that has just begun, ``ray start``
does not listen yet, and a first process ignores signals that it has no handler for (pid_namespaces(7)).
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER = Path("/tmp/dpojob/stopping")
# Kubernetes ends the hook with the grace period of the pod; this only bounds one that is run by hand.
WAIT_SECONDS = 3600.0
POLL_SECONDS = 0.2
HOST, DRIVER = "host", "driver"
# Ray installs its handlers once it is imported.
START_SECONDS = 30.0


@contextmanager
def announced(role: str, folder: Path = FOLDER) -> Iterator[None]:
    """Let :func:`stop` know of this process while it runs as HOST or DRIVER."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{os.getpid()}.{role}"
    file.touch()
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def stop(folder: Path = FOLDER, seconds: float = WAIT_SECONDS) -> bool:
    """Send SIGTERM to the hosts, wait for hosts and drivers; return whether all ended within `seconds`."""
    for file in running(folder):
        if file.suffix == f".{HOST}":
            with suppress(ProcessLookupError):
                os.kill(int(file.stem), signal.SIGTERM)
    return reached(lambda: not running(folder), seconds)


def listens(process: int = 1, seconds: float = START_SECONDS) -> bool:
    """Wait until a process has a handler for SIGTERM, which Kubernetes sends next; return whether it has.

    Without one the signal is lost on a container's first process, and the pod would hold its chips for all of its grace
    period.
    """
    return reached(lambda: handles(process, signal.SIGTERM), seconds)


def reached(state: Callable[[], bool], seconds: float) -> bool:
    """Wait for a state; return whether it came within `seconds`."""
    deadline = time.monotonic() + seconds
    while not state():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def handles(process: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal (``SigCgt`` of proc_pid_status(5)); one that is gone needs none."""
    try:
        lines = Path("/proc", str(process), "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return True
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
    return bool(caught >> (number - 1) & 1)


def running(folder: Path) -> list[Path]:
    """Return the files of processes that live."""
    return [file for file in folder.glob("*.*") if Path("/proc", file.stem).exists()]
