"""``/healthz`` and ``/readyz`` for the kubelet, served by the event loop that also watches and reconciles.

Healthy means that the loop runs and that jobs which wait are worked on. Ready means that the watches are in step: each
DPOJob that the API server lists has reached the work queue. From then on the operator stays ready.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from dpojob_operator import kube
from dpojob_operator.errors import KubeError
from dpojob_operator.queue import WorkQueue

log = logging.getLogger(__name__)

Key = tuple[str, str]

STUCK_SECONDS = 600.0
SYNC_SECONDS = 2.0
"""Between two looks at whether the watches are in step."""


class PortError(Exception):
    """The port of the endpoints cannot be had."""


class Sync:
    """Knows whether the watches have shown every job that there is."""

    def __init__(self, api: kube.Kube, namespaces: tuple[str, ...] = ()) -> None:
        self._api = api
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)
        self._shown: set[Key] = set()
        self.done = False

    def show(self, key: Key) -> None:
        """Take note of a job that a watch has shown."""
        if not self.done:
            self._shown.add(key)

    async def run(self) -> None:
        """Look until the watches are in step."""
        while not self.done:
            try:
                missing = await self._listed() - self._shown
            except KubeError as error:
                log.warning("not ready: %s", error)
            else:
                self.done = not missing
            if not self.done:
                await asyncio.sleep(SYNC_SECONDS)
        self._shown.clear()
        log.info("the watches are in step")

    async def _listed(self) -> set[Key]:
        found: set[Key] = set()
        for namespace in self._namespaces:
            jobs = await self._api.list(kube.DPOJOBS, namespace)
            found |= {(job["metadata"]["namespace"], job["metadata"]["name"]) for job in jobs}
        return found


def find_fault(queue: WorkQueue[Key], now: float) -> str | None:
    """Return what is wrong with the operator, None if nothing is.

    Args:
        now: the time in seconds by the monotonic clock.
    """
    if len(queue) and now - queue.progressed_at > STUCK_SECONDS:
        return f"{len(queue)} jobs wait and none was finished for {STUCK_SECONDS:.0f} s"
    return None


def build_app(
    queue: WorkQueue[Key], sync: Sync, clock: Callable[[], float] = time.monotonic
) -> web.Application:
    """Return the two endpoints: 200 with a short text if all is well, else 503 with what is not."""

    async def healthz(_: web.Request) -> web.Response:
        fault = find_fault(queue, clock())
        return web.Response(status=503 if fault else 200, text=f"{fault or 'ok'}\n")

    async def readyz(_: web.Request) -> web.Response:
        text = "ok" if sync.done else "the watches have not shown every DPOJob yet"
        return web.Response(status=200 if sync.done else 503, text=f"{text}\n")

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz)])
    return app


@asynccontextmanager
async def served(app: web.Application, port: int) -> AsyncIterator[None]:
    """Serve an application on every address while the context lasts; on port 0 not at all.

    Raises:
        PortError: the port cannot be had.
    """
    if not port:
        yield
        return
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, None, port).start()
        except OSError as error:
            raise PortError(f"{error}; set another --probe-port [DPOJOB_PROBE_PORT]") from error
        yield
    finally:
        await runner.cleanup()
