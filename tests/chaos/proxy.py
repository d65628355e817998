"""An HTTP proxy between one operator and the API server: it numbers the operator's calls and harms it by plan.

It speaks plain HTTP to the operator and HTTPS to the API server. Watches are passed through line by line and are not
numbered; they can be cut or answered with 410 Gone.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

import aiohttp
from aiohttp import web

from tests.chaos.api import Connection, Object

SLOW_SECONDS = 4.0
"""Longer than an operator whose ``read_seconds`` is 2 waits for an answer."""
DROPPED = frozenset(
    {"host", "authorization", "content-length", "transfer-encoding", "connection", "accept-encoding"}
)
NAMESPACE = re.compile(r"/namespaces/[^/ ]+/")
RANDOM_SUFFIX = re.compile(r"(-a\d+)-[0-9a-z]{5}\b")


class Harm(Enum):
    """What may happen to a call."""

    KILL_BEFORE = "the operator is killed before the call reaches the API server"
    KILL_AFTER = "the operator is killed after the API server has acted and before it hears of it"
    CONFLICT = "409"
    THROTTLED = "429"
    ERROR = "500"
    LOST_BEFORE = "the call times out and never reaches the API server"
    SLOW = "the API server acts and answers later than the operator waits for"
    LOST_AFTER = "the API server acts and its answer never comes"


STATUS = {Harm.CONFLICT: 409, Harm.THROTTLED: 429, Harm.ERROR: 500}
SIDES = (Harm.KILL_BEFORE, Harm.KILL_AFTER)


@dataclass(frozen=True)
class Call:
    """One call of the operator.

    Attributes:
        number: counts from 1.
        what: method, path and selector, with the job's name as JOB: what a call of another life can be compared with.
        stage: attempt and summary by the job's status when it was made.
    """

    number: int
    what: str
    stage: str

    @property
    def point(self) -> tuple[str, str]:
        """What it asks for and when: event timing makes reconciles, and so numbers, differ from life to life."""
        return self.stage, self.what


Judge = Callable[[Call], Harm | None]


class Proxy:
    """Stands before the API server; use it as an asynchronous context manager.

    Attributes:
        job: the name of the job whose life it is.
        judge: decides for each call.
        down: while set no call reaches the API server.
        down_status: what it is answered with then; 0 breaks the connection off.
        created: every RayJob whose creation the API server has confirmed, as (uid of its DPOJob, name).
        kill: ends the operator; called for the KILL harms.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._watches: set[asyncio.Task[object]] = set()
        self._errors = 0
        self._code = 0
        self.job = ""
        self.stage = ""
        self.down = False
        self.down_status = 0
        self.judge: Judge = lambda call: None
        self.kill: Callable[[], Awaitable[None]] | None = None
        self.calls: list[Call] = []
        self.harms: list[tuple[Call, Harm]] = []
        self.created: list[tuple[str, str]] = []
        self.writes = 0

    async def __aenter__(self) -> "Proxy":
        connector = aiohttp.TCPConnector(ssl=self._connection.trust(), limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        self._session = aiohttp.ClientSession(self._connection.url, connector=connector, timeout=timeout)
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut_watches()
        await self._runner.cleanup()
        await self._session.close()

    def begin(self, job: str, judge: Judge | None = None) -> None:
        """Begin a life: forget the calls of the one before."""
        self.job, self.stage, self.judge = job, "", judge or (lambda call: None)
        self.calls, self.harms, self.created = [], [], []

    def cut_watches(self) -> None:
        """Break every watch off."""
        for task in list(self._watches):
            task.cancel()

    def answer_watches(self, code: int, times: int) -> None:
        """Answer the next watches with an event of an error: 410 (Gone) as after a compaction of etcd, or 500."""
        self._errors, self._code = times, code
        self.cut_watches()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.down:
            return refuse(self.down_status) if self.down_status else hang_up(request)
        if request.query.get("watch") in ("true", "1"):
            return await self._watch(request)
        body = await request.read()
        call = Call(len(self.calls) + 1, self._describe(request, body), self.stage)
        self.calls.append(call)
        harm = self.judge(call)
        if harm is not None:
            self.harms.append((call, harm))
        return await self._carry_out(request, body, harm)

    async def _carry_out(self, request: web.Request, body: bytes, harm: Harm | None) -> web.StreamResponse:
        if harm in STATUS:
            return refuse(STATUS[harm])
        if harm not in (Harm.KILL_BEFORE, Harm.LOST_BEFORE):
            answer = await self._forward(request, body)
            if harm is Harm.SLOW:
                await asyncio.sleep(SLOW_SECONDS)
            if harm in (None, Harm.SLOW):
                return answer
        if harm in SIDES:
            assert self.kill is not None
            await self.kill()
        return hang_up(request)

    async def _forward(self, request: web.Request, body: bytes) -> web.Response:
        try:
            async with self._session.request(
                request.method, request.rel_url, data=body or None, headers=self._headers(request)
            ) as response:
                text = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return web.Response(status=503, text="the API server does not answer")
        self._take_note(request, response.status, text)
        kind = response.headers.get("Content-Type", "application/json").partition(";")[0]
        return web.Response(status=response.status, body=text, content_type=kind)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        task: asyncio.Task[object] | None = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        try:
            if self._errors > 0:
                self._errors -= 1
                return await tell_error(request, self._code)
            return await self._pass_through(request)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return hang_up(request)
        finally:
            self._watches.discard(task)

    async def _pass_through(self, request: web.Request) -> web.StreamResponse:
        async with self._session.get(request.rel_url, headers=self._headers(request)) as response:
            stream = web.StreamResponse(status=response.status, headers={"Content-Type": "application/json"})
            await stream.prepare(request)
            async for chunk in response.content.iter_any():
                await stream.write(chunk)
            return stream

    def _headers(self, request: web.Request) -> dict[str, str]:
        kept = {name: value for name, value in request.headers.items() if name.lower() not in DROPPED}
        return kept | {"Authorization": f"Bearer {self._connection.token}"}

    def _describe(self, request: web.Request, body: bytes) -> str:
        words = [request.method, request.path, request.query.get("labelSelector", "")]
        if request.method == "POST" and request.path.endswith("/events"):
            words.append(str(json.loads(body).get("reason")))
        text = " ".join(filter(None, words))
        text = NAMESPACE.sub("/namespaces/NS/", text.replace(self.job, "JOB") if self.job else text)
        return RANDOM_SUFFIX.sub(r"\1-CLUSTER", text)

    def _take_note(self, request: web.Request, status: int, text: bytes) -> None:
        if request.method != "GET" and status < 300:
            self.writes += 1
        if request.method == "POST" and request.path.endswith("/rayjobs") and status == 201:
            meta = json.loads(text)["metadata"]
            self.created.append((meta["ownerReferences"][0]["uid"], meta["name"]))
        if (
            request.method == "PATCH"
            and request.path.endswith(f"/dpojobs/{self.job}/status")
            and status == 200
        ):
            told: Object = json.loads(text).get("status", {})
            reasons = [c["reason"] for c in told.get("conditions", []) if c["status"] == "True"]
            self.stage = " ".join([str(told.get("attempt", 0)), told.get("summary", ""), *reasons])


def hang_up(request: web.Request) -> web.Response:
    """Close the connection without a word."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=502)


def refuse(status: int) -> web.Response:
    """Return the API server's answer for an error."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "by plan", "code": status}
    headers = {"Retry-After": "1"} if status == 429 else {}
    return web.json_response(body, status=status, headers=headers)


async def tell_error(request: web.Request, code: int) -> web.StreamResponse:
    """Answer a watch with an event of an error."""
    stream = web.StreamResponse(headers={"Content-Type": "application/json"})
    await stream.prepare(request)
    error = {"kind": "Status", "code": code, "reason": "Expired", "message": "by plan"}
    await stream.write(json.dumps({"type": "ERROR", "object": error}).encode() + b"\n")
    return stream
