"""A small asynchronous client of an API server for what the tests play: verbs, lists and watches that survive outages."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

Object = dict[str, Any]

MERGE = "application/merge-patch+json"
RETRY_SECONDS = 0.3
WATCH_SECONDS = 240
ROOTS = {
    "dpojobs": "/apis/dpojob.io/v1alpha1",
    "rayjobs": "/apis/ray.io/v1",
    "rayclusters": "/apis/ray.io/v1",
    "pods": "/api/v1",
    "configmaps": "/api/v1",
    "events": "/api/v1",
    "namespaces": "/api/v1",
    "customresourcedefinitions": "/apis/apiextensions.k8s.io/v1",
}


class ApiError(Exception):
    """An answer that is not a success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message[:500]}")
        self.status = status


@dataclass(frozen=True)
class Connection:
    """Where an API server is and who calls."""

    url: str
    token: str
    authority: str
    """The certificate that signed the server's, PEM."""

    @classmethod
    def from_kubeconfig(cls, path: Path) -> "Connection":
        """Read the first cluster and the first user; the user must have a token."""
        body = yaml.safe_load(path.read_text())
        cluster, user = body["clusters"][0]["cluster"], body["users"][0]["user"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        return cls(cluster["server"], user["token"], authority)

    def trust(self) -> ssl.SSLContext:
        """Return a context that accepts this server only."""
        return ssl.create_default_context(cadata=self.authority)


def path_of(plural: str, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
    """Return the URL path of a kind, an object or its subresource."""
    parts = [ROOTS[plural], *(["namespaces", namespace] if namespace else []), plural]
    return "/".join([*parts, *filter(None, (name, subresource))])


class Api:
    """Calls an API server; use it as an asynchronous context manager."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Api":
        connector = aiohttp.TCPConnector(ssl=self.connection.trust(), limit=0)
        headers = {"Authorization": f"Bearer {self.connection.token}"}
        self._session = aiohttp.ClientSession(self.connection.url, connector=connector, headers=headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        content_type: str = "application/json",
        **query: str,
    ) -> Object:
        """Call once.

        Raises:
            ApiError: the answer is not a success.
            aiohttp.ClientError: there is no answer.
        """
        assert self._session is not None
        data = json.dumps(body) if body is not None else None
        async with self._session.request(
            method, path, data=data, params=query, headers={"Content-Type": content_type}
        ) as response:
            text = await response.text()
            if response.status >= 300:
                raise ApiError(response.status, text)
            answer: Object = json.loads(text)
            return answer

    async def insist(
        self, method: str, path: str, body: Object | None = None, **options: str
    ) -> Object | None:
        """Call until the server answers; None if the object is gone or another one of that name.

        Raises:
            ApiError: the server refuses for another reason.
        """
        while True:
            try:
                return await self.request(method, path, body, **options)
            except ApiError as error:
                if error.status in (404, 409):
                    return None
                if error.status < 500 and error.status != 429:
                    raise
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            await asyncio.sleep(RETRY_SECONDS)

    async def watch(self, path: str, version: str) -> AsyncIterator[Object]:
        """Yield the events of a watch until it ends; bookmarks are left out."""
        assert self._session is not None
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": str(WATCH_SECONDS)}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=WATCH_SECONDS + 10)
        async with self._session.get(path, params=query, timeout=timeout) as response:
            if response.status >= 300:
                raise ApiError(response.status, await response.text())
            buffer = b""
            async for chunk in response.content.iter_any():
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    yield json.loads(line)


class Mirror:
    """The objects of one kind, kept up to date by list and watch."""

    def __init__(
        self, api: Api, plural: str, namespace: str | None, told: Callable[[str, Object], None]
    ) -> None:
        """Take what to watch.

        Args:
            told: is called with ADDED, MODIFIED or DELETED and the object.
        """
        self._api = api
        self._path = path_of(plural, namespace)
        self._told = told
        self.by_uid: dict[str, Object] = {}
        self.listed = asyncio.Event()

    async def run(self) -> None:
        """Follow until cancelled, whatever becomes of the server."""
        while True:
            try:
                version = await self._list()
                self.listed.set()
                async for event in self._api.watch(self._path, version):
                    if event["type"] == "ERROR":
                        break
                    self._take(event["type"], event["object"])
            except (ApiError, aiohttp.ClientError, TimeoutError, OSError, ValueError):
                await asyncio.sleep(RETRY_SECONDS)

    async def _list(self) -> str:
        answer = await self._api.request("GET", self._path)
        found = {item["metadata"]["uid"]: item for item in answer["items"]}
        for uid in self.by_uid.keys() - found.keys():
            self._take("DELETED", self.by_uid[uid])
        for uid, item in found.items():
            self._take("MODIFIED" if uid in self.by_uid else "ADDED", item)
        version: str = answer["metadata"]["resourceVersion"]
        return version

    def _take(self, kind: str, item: Object) -> None:
        uid = item["metadata"]["uid"]
        if kind == "DELETED":
            self.by_uid.pop(uid, None)
        else:
            self.by_uid[uid] = item
        self._told(kind, item)
