"""A namespace with an operator of its own behind a proxy of its own: several live side by side on one control plane."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.chaos.api import MERGE, Api, Connection, Object, path_of
from tests.chaos.lives import wait
from tests.chaos.operators import Operator, Zygote
from tests.chaos.player import Player
from tests.chaos.proxy import Judge, Proxy
from tests.chaos.rayjob import ENDED

GONE_SECONDS = 30.0
RESTART_POLL_SECONDS = 0.01


class Cell:
    """Use it as an asynchronous context manager. The operator is started again whenever it has ended.

    Attributes:
        restarting: off while a test starts and stops the operator itself.
        away_seconds: how long the test takes the API server away; every wait has as much more time.
    """

    def __init__(self, connection: Connection, zygote: Zygote, folder: Path, namespace: str) -> None:
        self.namespace, self.job = namespace, ""
        self.api, self.proxy = Api(connection), Proxy(connection)
        self.player = Player(self.api, namespace)
        self.restarting, self.away_seconds = True, 0.0
        self._zygote, self._folder = zygote, folder
        self._uids: set[str] = set()
        self._lives = 0

    async def __aenter__(self) -> "Cell":
        await self.api.__aenter__()
        namespace = {"metadata": {"name": self.namespace}}
        await self.api.insist("POST", path_of("namespaces"), namespace)
        await self.proxy.__aenter__()
        await self.player.__aenter__()
        self.operator = Operator(self._zygote, self._folder, self.namespace, self.proxy.url, self.namespace)
        self.proxy.kill = self.operator.kill
        self._keeper = asyncio.create_task(self._keep_alive())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._keeper.cancel()
        await self.operator.kill()
        await self.player.__aexit__()
        await self.proxy.__aexit__()
        await self.api.__aexit__()

    async def _keep_alive(self) -> None:
        while True:
            if self.restarting and not self.operator.alive:
                await self.operator.start()
            await asyncio.sleep(RESTART_POLL_SECONDS)

    def begin(self, judge: Judge | None = None) -> None:
        """Give the next life a job name of its own and harm it by plan."""
        self._lives += 1
        self.job = f"life-{self._lives}"
        self.proxy.begin(self.job, judge)

    def another_operator(self) -> Operator:
        """Return a second operator for the same jobs; it is the test's to start and to end."""
        name = f"{self.namespace}-other"
        return Operator(self._zygote, self._folder, name, self.proxy.url, self.namespace)

    # ---- the job

    def body(self) -> Object | None:
        """Return the DPOJob."""
        return next(
            (b for b in self.player.dpojobs.by_uid.values() if b["metadata"]["name"] == self.job), None
        )

    def status(self) -> Object:
        """Return the job's status."""
        found: Object = (self.body() or {}).get("status") or {}
        return found

    async def until(self, what: str, seen: Callable[[Object], bool]) -> None:
        """Wait until the job's status says something."""
        await self.until_held(what, lambda: seen(self.status()))

    async def until_held(self, what: str, probe: Callable[[], bool], seconds: float = 240.0) -> None:
        """Wait until something holds."""
        deadline = seconds + self.away_seconds
        await wait(f"{self.namespace}/{self.job}: {what}", probe, self.picture, deadline)

    async def edit(self, spec: Object) -> None:
        """Change the job's spec."""
        path = path_of("dpojobs", self.namespace, self.job)
        await self.api.insist("PATCH", path, {"spec": spec}, content_type=MERGE)

    async def delete(self) -> None:
        """Delete the job."""
        await self.api.insist("DELETE", path_of("dpojobs", self.namespace, self.job))

    # ---- what must hold

    def holds_nothing(self) -> bool:
        """Return whether nothing of the job could hold a slice."""
        for body in self.player.of_job(self.namespace, self.job):
            ended = (body.get("status") or {}).get("jobDeploymentStatus") in ENDED
            if "data" not in body and not ended:
                return False
        return True

    def states(self) -> list[str]:
        """Return the states of the job's RayJobs."""
        found = [
            b for b in self.player.of_job(self.namespace, self.job) if "rayClusterSpec" in b.get("spec", {})
        ]
        return [(body.get("status") or {}).get("jobDeploymentStatus", "") for body in found]

    def duplicates(self) -> list[str]:
        """Return the attempts that were made more than once, and those made while an earlier one held anything."""
        twice = [
            f"{name} was created {n} times" for (_, name), n in Counter(self.proxy.created).items() if n > 1
        ]
        return [*twice, *(words for words in self.player.violations() if words.startswith(f"{self.job}-"))]

    async def orphans(self) -> list[str]:
        """Wait until the deleted job has left nothing behind, and return what it has."""
        try:
            await self.until_held("nothing left", lambda: not self._left(), GONE_SECONDS)
        except AssertionError:
            return self._left()
        return []

    def _left(self) -> list[str]:
        left = [body["metadata"]["name"] for body in self.player.of_job(self.namespace, self.job)]
        return left + ([self.job] if self.body() is not None else [])

    def picture(self) -> str:
        """Return what is known of the job, for the message of a failure."""
        objects = {
            b["metadata"]["name"]: b.get("status") for b in self.player.of_job(self.namespace, self.job)
        }
        calls = [f"{harm.name} at {call.number} {call.point}" for call, harm in self.proxy.harms]
        known = {
            "job": self.body(),
            "objects": objects,
            "harms": calls[-20:],
            "broken": self.player.violations(),
        }
        return f"{json.dumps(known, indent=1, default=str)}\n{self.operator.tail()}"
