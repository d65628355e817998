"""A reflector: lists a kind page by page, then follows it by a watch, for ever. Every object goes to one function.

kopf's watches make a task and a queue for each object, wrap and copy it, and keep its whole body for seconds; with many
jobs that is most of the operator's time and memory. They also tell neither when a first list is done nor what was deleted
while a watch was broken off.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from dpojob_operator import kube
from dpojob_operator.errors import ExpiredError, KubeError, NotFoundError, error_for
from dpojob_operator.kube import Json, Resource, Versions
from dpojob_operator.queue import backoff

log = logging.getLogger(__name__)

ABSENT_SECONDS = 30.0
"""Between two looks for a kind that the API server does not know."""
LONGEST_BACKOFF_SECONDS = 30.0

Show = Callable[[Resource, str | None, Json], None]
"""Is called with the kind, the type of the event and the object; the type is None in a list."""
Listed = Callable[[Resource, str | None, Versions], None]
"""Is called with the kind, the namespace and what there was after each list."""


class Source(Protocol):
    """What is needed of the API server."""

    def pages(self, resource: Resource, namespace: str | None, selector: str) -> AsyncIterator[Json]:
        """Yield a list page by page."""

    def watch(
        self, resource: Resource, namespace: str | None, selector: str, version: int
    ) -> AsyncIterator[Json]:
        """Yield what happens after a version."""


class Reflector:
    """Follows one kind in a namespace, or in all of them."""

    def __init__(
        self,
        api: Source,
        resource: Resource,
        namespace: str | None,
        selector: str,
        show: Show,
        listed: Listed,
    ) -> None:
        """Take what is followed and who is told."""
        self._api = api
        self._place = resource, namespace
        self._selector = selector
        self._show = show
        self._listed = listed
        self._version: int | None = None
        self._failures = 0
        self.heard_at = float("-inf")
        """When the API server last said something, by the monotonic clock."""

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            seconds = await self._follow()
            await asyncio.sleep(seconds)

    async def _follow(self) -> float:
        """List if need be and watch until the stream ends; return the seconds to wait before the next stream."""
        resource, namespace = self._place
        try:
            if self._version is None:
                self._version = await self._list()
            async for event in self._api.watch(resource, namespace, self._selector, self._version):
                self._take(event)
        except ExpiredError:
            self._version = None
        except NotFoundError:
            self._version = None
            return ABSENT_SECONDS
        except KubeError as error:
            self._failures += 1
            log.warning("%s in %s: %s", resource.plural, namespace or "all namespaces", error)
        return min(LONGEST_BACKOFF_SECONDS, backoff(self._failures, 1.0)) if self._failures else 0.1

    async def _list(self) -> int:
        resource, namespace = self._place
        objects, version = {}, 0
        async for page in self._api.pages(resource, namespace, self._selector):
            for body in page.get("items") or []:
                self._show(resource, None, body)
                objects[kube.key_of(body)] = kube.version_of(body)
            version = kube.version_of(page)
        self._heard()
        self._listed(resource, namespace, Versions(version, objects))
        return version

    def _take(self, event: Json) -> None:
        """Take one line of a watch.

        Raises:
            KubeError: it is an error.
        """
        kind, body = event.get("type"), event["object"]
        if kind == "ERROR":
            raise error_for(body.get("code", 0), body.get("message", ""))
        self._heard()
        self._version = kube.version_of(body)
        if kind != "BOOKMARK":
            self._show(self._place[0], kind, body)

    def _heard(self) -> None:
        self._failures = 0
        self.heard_at = time.monotonic()
