"""Every kopf handler. kopf logs in, starts what works and stops it at a signal; the watches are ``reflector``'s.

kopf watches nothing, so it writes neither finalizers nor annotations: deleting a DPOJob never waits for the operator.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import kopf

from dpojob_operator import lifecycle
from dpojob_operator.connection import log_in

log = logging.getLogger(__name__)

Work = Callable[[], Coroutine[Any, Any, None]]


def build_registry(stop: asyncio.Event, *work: Work) -> kopf.OperatorRegistry:
    """Return the handlers that start and stop what works.

    Args:
        stop: is set when some of the work ends, which it never should.
        work: is run while kopf runs.
    """
    registry = kopf.OperatorRegistry()
    background: list[asyncio.Task[None]] = []

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return log_in()

    @kopf.on.startup(registry=registry)
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure(settings)
        background.extend(asyncio.create_task(part()) for part in work)
        for task in background:
            task.add_done_callback(ended)

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.critical("a part of the operator has ended", exc_info=task.exception())
            stop.set()

    @kopf.on.cleanup(registry=registry)
    async def clean_up(**_: Any) -> None:
        lifecycle.end_in()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)

    return registry


def configure(settings: kopf.OperatorSettings) -> None:
    """Keep kopf quiet: no events of its own, no watches of kinds and namespaces; its few requests are tried for ever."""
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.networking.error_backoffs = lifecycle.Backoffs()
