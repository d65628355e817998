"""The operator's port to the API server: a few verbs in plain JSON. Every failure is one of ``errors``."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import aiohttp
import kopf
from yarl import URL

from dpojob_api import constants
from dpojob_operator import metrics
from dpojob_operator.connection import Connection
from dpojob_operator.errors import NotFoundError, TransientError, error_for

Json = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name of an object."""

METHODS = {
    "get": "GET",
    "list": "GET",
    "apply": "PATCH",
    "create": "POST",
    "delete": "DELETE",
    "patch": "PATCH",
    "patch status": "PATCH",
}
JSON = "application/json"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
ONE_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
PAGE = 100
"""Objects that are in memory at a time while a list is read."""
NAMES_PAGE = 500
STREAM_SECONDS = 300
"""After which the API server ends a watch."""
SILENCE_SECONDS = 75.0
"""After which a watch is dead: there is a bookmark every minute."""


@dataclass(frozen=True)
class Resource:
    """A kind that the API server serves."""

    api_version: str
    plural: str

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the URL path of a collection, an object or a subresource."""
        root = "/api/" if "/" not in self.api_version else "/apis/"
        parts = [self.api_version]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return root + "/".join(quote(part, safe="/") for part in parts)


DPOJOBS = Resource(constants.API_VERSION, constants.PLURAL)
RAYJOBS = Resource("ray.io/v1", "rayjobs")
RAYCLUSTERS = Resource("ray.io/v1", "rayclusters")
WORKLOADS = (
    Resource("kueue.x-k8s.io/v1beta2", "workloads"),
    Resource("kueue.x-k8s.io/v1beta1", "workloads"),
)
"""Kueue's objects by its API versions, newest first."""
CONFIGMAPS = Resource("v1", "configmaps")
PODS = Resource("v1", "pods")
SECRETS = Resource("v1", "secrets")
SERVICE_ACCOUNTS = Resource("v1", "serviceaccounts")
CLAIMS = Resource("v1", "persistentvolumeclaims")
QUOTAS = Resource("v1", "resourcequotas")
JOBS = Resource("batch/v1", "jobs")
EVENTS = Resource("v1", "events")
CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions")


@dataclass(frozen=True)
class Versions:
    """Which objects of a kind there are at a version of the whole."""

    version: int
    objects: dict[Key, int]


def key_of(body: Json) -> Key:
    """Return an object's namespace and name."""
    meta = body["metadata"]
    return meta.get("namespace", ""), meta["name"]


def version_of(body: Json) -> int:
    """Return the version of an object or a list; versions of a kind grow, and may be compared since Kubernetes 1.35.

    Servers before that keep to it as well; 0 if one does not write a number.
    """
    text = body.get("metadata", {}).get("resourceVersion", "")
    return int(text) if text.isdecimal() else 0


class Reader(Protocol):
    """What ``observe`` needs of the API server. Every method raises ``errors.KubeError``."""

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        """Return an object."""

    async def list(self, resource: Resource, namespace: str | None, selector: str = "") -> list[Json]:
        """Return the objects that a label selector matches."""


class Kube(Reader, Protocol):
    """What the reconciler needs of the API server."""

    async def apply(self, resource: Resource, body: Json) -> Json:
        """Apply an object on the server's side, taking over fields that others have set."""

    async def create(self, resource: Resource, body: Json) -> Json:
        """Create an object."""

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str | None = None) -> None:
        """Delete an object with what it owns, with a uid only that one; no error if it is gone."""

    async def patch(self, resource: Resource, namespace: str, name: str, patch: Json) -> Json:
        """Merge a patch into an object."""

    async def patch_status(self, resource: Resource, namespace: str, name: str, patch: Json) -> Json:
        """Merge a patch into an object's status."""


