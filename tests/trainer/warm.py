"""Host processes without the seconds that importing EasyDeL takes: forked from one process that has imported it.

No JAX backend exists before the fork; each child makes its own.
"""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from tests.trainer.kills import Process

from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.host import HostTask, launch_environment

PARENT = """
import os, pickle, signal, sys
from dpojob_trainer import easydel_compat
easydel_compat.prepare()
from dpojob_trainer.training import run
from jax._src import xla_bridge
from dpojob_trainer.host import run_host
assert not xla_bridge._backends, "a backend exists before the fork"
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    try:
        task, log = pickle.load(sys.stdin.buffer)
    except EOFError:
        sys.exit(0)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os._exit(0 if run_host(task) else 1)
    print(pid, flush=True)
"""


class Forked:
    """A child of somebody else, with Popen's methods."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def poll(self) -> int | None:
        """Return None while it lives; its exit code is not known."""
        return None if Path(f"/proc/{self._pid}").exists() else 0

    def send_signal(self, sig: int, /) -> None:
        """Send a signal if it lives."""
        if self.poll() is None:
            os.kill(self._pid, sig)

    def kill(self) -> None:
        """Send SIGKILL if it lives."""
        self.send_signal(9)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended.

        Raises:
            TimeoutError: it has not in time.
        """
        deadline = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {self._pid} still runs")
            time.sleep(0.01)
        return 0


class Warm:
    """The process that has imported EasyDeL; calling it forks a host."""

    def __init__(self, config: TrainerConfig) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-c", PARENT],
            env=os.environ | launch_environment(config),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __call__(self, config: TrainerConfig, task: HostTask, log: Path) -> Process:
        """Fork a host; its output goes to `log`."""
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.write(pickle.dumps((task, str(log))))
        self._parent.stdin.flush()
        return Forked(int(self._parent.stdout.readline()))

    def __enter__(self) -> "Warm":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        self._parent.wait(30)
