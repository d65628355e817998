"""Every kopf handler. kopf only watches here: an event goes into the store, and the job it is about into the work queue.

``on.event`` handlers write neither finalizers nor annotations, so deleting a DPOJob never waits for the operator.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import kopf

from dpojob_api import constants
from dpojob_operator import kube, watches
from dpojob_operator.connection import log_in
from dpojob_operator.kube import Json, Resource
from dpojob_operator.storages import NoDiffs, NoProgress
from dpojob_operator.store import WATCHED

log = logging.getLogger(__name__)

Work = Callable[[], Coroutine[Any, Any, None]]
Show = Callable[[Resource, str | None, Json], None]


def build_registry(show: Show, stop: asyncio.Event, *work: Work) -> kopf.OperatorRegistry:
    """Return the handlers that pass every event on, and those that start and stop what works on them.

    Args:
        show: is called with the kind, the type and the object of every event.
        stop: is set when some of the work ends, which it never should.
        work: is run while kopf runs.
    """
    registry = kopf.OperatorRegistry()
    background: list[asyncio.Task[None]] = []

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return log_in()

    for resource in WATCHED:
        group, _, version = resource.api_version.rpartition("/")
        labels = None if resource is kube.DPOJOBS else {constants.LABEL_JOB: kopf.PRESENT}
        watch = kopf.on.event(group, version, resource.plural, registry=registry, labels=labels)
        watch(passing_on(show, resource))

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
        watches.end_in()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)

    return registry


def passing_on(show: Show, resource: Resource) -> Callable[..., Coroutine[Any, Any, None]]:
    """Return the handler of one kind's events."""

    async def on_event(event: kopf.RawEvent, **_: Any) -> None:
        show(resource, event["type"], dict(event["object"]))

    return on_event


def configure(settings: kopf.OperatorSettings) -> None:
    """Keep kopf to watching: no events of its own, no scanning, streams that notice a dead connection."""
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = NoDiffs()
    settings.persistence.progress_storage = NoProgress()
    settings.scanning.disabled = True
    settings.networking.error_backoffs = watches.Backoffs()
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    settings.watching.connect_timeout = 30
    for resource in ("rayjobs.ray.io", "rayclusters.ray.io", "pods"):
        settings.watching.label_selectors[resource] = constants.LABEL_JOB
