"""Every kopf handler. kopf only watches here: an event names a job, and the job goes into the work queue.

``on.event`` handlers write neither finalizers nor annotations, so deleting a DPOJob never waits for the operator.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import kopf

from dpojob_api import constants
from dpojob_operator import watches
from dpojob_operator.outputs import Outputs
from dpojob_operator.queue import WorkQueue
from dpojob_operator.reconcile import Key

log = logging.getLogger(__name__)


def build_registry(
    queue: WorkQueue[Key],
    workers: int,
    shown: Callable[[Key], None] = lambda key: None,
    outputs: Outputs | None = None,
) -> kopf.OperatorRegistry:
    """Return the handlers that feed a queue and the one that runs it.

    Args:
        shown: is called with every job that the watch of the DPOJobs shows.
        outputs: is told of every job that comes, changes and goes.
    """
    book = outputs or Outputs()
    registry = kopf.OperatorRegistry()
    background: list[asyncio.Task[None]] = []

    kopf.on.login(registry=registry)(kopf.login_via_client)

    @kopf.on.event(constants.GROUP, constants.VERSION, constants.PLURAL, registry=registry)
    async def on_job(namespace: str | None, name: str | None, event: kopf.RawEvent, **_: Any) -> None:
        if namespace and name:
            if event["type"] == "DELETED":
                book.forget((namespace, name))
            else:
                book.see(dict(event["object"]))
            queue.add((namespace, name))
            shown((namespace, name))

    async def on_child(namespace: str | None, labels: kopf.Labels, **_: Any) -> None:
        job = labels.get(constants.LABEL_JOB)
        if namespace and job:
            queue.add((namespace, job))

    for resource in (("ray.io", "v1", "rayjobs"), ("ray.io", "v1", "rayclusters"), ("v1", "pods")):
        kopf.on.event(*resource, labels={constants.LABEL_JOB: kopf.PRESENT}, registry=registry)(on_child)

    @kopf.on.startup(registry=registry)
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure(settings)
        background.append(asyncio.create_task(queue.run(workers), name="work queue"))

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        watches.end_in()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)

    return registry


def configure(settings: kopf.OperatorSettings) -> None:
    """Keep kopf to watching: no events of its own, no scanning, streams that notice a dead connection."""
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.networking.error_backoffs = watches.Backoffs()
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    settings.watching.connect_timeout = 30
    for resource in ("rayjobs.ray.io", "rayclusters.ray.io", "pods"):
        settings.watching.label_selectors[resource] = constants.LABEL_JOB
