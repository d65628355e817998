"""Which DPOJobs write where, as the watch shows them: two jobs in one folder would overwrite each other's results.

The trainer's marker in the folder is the proof, but it is found when the slice is already held. This book may lag behind
the cluster, so what it names is looked up again before a job is held back for it.
"""

from dataclasses import dataclass
from typing import Any

from dpojob_api.uris import parse_uri
from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator import parse

Key = tuple[str, str]
Json = dict[str, Any]


@dataclass(frozen=True)
class Writer:
    """A DPOJob and the folder that it writes to."""

    key: Key
    uid: str
    folder: str
    age: tuple[str, str]
    """Orders writers, the oldest first: creation time as Kubernetes writes it, then uid."""
    writes: bool
    """Whether it has written or may still; a job that failed before its first attempt has not."""


class Outputs:
    """The folders by DPOJob."""

    def __init__(self) -> None:
        self._writers: dict[Key, Writer] = {}
        self._keys: dict[str, set[Key]] = {}

    def see(self, body: Json) -> None:
        """Take in a DPOJob as the API server returned it; one without a readable output is none of ours."""
        writer = writer_of(body)
        if writer is None:
            return
        self.forget(writer.key)
        self._writers[writer.key] = writer
        self._keys.setdefault(writer.folder, set()).add(writer.key)

    def forget(self, key: Key) -> None:
        """Forget a DPOJob that is gone."""
        known = self._writers.pop(key, None)
        if known is None:
            return
        keys = self._keys[known.folder]
        keys.discard(key)
        if not keys:
            del self._keys[known.folder]

    def before(self, job: DPOJob) -> list[Writer]:
        """Return the older DPOJobs that write to a job's folder, the oldest first."""
        own = self._writers.get((job.metadata.namespace, job.metadata.name))
        if own is None or own.uid != job.metadata.uid:
            return []
        others = [self._writers[key] for key in self._keys[own.folder]]
        return sorted((w for w in others if w.writes and w.age < own.age), key=lambda writer: writer.age)


def writer_of(body: Json) -> Writer | None:
    """Return who writes where, None if the object does not say."""
    try:
        meta: Json = body["metadata"]
        key = meta["namespace"], meta["name"]
        folder = folder_of(key[0], body["spec"]["output"]["uri"])
    except (KeyError, TypeError, AttributeError, ValueError):
        return None
    age = meta.get("creationTimestamp", ""), meta.get("uid", "")
    return Writer(key, meta.get("uid", ""), folder, age, writes=may_write(body))


def folder_of(namespace: str, uri: str) -> str:
    """Return one name for all ways to write a folder; claims of two namespaces are two.

    Raises:
        ValueError: not a URI of an output.
    """
    parsed = parse_uri(uri)
    where = f"{namespace}/" if parsed.scheme == "pvc" else ""
    return f"{parsed.scheme}://{where}{parsed.root}/{parsed.path}"


def may_write(body: Json) -> bool:
    """Return whether a DPOJob has written to its folder or still may."""
    status = body.get("status") or {}
    failed = any(
        c.get("type") == "Failed" and c.get("status") == "True" for c in status.get("conditions") or []
    )
    return bool(status.get("attempts")) or not (failed or parse.is_deleting(body))
