"""Whether the store is in step with the API server: it has seen every object that a list shows, and no others.

kopf says neither when a first list is done nor what was deleted while a watch was broken off. So names and versions are
listed and compared: at the start until all is there, then every few minutes. Until then, and when a watch turns out to be
behind, reconciles read everything from the API server.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Protocol

from dpojob_api import constants
from dpojob_operator import kube
from dpojob_operator.errors import KubeError, NotFoundError
from dpojob_operator.kube import Key, Resource, Versions
from dpojob_operator.store import WATCHED, Store

log = logging.getLogger(__name__)

SYNC_SECONDS = 1.0
"""Between two looks while the store is not in step."""
AUDIT_SECONDS = 300.0
"""Between two looks while it is."""


class Lister(Protocol):
    """What is needed of the API server."""

    async def list_versions(self, resource: Resource, namespace: str | None, selector: str) -> Versions:
        """Return name and version of the objects that a label selector matches."""


class Sync:
    """Compares the store with the API server."""

    def __init__(
        self,
        api: Lister,
        store: Store,
        namespaces: tuple[str, ...] = (),
        woken: Callable[[Key], None] = lambda job: None,
    ) -> None:
        """Take what is compared.

        Args:
            woken: is called with the job of every object that has gone unseen.
        """
        self._api = api
        self._store = store
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)
        self._woken = woken
        self._behind: dict[tuple[Resource, str | None], dict[Key, int]] = {}
        self._ready = asyncio.Event()
        self.in_step = False
        """Whether the store may be read."""
        self.shown = False
        """Whether the watches have ever shown every DPOJob."""

    async def settled(self, seconds: float) -> None:
        """Wait until the store is in step, but not longer than some seconds."""
        try:
            await asyncio.wait_for(self._ready.wait(), seconds)
        except TimeoutError:
            log.warning(
                "the watches are not in step after %.0f s; everything is read from the API server", seconds
            )

    async def run(self) -> None:
        """Compare until cancelled."""
        while True:
            try:
                await self.compare()
            except KubeError as error:
                log.warning("the watches cannot be compared with the API server: %s", error)
            await asyncio.sleep(
                AUDIT_SECONDS if self.in_step and not any(self._behind.values()) else SYNC_SECONDS
            )

    async def compare(self) -> None:
        """Compare once.

        Raises:
            KubeError: the API server does not answer or refuses a list.
        """
        complete = [await self._compare(*place) for place in self._places()]
        self.shown = self.shown or not any(self._behind.get((kube.DPOJOBS, ns)) for ns in self._namespaces)
        if all(complete) != self.in_step:
            log.info("the watches are %s", "in step" if all(complete) else "behind")
        self.in_step = all(complete)
        if self.in_step:
            self._ready.set()
        self._store.forget_made()

    def _places(self) -> Iterator[tuple[Resource, str | None]]:
        return ((resource, namespace) for resource in WATCHED for namespace in self._namespaces)

    async def _compare(self, resource: Resource, namespace: str | None) -> bool:
        """Return whether one watch is in step; what is on its way has time until the next look."""
        selector = "" if resource is kube.DPOJOBS else constants.LABEL_JOB
        try:
            listed = await self._api.list_versions(resource, namespace, selector)
        except NotFoundError:
            # A kind that is installed later is not watched before a restart.
            return False
        # What was behind at the last look, is still there and has not been shown since.
        before = self._behind.get((resource, namespace))
        still = {key: version for key, version in (before or {}).items() if key in listed.objects}
        now = self._behind[resource, namespace] = self._store.behind(resource, listed.objects)
        self._drop_ghosts(resource, namespace, listed)
        if before is None:
            return not now
        return not self._store.behind(resource, still)

    def _drop_ghosts(self, resource: Resource, namespace: str | None, listed: Versions) -> None:
        for key in self._store.ghosts(resource, listed, lambda ns: namespace in (None, ns)):
            job = self._store.job_of(resource, key)
            if job is not None and self._store.remove(resource, key, listed.version):
                log.info("%s %s/%s has gone unseen", resource.plural, *key)
                self._woken(job)
