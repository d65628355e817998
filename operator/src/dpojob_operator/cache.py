"""Two ports over one store: ``Cache`` reads what the watches have shown, ``WriteThrough`` asks the API server and writes.

What ``Cache`` returns may be seconds old. What must be true now is read through the other one; see ``freshness``.
"""

import time
from collections.abc import Callable

from dpojob_api import constants
from dpojob_operator import kube, pacing
from dpojob_operator.brief import Brief
from dpojob_operator.desired.metadata import job_name
from dpojob_operator.errors import NotFoundError
from dpojob_operator.kube import Json, Key, Resource
from dpojob_operator.store import WATCHED, Store

SELECTOR = f"{constants.LABEL_JOB}="

QUOTA_SECONDS = 5.0
"""For how long a namespace's ResourceQuotas count for other jobs; a job that they hold back reads them itself."""


class WriteThrough:
    """The API server; the store learns of every write before a watch shows it, so that no reconcile misses its own."""

    def __init__(self, api: kube.Kube, store: Store) -> None:
        self._api = api
        self._store = store

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        """Return an object."""
        body = await self._api.get(resource, namespace, name)
        if resource in WATCHED:
            self._store.refresh(resource, body)
        return body

    async def list(self, resource: Resource, namespace: str | None, selector: str = "") -> list[Json]:
        """Return the objects that a label selector matches."""
        return await self._api.list(resource, namespace, selector)

    async def apply(self, resource: Resource, body: Json) -> Json:
        """Apply an object on the server's side, taking over fields that others have set."""
        made = await self._api.apply(resource, body)
        if resource is kube.CONFIGMAPS:
            self._store.put(resource, made)
        return made

    async def create(self, resource: Resource, body: Json) -> Json:
        """Create an object."""
        if resource is kube.CONFIGMAPS:
            made = await self._api.create(resource, body)
            self._store.put(resource, made)
            return made
        if resource is not kube.RAYJOBS:
            return await self._api.create(resource, body)
        labels = body["metadata"]["labels"]
        self._store.note_made((body["metadata"]["namespace"], labels[constants.LABEL_JOB]))
        made = await self._api.create(resource, body)
        self._store.put(resource, made)
        return made

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str | None = None) -> None:
        """Delete an object with what it owns, with a uid only that one; no error if it is gone."""
        await self._api.delete(resource, namespace, name, uid)

    async def patch(self, resource: Resource, namespace: str, name: str, patch: Json) -> Json:
        """Merge a patch into an object."""
        made = await self._api.patch(resource, namespace, name, patch)
        if resource in WATCHED:
            self._store.refresh(resource, made)
        return made

    async def patch_status(self, resource: Resource, namespace: str, name: str, patch: Json) -> Json:
        """Merge a patch into an object's status."""
        made = await self._api.patch_status(resource, namespace, name, patch)
        if resource in WATCHED:
            self._store.refresh(resource, made)
        return made


class Cache:
    """Reads of what is watched cost nothing; all others go to the API server."""

    def __init__(self, api: kube.Reader, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._store = store
        self._clock = clock
        self._look_again: dict[Key, float] = {}
        self._quotas = Brief(api, kube.QUOTAS, QUOTA_SECONDS, clock)

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        """Return an object."""
        key = namespace or "", name
        if resource is kube.CONFIGMAPS:
            return await self._config_map(key)
        if resource not in WATCHED:
            return await self._api.get(resource, namespace, name)
        body = self._store.get(resource, key)
        if body is None:
            raise NotFoundError(f"{resource.plural} {name!r} is not known")
        return body

    async def list(self, resource: Resource, namespace: str | None, selector: str = "") -> list[Json]:
        """Return the objects that a label selector matches."""
        if resource in WATCHED and namespace is not None and selector.startswith(SELECTOR):
            return self._store.children(resource, (namespace, selector.removeprefix(SELECTOR)))
        if resource is kube.QUOTAS and namespace is not None and not selector:
            return await self._quotas.of(namespace)
        return await self._api.list(resource, namespace, selector)

    async def _config_map(self, key: Key) -> Json:
        """Return an attempt's ConfigMap; it is not watched, since that would need the right to list all of them."""
        known = self._store.get(kube.CONFIGMAPS, key)
        if known is not None and self._clock() < self._look_again.setdefault(key, self._due()):
            return known
        if not self._store.has_made((key[0], job_name(key[1]))):
            raise NotFoundError(f"nothing of {key[1]!r} has been made")
        try:
            body = await self._api.get(kube.CONFIGMAPS, *key)
        except NotFoundError:
            self._look_again.pop(key, None)
            raise
        self._store.put(kube.CONFIGMAPS, body)
        self._look_again[key] = self._due()
        return body

    def _due(self) -> float:
        return self._clock() + pacing.recheck_seconds(self._store.count(kube.DPOJOBS))

    def forget(self, attempt: Key) -> None:
        """Forget when to look again at the ConfigMap of an attempt, whose name is the RayJob's."""
        self._look_again.pop(attempt, None)
