"""Operators as real processes, started by forking a zygote and ended by SIGKILL."""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

from hack.cluster.localcluster.daemons import started

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 120.0
DEATH_SECONDS = 20.0


def kubeconfig(url: str, token: str, authority: Path | None = None) -> str:
    """Return the kubeconfig of an API server, or of a proxy without TLS, in JSON."""
    cluster = {"server": url} | ({"certificate-authority": str(authority)} if authority else {})
    body = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    return json.dumps(body)


class Zygote:
    """The process that forks operators; use it as an asynchronous context manager."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> "Zygote":
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.chaos.zygote",
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith("DPOJOB_")},
        )
        assert await self._answer() == "ready", "the zygote did not start"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def _answer(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        async with asyncio.timeout(READY_SECONDS):
            return (await self._process.stdout.readline()).decode().strip()

    async def fork(self, request: dict[str, object]) -> int:
        """Start an operator and return its pid."""
        assert self._process is not None and self._process.stdin is not None
        async with self._lock:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            return int(await self._answer())


class Operator:
    """One operator at a time, with the same arguments at each start.

    Attributes:
        read_seconds: how long it waits for an answer, from the next start on; its own 30 s if None.
    """

    def __init__(self, zygote: Zygote, folder: Path, name: str, url: str, namespace: str) -> None:
        self.pid: int | None = None
        self.starts = 0
        self.read_seconds: float | None = None
        self.log = folder / f"{name}.log"
        self.clock = folder / f"{name}.clock"
        self.clock.write_text("0")
        file = folder / f"{name}.kubeconfig"
        file.write_text(kubeconfig(url, "chaos"))
        self._zygote = zygote
        arguments = ["--namespaces", namespace, "--metrics-port", "0", "--probe-port", "0"]
        self._request: dict[str, object] = {
            "arguments": [*arguments, "--trainer-image", "example.test/trainer:1"],
            "kubeconfig": str(file),
            "log": str(self.log),
            "clock": str(self.clock),
        }

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.pid is not None and started(self.pid) is not None

    async def start(self) -> None:
        """Start it."""
        self.starts += 1
        self.pid = await self._zygote.fork(self._request | {"read_seconds": self.read_seconds})

    async def kill(self) -> None:
        """End it at once and wait until it is gone.

        Raises:
            AssertionError: it is not gone in time.
        """
        if self.pid is None:
            return
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + DEATH_SECONDS
        while started(self.pid) is not None:
            assert time.monotonic() < deadline, f"operator {self.pid} is not gone after {DEATH_SECONDS:.0f} s"
            await asyncio.sleep(0.002)

    def step_clock(self, seconds: float) -> None:
        """Set how far its clock is from the machine's."""
        draft = self.clock.with_suffix(".draft")
        draft.write_text(str(seconds))
        draft.replace(self.clock)

    def tail(self) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text().splitlines()[-30:]) if self.log.exists() else "no log"
