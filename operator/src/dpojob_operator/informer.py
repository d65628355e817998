"""What the watches have shown, as reconciles see it: reflectors, store, ports and comparison with the API server together."""

import asyncio
import time
from collections.abc import Callable

import httpx

from dpojob_api import constants
from dpojob_operator import kube
from dpojob_operator.cache import Cache, WriteThrough
from dpojob_operator.kube import Json, Key, Resource
from dpojob_operator.observe import Observer
from dpojob_operator.outputs import Outputs
from dpojob_operator.reflector import Reflector
from dpojob_operator.store import WATCHED, Store
from dpojob_operator.sync import Sync
from dpojob_operator.views import View

CURRENT_SECONDS = 5.0
"""For how long after a word of a watch the store counts as what is so; a watch tells everything in order."""


class Informer:
    """The store behind the watches."""

    def __init__(
        self,
        api: kube.ApiServer,
        http: httpx.AsyncClient,
        namespaces: tuple[str, ...] = (),
        woken: Callable[[Key], None] = lambda job: None,
    ) -> None:
        """Take the API server and what is called with every job that needs a look."""
        self._store = Store()
        self._woken = woken
        self._reflectors = {
            (resource, namespace): Reflector(
                api, resource, namespace, selector_of(resource), self.show, self.listed
            )
            for resource in WATCHED
            for namespace in namespaces or (None,)
        }
        self.outputs = Outputs()
        self.sync = Sync(api, self._store, namespaces, woken)
        self.api = WriteThrough(api, self._store)
        self._cache = Cache(api, self._store)
        self.view = View(self._cache, Observer(self._cache, http, self.outputs), fresh=False)

    @property
    def in_step(self) -> bool:
        """Whether the watches have shown everything."""
        return self.sync.in_step

    async def run(self) -> None:
        """Follow every kind until cancelled."""
        async with asyncio.TaskGroup() as group:
            for reflector in self._reflectors.values():
                group.create_task(reflector.run())

    def reflector(self, resource: Resource, namespace: str) -> Reflector:
        """Return what follows a kind in a namespace."""
        return self._reflectors.get((resource, namespace)) or self._reflectors[resource, None]

    def is_current(self, namespace: str) -> bool:
        """Return whether the watch of a namespace's DPOJobs has told something just now."""
        return time.monotonic() - self.reflector(kube.DPOJOBS, namespace).heard_at < CURRENT_SECONDS

    def has_made(self, job: Key) -> bool:
        """Return whether there may ever have been a child of a job of this name."""
        return self._store.has_made(job)

    def count(self) -> int:
        """Return the number of jobs."""
        return self._store.count(kube.DPOJOBS)

    def show(self, resource: Resource, kind: str | None, body: Json) -> None:
        """Take an event of a watch and have its job looked at, if there is something new in it.

        Args:
            kind: its type; None in a list.
        """
        key = kube.key_of(body)
        if resource is kube.DPOJOBS:
            self._note_output(kind, key, body)
        if kind != "DELETED":
            news = self._store.put(resource, body)
            job = self._store.job_of(resource, key)
        else:
            job = self._store.job_of(resource, key)
            news = self._store.remove(resource, key, kube.version_of(body))
            if resource is kube.RAYJOBS:
                self._cache.forget(key)
        if news and job is not None:
            self._woken(job)

    def listed(self, resource: Resource, namespace: str | None, versions: kube.Versions) -> None:
        """Take note of a list that is complete."""
        self.sync.note_listed(resource, namespace, versions)

    def _note_output(self, kind: str | None, job: Key, body: Json) -> None:
        if kind == "DELETED":
            self.outputs.forget(job)
        else:
            self.outputs.see(body)


def selector_of(resource: Resource) -> str:
    """Return the label selector of what is watched of a kind."""
    return "" if resource is kube.DPOJOBS else constants.LABEL_JOB
