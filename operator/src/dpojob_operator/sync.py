"""Whether the store is in step with the API server: it has seen every object that a list shows, and no others.

It is once every watch has listed its objects; what a list lacks has gone while there was no watch. A watch that has fallen
silent is found by an audit: names and versions are listed and compared every few minutes. Until the store is in step, and
when a watch turns out to be behind, reconciles read everything from the API server.
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

AUDIT_SECONDS = 300.0
"""Between two looks."""
SYNC_SECONDS = 1.0
"""The same while something that was listed has not been shown."""


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
        self._unlisted = {(resource, place) for resource in WATCHED for place in self._namespaces}
        self._lagging = False
        self._ready = asyncio.Event()

    @property
    def in_step(self) -> bool:
        """Whether the store may be read."""
        return not self._unlisted and not self._lagging

    @property
    def shown(self) -> bool:
        """Whether the watches have ever shown every DPOJob."""
        return all(resource is not kube.DPOJOBS for resource, _ in self._unlisted)

    def note_listed(self, resource: Resource, namespace: str | None, listed: Versions) -> None:
        """Take note that the store has been shown all there is of a kind; what was not listed has gone."""
        self._drop_ghosts(resource, namespace, listed)
        self._unlisted.discard((resource, namespace))
        if self.in_step and not self._ready.is_set():
            log.info("the watches have shown everything")
            self._ready.set()

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
            await asyncio.sleep(SYNC_SECONDS if any(self._behind.values()) else AUDIT_SECONDS)
            try:
                await self.compare()
            except KubeError as error:
                log.warning("the watches cannot be compared with the API server: %s", error)

    async def compare(self) -> None:
        """Compare once.

        Raises:
            KubeError: the API server does not answer or refuses a list.
        """
        complete = [await self._compare(*place) for place in self._places()]
        if all(complete) == self._lagging:
            log.info("the watches are %s", "in step" if all(complete) else "behind")
        self._lagging = not all(complete)
        self._store.forget_made()

    def _places(self) -> Iterator[tuple[Resource, str | None]]:
        return ((resource, namespace) for resource in WATCHED for namespace in self._namespaces)

    async def _compare(self, resource: Resource, namespace: str | None) -> bool:
        """Return whether one watch is in step; what is on its way has time until the next look."""
        selector = "" if resource is kube.DPOJOBS else constants.LABEL_JOB
        try:
            listed = await self._api.list_versions(resource, namespace, selector)
        except NotFoundError:
            return False
        # What was behind at the last look, is still there and has not been shown since.
        before = self._behind.get((resource, namespace), {})
        still = {key: version for key, version in before.items() if key in listed.objects}
        self._behind[resource, namespace] = self._store.behind(resource, listed.objects)
        self._drop_ghosts(resource, namespace, listed)
        return not self._store.behind(resource, still)

    def _drop_ghosts(self, resource: Resource, namespace: str | None, listed: Versions) -> None:
        for key in self._store.ghosts(resource, listed, lambda ns: namespace in (None, ns)):
            job = self._store.job_of(resource, key)
            if job is not None and self._store.remove(resource, key, listed.version):
                log.info("%s %s/%s has gone unseen", resource.plural, *key)
                self._woken(job)