class ApiServer:
    """The port over a real API server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        """Return an object."""
        return await self._call("get", resource, resource.path(namespace, name))

    async def list(self, resource: Resource, namespace: str | None, selector: str = "") -> list[Json]:
        """Return the objects that a label selector matches."""
        query = {"labelSelector": selector} if selector else {}
        items: list[Json] = (await self._call("list", resource, resource.path(namespace), query)).get(
            "items", []
        )
        return items

    async def apply(self, resource: Resource, body: Json) -> Json:
        """Apply an object on the server's side, taking over fields that others have set."""
        meta = body["metadata"]
        query = {"fieldManager": constants.FIELD_MANAGER, "force": "true"}
        path = resource.path(meta["namespace"], meta["name"])
        return await self._call("apply", resource, path, query, body, APPLY)

    async def create(self, resource: Resource, body: Json) -> Json:
        """Create an object and return it with the metadata that it has got."""
        query = {"fieldManager": constants.FIELD_MANAGER}
        path = resource.path(body["metadata"]["namespace"])
        made = await self._call("create", resource, path, query, body, accept=ONE_METADATA)
        return body | {"metadata": made["metadata"]}

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str | None = None) -> None:
        """Delete an object with what it owns, with a uid only that one; no error if it is gone."""
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            await self._call("delete", resource, resource.path(namespace, name), {}, options)
        except NotFoundError:
            return

    async def patch(self, resource: Resource, namespace: str, name: str, patch: Json) -> Json:
        """Merge a patch into an object."""
        query = {"fieldManager": constants.FIELD_MANAGER}
        path = resource.path(namespace, name)
        return await self._call("patch", resource, path, query, patch, MERGE)

    async def patch_status(self, resource: Resource, namespace: str, name: str, patch: Json) -> Json:
        """Merge a patch into an object's status."""
        query = {"fieldManager": constants.FIELD_MANAGER}
        path = resource.path(namespace, name, "status")
        return await self._call("patch status", resource, path, query, patch, MERGE)

    async def list_versions(self, resource: Resource, namespace: str | None, selector: str) -> Versions:
        """Return name and version of the objects that a label selector matches."""
        found: dict[Key, int] = {}
        version = 0
        async for page in self.pages(resource, namespace, selector, NAMES_PAGE, METADATA):
            found |= {key_of(item): version_of(item) for item in page.get("items") or []}
            version = version_of(page)
        return Versions(version, found)

    async def pages(
        self, resource: Resource, namespace: str | None, selector: str, size: int = PAGE, accept: str = JSON
    ) -> AsyncIterator[Json]:
        """Yield the list of the objects that a label selector matches, page by page."""
        query = {"limit": str(size)} | ({"labelSelector": selector} if selector else {})
        while True:
            page = await self._call("list", resource, resource.path(namespace), query, accept=accept)
            yield page
            following = page.get("metadata", {}).get("continue")
            if not following:
                return
            query = {**query, "continue": following}

    async def watch(
        self, resource: Resource, namespace: str | None, selector: str, version: int
    ) -> AsyncIterator[Json]:
        """Yield what happens after a version, until the API server ends the stream."""
        query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": str(version)}
        query |= {"timeoutSeconds": str(STREAM_SECONDS)} | ({"labelSelector": selector} if selector else {})
        path = resource.path(namespace)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=SILENCE_SECONDS)
        try:
            headers = {"Accept": JSON} | self._connection.headers()
            request = self._connection.streams.get(self._url(path, query), headers=headers, timeout=timeout)
            async with request as response:
                if response.status != 200:
                    answer("GET", path, response.status, await response.read())
                async for line in lines(response.content):
                    if line:
                        yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError, OSError, kopf.LoginError, ValueError) as error:
            raise TransientError(f"watch {path}: {type(error).__name__}: {error}") from error

    async def _call(
        self,
        verb: str,
        resource: Resource,
        path: str,
        query: dict[str, str] | None = None,
        body: Json | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Json:
        begun, status = time.monotonic(), None
        headers = {"Accept": accept, "Content-Type": content_type}
        try:
            status, text = await self._request(METHODS[verb], path, query, body, headers)
        finally:
            metrics.count_call(verb, resource.plural, status, time.monotonic() - begun)
        return answer(METHODS[verb], path, status, text)

    async def _request(
        self, method: str, path: str, query: dict[str, str] | None, body: Json | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        url = self._url(path, query)
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        try:
            headers = headers | self._connection.headers()
            async with self._connection.session.request(method, url, data=data, headers=headers) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError, kopf.LoginError) as error:
            raise TransientError(f"{method} {path}: {type(error).__name__}: {error}") from error

    def _url(self, path: str, query: dict[str, str] | None) -> URL:
        return URL(self._connection.server + path + ("?" + urlencode(query) if query else ""), encoded=True)


async def lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield the lines of a stream, however long; aiohttp's own lines have a limit."""
    rest = b""
    async for chunk in content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line


def answer(method: str, path: str, status: int, text: bytes) -> Json:
    """Return the object in an answer.

    Raises:
        KubeError: the status is not a success.
    """
    try:
        body = json.loads(text) if text else {}
    except ValueError:
        body = {}
    if not isinstance(body, dict):
        body = {}
    if 200 <= status < 300:
        return body
    raise error_for(status, body.get("message") or f"{method} {path} failed")
