"""The process that forks operators: everything is imported once, so that a start costs a fork instead of seconds of imports.

Each child is a process of its own that runs ``dpojob_operator.__main__.main`` and shares nothing with its predecessors
but read-only memory; SIGKILL ends it as it ends any other. One request a line on stdin, one pid a line on stdout.
"""

import ctypes
import gc
import json
import os
import signal
import sys
import traceback
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

from kubernetes.config import kube_config

from dpojob_operator import __main__ as operator
from dpojob_operator import kube, reconcile

PR_SET_PDEATHSIG = 1


def step_clock(file: Path) -> None:
    """Let the operator's clock differ from the machine's by the seconds in a file, whenever it looks at it."""

    class Stepped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=float(file.read_text()))

    reconcile.datetime = Stepped  # type: ignore[attr-defined]


def become_operator(request: dict[str, Any]) -> None:
    """Run the operator in this process; never returns."""
    code = 1
    try:
        # No operator outlives the zygote, nor the zygote the test: its stdin ends.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.argv = ["dpojob_operator", *request["arguments"]]
        kube_config.KUBE_CONFIG_DEFAULT_LOCATION = request["kubeconfig"]
        step_clock(Path(request["clock"]))
        if request["read_seconds"]:
            kube.TIMEOUT = (kube.TIMEOUT[0], request["read_seconds"])
        code = operator.main()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    """Fork an operator for each request until stdin ends."""
    # Ended children are reaped by the kernel.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            become_operator(json.loads(line))
        print(pid, flush=True)


if __name__ == "__main__":
    main()
