"""Creates many objects at once and stamps, by one clock, when each was sent and when a watch first showed its child.

The watch runs in a process of its own, so that sending does not delay its stamps.
"""

import http.client
import json
import multiprocessing
import ssl
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from threading import local
from typing import Any
from urllib.parse import urlsplit

from tests.chaos.api import Connection

Object = dict[str, Any]

THREADS = 16
SILENCE_SECONDS = 120.0
"""After which a watch that shows nothing is given up."""


@dataclass(frozen=True)
class Kind:
    """A collection of a namespace, and how an object's name follows from its parent's."""

    path: str
    suffix: str = ""


class Client:
    """A connection of its own for every thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._local = local()

    def call(
        self, method: str, path: str, body: Object | None = None, kind: str = "application/json"
    ) -> bytes:
        """Call the API server.

        Raises:
            RuntimeError: it refuses.
            OSError: it does not answer.
        """
        link = self._link()
        headers = {"Authorization": f"Bearer {self._connection.token}", "Content-Type": kind}
        link.request(method, path, None if body is None else json.dumps(body), headers)
        answer = link.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: HTTP {answer.status}: {text[:300].decode()}")
        return text

    def stream(self, path: str, seconds: float) -> http.client.HTTPResponse:
        """Return an answer that has no end; reading fails after some seconds of silence."""
        link = connect(self._connection, seconds)
        link.request("GET", path, headers={"Authorization": f"Bearer {self._connection.token}"})
        return link.getresponse()

    def _link(self) -> http.client.HTTPSConnection:
        if not hasattr(self._local, "link"):
            self._local.link = connect(self._connection, 60)
        link: http.client.HTTPSConnection = self._local.link
        return link


def connect(connection: Connection, seconds: float) -> http.client.HTTPSConnection:
    """Return a connection, not opened yet."""
    trust = ssl.create_default_context(cadata=connection.authority)
    return http.client.HTTPSConnection(urlsplit(connection.url).netloc, context=trust, timeout=seconds)


def watch(connection: Connection, kind: Kind, names: set[str], pipe: Pipe) -> None:
    """Send when each object was first shown; runs in a process of its own."""
    client = Client(connection)
    version = json.loads(client.call("GET", f"{kind.path}?limit=1"))["metadata"]["resourceVersion"]
    stream = client.stream(f"{kind.path}?watch=1&resourceVersion={version}", SILENCE_SECONDS)
    seen: dict[str, float] = {}
    pipe.send("ready")
    while seen.keys() != names:
        line = stream.readline()
        now = time.monotonic()
        if not line:
            break
        name = json.loads(line)["object"]["metadata"]["name"].removesuffix(kind.suffix)
        if name in names:
            seen.setdefault(name, now)
    pipe.send(seen)


def burst(
    connection: Connection, parent: Kind, child: Kind, bodies: Mapping[str, Object], seconds: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Create objects and return when each was sent and when its child was first seen.

    Raises:
        SystemExit: not every child was seen in time.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    watcher = context.Process(target=watch, args=(connection, child, set(bodies), theirs), daemon=True)
    watcher.start()
    if not ours.poll(60) or ours.recv() != "ready":
        raise SystemExit("the watch of the children did not begin within 60 s")
    sent = send_all(connection, parent, bodies)
    seen: dict[str, float] = ours.recv() if ours.poll(seconds) else {}
    watcher.terminate()
    if missing := bodies.keys() - seen.keys():
        raise SystemExit(
            f"{len(missing)} of {len(bodies)} children of {parent.path} not seen in {seconds:.0f} s"
        )
    return sent, seen


def send_all(connection: Connection, parent: Kind, bodies: Mapping[str, Object]) -> dict[str, float]:
    """Create objects from many threads and return when each was sent."""
    client = Client(connection)

    def send(name: str) -> tuple[str, float]:
        now = time.monotonic()
        client.call("POST", parent.path, bodies[name])
        return name, now

    with ThreadPoolExecutor(THREADS) as pool:
        return dict(pool.map(send, bodies))


def until(what: str, reached: Callable[[], bool], seconds: float, pause: float = 0.5) -> float:
    """Wait and return the seconds that it took.

    Raises:
        SystemExit: it took too long.
    """
    begun = time.monotonic()
    while not reached():
        if time.monotonic() - begun > seconds:
            raise SystemExit(f"{what}: not within {seconds:.0f} s")
        time.sleep(pause)
    return time.monotonic() - begun
