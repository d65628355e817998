"""``/healthz`` and ``/readyz`` for the kubelet, served by the event loop that also watches and reconciles.

Healthy means that the loop runs and that jobs which wait are worked on. Ready means that the watches have shown each
DPOJob that the API server lists. From then on the operator stays ready.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from dpojob_operator.kube import Key
from dpojob_operator.queue import WorkQueue
from dpojob_operator.sync import Sync

STUCK_SECONDS = 600.0


class PortError(Exception):
    """The port of the endpoints cannot be had."""


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
        text = "ok" if sync.shown else "the watches have not shown every DPOJob yet"
        return web.Response(status=200 if sync.shown else 503, text=f"{text}\n")

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
