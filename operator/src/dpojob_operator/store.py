"""The store: what the watches have shown of DPOJobs and their children, by job. A cache, never the truth.

An object is kept as compact JSON of its pruned body: a reader gets a copy of its own, and a thousand jobs with their pods
take a few megabytes. Versions keep order: neither a watch that lags behind a write's answer nor an answer that lags behind
a watch can bring an older state back.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dpojob_api import constants
from dpojob_operator import kube, pruned
from dpojob_operator.kube import Json, Key, Resource, Versions

PRUNE: dict[Resource, Callable[[Json], Mapping[str, Any]]] = {
    kube.DPOJOBS: pruned.job,
    kube.RAYJOBS: pruned.ray_job,
    kube.RAYCLUSTERS: pruned.ray_cluster,
    kube.PODS: pruned.pod,
    kube.CONFIGMAPS: pruned.config_map,
}
"""The kinds that are kept."""
WATCHED = (kube.DPOJOBS, kube.RAYJOBS, kube.RAYCLUSTERS, kube.PODS)
"""Those of them that are watched."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as it was last seen."""

    version: int
    uid: str
    job: Key
    mark: int
    """Changes with what a reconcile of the job has to look at."""
    blob: bytes


class Store:
    """Objects by kind, namespace and name, and the children of each job."""

    def __init__(self) -> None:
        self._kinds: dict[Resource, dict[Key, Entry]] = {resource: {} for resource in PRUNE}
        self._children: dict[tuple[Resource, Key], set[str]] = {}
        self._made: set[Key] = set()

    def put(self, resource: Resource, body: Json) -> bool:
        """Take an object as it was seen; return whether its job needs a look."""
        key, old = kube.key_of(body), self._kinds[resource].get(kube.key_of(body))
        new = entry_of(resource, body)
        if old is not None and new.version < old.version:
            return False
        self._kinds[resource][key] = new
        if resource is not kube.DPOJOBS:
            self._children.setdefault((resource, new.job), set()).add(key[1])
            self._made.add(new.job)
        return old is None or (old.uid, old.mark) != (new.uid, new.mark)

    def refresh(self, resource: Resource, body: Json) -> None:
        """Take the answer to a write, unless the object has gone meanwhile."""
        old = self._kinds[resource].get(kube.key_of(body))
        if old is not None and old.uid == body["metadata"].get("uid"):
            self.put(resource, body)

    def remove(self, resource: Resource, key: Key, version: int) -> bool:
        """Drop an object that was gone at a version; return whether there was one as old as that."""
        old = self._kinds[resource].get(key)
        if old is None or old.version > version:
            return False
        del self._kinds[resource][key]
        siblings = self._children.get((resource, old.job), set())
        siblings.discard(key[1])
        if not siblings:
            self._children.pop((resource, old.job), None)
        if resource is kube.DPOJOBS:
            for name in self._children.pop((kube.CONFIGMAPS, old.job), set()):
                del self._kinds[kube.CONFIGMAPS][key[0], name]
        return True

    def get(self, resource: Resource, key: Key) -> Json | None:
        """Return what is kept of an object, None if there is none."""
        entry = self._kinds[resource].get(key)
        return None if entry is None else body_of(entry)

    def children(self, resource: Resource, job: Key) -> list[Json]:
        """Return what is kept of a job's children of a kind."""
        entries, names = self._kinds[resource], self._children.get((resource, job), ())
        return [body_of(entries[job[0], name]) for name in sorted(names)]

    def job_of(self, resource: Resource, key: Key) -> Key | None:
        """Return the job that an object belongs to, None if there is no such object."""
        entry = self._kinds[resource].get(key)
        return None if entry is None else entry.job

    def count(self, resource: Resource) -> int:
        """Return the number of objects of a kind."""
        return len(self._kinds[resource])

    def keys(self, resource: Resource) -> list[Key]:
        """Return the objects of a kind."""
        return list(self._kinds[resource])

    def note_made(self, job: Key) -> None:
        """Remember that a child of a job is about to be made."""
        self._made.add(job)

    def has_made(self, job: Key) -> bool:
        """Return whether there has ever been a child of a job of this name, as far as this process can know."""
        return job in self._made

    def forget_made(self) -> None:
        """Forget the names of jobs of which nothing is left."""
        held = {job for _, job in self._children}
        self._made = {job for job in self._made if job in held or job in self._kinds[kube.DPOJOBS]}

    def behind(self, resource: Resource, listed: Mapping[Key, int]) -> dict[Key, int]:
        """Return the objects that the store has not seen in the state in which they were listed."""
        entries = self._kinds[resource]
        return {
            key: version
            for key, version in listed.items()
            if key not in entries or entries[key].version < version
        }

    def ghosts(self, resource: Resource, listed: Versions, within: Callable[[str], bool]) -> Iterator[Key]:
        """Yield the objects that were not listed although the store's state of them is older than the list."""
        for key, entry in list(self._kinds[resource].items()):
            if within(key[0]) and key not in listed.objects and entry.version <= listed.version:
                yield key


def entry_of(resource: Resource, body: Json) -> Entry:
    """Return what is kept of an object."""
    kept = PRUNE[resource](body)
    blob, meta = packed(kept), kept["metadata"]
    namespace, name = kube.key_of(body)
    if resource is kube.DPOJOBS:
        # Only the operator writes its status, and its own writes are no news to it.
        mark = hash(packed(meta))
    else:
        # An annotation, which is not kept, is a way to have the job looked at.
        mark = hash((blob, packed(body["metadata"].get("annotations") or {})))
        name = meta["labels"].get(constants.LABEL_JOB, "")
    return Entry(kube.version_of(body), meta.get("uid", ""), (namespace, name), mark, blob)


def packed(value: Mapping[str, Any]) -> bytes:
    """Return compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def body_of(entry: Entry) -> Json:
    """Return a copy of what is kept of an object, with its version."""
    body: Json = json.loads(entry.blob)
    body["metadata"]["resourceVersion"] = str(entry.version)
    return body
