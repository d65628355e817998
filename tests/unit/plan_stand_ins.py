"""Takes the place of the compiler in a child process: says who it is, waits, or dies."""

import os
import signal
import time
from typing import Any


def begin() -> None:
    """There is nothing to prepare."""


def compile_cut(task: Any) -> tuple[str, int]:
    """Do what the task says."""
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "wait":
        time.sleep(600)
    return task, os.getpid()
