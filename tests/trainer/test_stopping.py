"""preStop: hosts are told and waited for, drivers are only waited for. Real processes, no trainer in them."""

import subprocess
import sys
from pathlib import Path

import pytest

from dpojob_trainer import stopping

PROCESS = """
import signal, sys, time
from pathlib import Path
from dpojob_trainer import stopping
folder, role = Path(sys.argv[1]), sys.argv[2]
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
with stopping.announced(role, folder):
    (folder / "up").touch()
    deadline = time.monotonic() + float(sys.argv[3])
    while not told and time.monotonic() < deadline:
        time.sleep(0.05)
sys.exit(7 if told else 0)
"""


def start(folder: Path, role: str, seconds: float) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-c", PROCESS, str(folder), role, str(seconds)])
    while not (folder / "up").exists():
        assert process.poll() is None, "the process ended before it was up"
    return process


@pytest.mark.parametrize(("role", "seconds", "code"), [("host", 60, 7), ("driver", 1, 0)])
def test_a_host_is_told_and_a_driver_waited_for(tmp_path: Path, role: str, seconds: float, code: int) -> None:
    process = start(tmp_path, role, seconds)
    assert stopping.stop(tmp_path, 50)
    assert process.wait(10) == code


def test_waiting_has_an_end(tmp_path: Path) -> None:
    process = start(tmp_path, "driver", 60)
    assert not stopping.stop(tmp_path, 0.3)
    process.kill()
    process.wait()


def test_a_process_that_was_killed_is_not_waited_for(tmp_path: Path) -> None:
    process = start(tmp_path, "host", 60)
    process.kill()
    process.wait()
    assert stopping.running(tmp_path) == []
    assert stopping.stop(tmp_path, 5)


LATE = """
import signal, sys, time
sys.stdin.readline()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
sys.stdin.readline()
"""


def test_a_first_process_that_does_not_listen_yet_is_waited_for() -> None:
    """Any process stands for the container's first one."""
    process = subprocess.Popen([sys.executable, "-c", LATE], stdin=subprocess.PIPE)
    assert process.stdin is not None
    try:
        assert not stopping.listens(process.pid, 0.3)
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert stopping.listens(process.pid, 20)
        process.terminate()
        assert process.wait(20) == 7
    finally:
        process.kill()
        process.stdin.close()
    assert stopping.listens(process.pid, 0)
