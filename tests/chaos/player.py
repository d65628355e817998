"""Plays everything around the operator on a real API server: KubeRay, kubelet, garbage collector and trainer.

On a control plane that is to be killed there can be no node, and a real KubeRay would take minutes for the life of a job.
What the operator relies on is real all the same: the API server with its versions, uids, watches, finalizers and grace
periods, and metrics over HTTP. Played are the decisions of others, in the order in which they write them: a RayJob's
states and finalizer, its RayCluster, pods that outlive it for a while, deletion of what has lost its owner, and runs
that end as their fate says. The real KubeRay and trainer are in tests/integration and tests/e2e.

Use::

    async with Api(Connection.from_kubeconfig(path)) as api, Player(api, namespace="ns") as player:
        player.fates["job"] = {1: Fate("preempted", 20)}

Every change of a run's numbers touches a pod, so that the operator looks at once instead of at its next poll.
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

from dpojob_api import constants
from tests.chaos.api import Api, ApiError, Mirror, Object, path_of
from tests.chaos.rayjob import ENDED, Attempt
from tests.chaos.runs import Boards, Fate

log = logging.getLogger(__name__)

PACE_SECONDS = 0.1
PATIENCE_SECONDS = 15.0
"""How long a run waits for its numbers to be read; the real one is that slow, see ``runs``."""
RECORD_SECONDS = 120.0
"""How long a finished run waits for the operator to record it, as the trainer's driver does."""
TERMINATION_SECONDS = 0.3
LIST_SECONDS = 60.0
OWNERS = {"DPOJob": "dpojobs", "RayJob": "rayjobs", "RayCluster": "rayclusters"}
OWNED = ("rayjobs", "rayclusters", "pods", "configmaps")


def is_earlier(body: Object, attempt: Attempt) -> bool:
    """Return whether an object belongs to an earlier attempt of the same job."""
    labels = body["metadata"].get("labels") or {}
    same = labels.get(constants.LABEL_JOB) == attempt.labels.get(constants.LABEL_JOB)
    number = int(labels.get(constants.LABEL_ATTEMPT, "0"))
    return same and body["metadata"]["namespace"] == attempt.namespace and number < attempt.number


class Player:
    """Plays in one namespace or in all of them; use it as an asynchronous context manager.

    Attributes:
        fates: by job name and attempt number; an attempt without one succeeds.
        record_wait: seconds for which a finished run waits to be recorded.
        created: every RayJob that ever was, as (namespace, name), in the order in which it was seen.
        broken: what must never be and was seen, see :meth:`violations`.
    """

    def __init__(
        self,
        api: Api,
        namespace: str | None = None,
        pace: float = PACE_SECONDS,
        patience: float = PATIENCE_SECONDS,
        collect_garbage: bool = True,
        terminate_pods: bool = True,
    ) -> None:
        """Take what to play.

        Args:
            pace: seconds between two changes of an attempt.
            patience: seconds for which a run waits for somebody to read its numbers.
            collect_garbage: off where a controller manager runs.
            terminate_pods: off where a kubelet, or kwok, ends the pods.
        """
        self.api, self.pace, self.patience = api, pace, patience
        self.record_wait = RECORD_SECONDS
        self.boards = Boards()
        self.fates: dict[str, dict[int, Fate]] = {}
        self.saved: dict[str, int] = {}
        self.created: list[tuple[str, str]] = []
        self.broken: list[str] = []
        self.attempts: dict[str, Attempt] = {}
        self._roles = (collect_garbage, terminate_pods)
        self._tasks: set[asyncio.Task[None]] = set()
        self._unowned = asyncio.Event()
        self.dpojobs = Mirror(api, "dpojobs", namespace, self._on_owner)
        self.rayjobs = Mirror(api, "rayjobs", namespace, self._on_ray_job)
        self.rayclusters = Mirror(api, "rayclusters", namespace, self._on_owner)
        self.pods = Mirror(api, "pods", namespace, self._on_pod)
        self.configmaps = Mirror(api, "configmaps", namespace, self._on_owner)
        self._ending: set[str] = set()
        self._suspects: list[tuple[str, int, str, str]] = []
        self._gone: dict[str, int] = {}

    async def __aenter__(self) -> "Player":
        mirrors = (self.dpojobs, self.rayclusters, self.pods, self.configmaps, self.rayjobs)
        for mirror in mirrors:
            self._spawn(mirror.run())
        try:
            async with asyncio.timeout(LIST_SECONDS):
                for mirror in mirrors:
                    await mirror.listed.wait()
        except TimeoutError as error:
            raise AssertionError(f"the API server lists nothing within {LIST_SECONDS:.0f} s") from error
        if self._roles[0]:
            self._spawn(self._collect())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.boards.close_all()

    def fate_of(self, job: str, number: int) -> Fate:
        """Return how an attempt ends."""
        return self.fates.get(job, {}).get(number, Fate())

    def keep(self, job_uid: str, step: int) -> None:
        """Take note of a checkpoint."""
        self.saved[job_uid] = max(self.saved.get(job_uid, 0), step)

    def of_job(self, namespace: str, job: str) -> list[Object]:
        """Return the pods, RayClusters, RayJobs and ConfigMaps of a job."""
        mirrors = (self.pods, self.rayclusters, self.rayjobs, self.configmaps)
        return [
            body
            for mirror in mirrors
            for body in mirror.by_uid.values()
            if body["metadata"]["namespace"] == namespace
            and (body["metadata"].get("labels") or {}).get(constants.LABEL_JOB) == job
        ]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("the player: %r", task.exception(), exc_info=task.exception())
            self.broken.append(f"the player itself failed: {task.exception()!r}")

    # ---- KubeRay

    def _on_ray_job(self, kind: str, body: Object) -> None:
        uid, meta = body["metadata"]["uid"], body["metadata"]
        self._unowned.set()
        if kind != "DELETED" and uid not in self.attempts:
            self.attempts[uid] = attempt = Attempt(self, body)
            self.created.append((meta["namespace"], meta["name"]))
            self._note_held(attempt, int(meta["resourceVersion"]))
            self._spawn(self._work_on(uid))

    def _note_held(self, attempt: Attempt, version: int) -> None:
        """Take note of what earlier attempts of a job hold by all that is known when a RayJob is created."""
        for mirror in (self.pods, self.rayclusters):
            for uid, body in mirror.by_uid.items():
                if is_earlier(body, attempt):
                    self._suspects.append((attempt.name, version, uid, body["metadata"]["name"]))
        for body in self.rayjobs.by_uid.values():
            ended = (body.get("status") or {}).get("jobDeploymentStatus") in ENDED
            if is_earlier(body, attempt) and not ended:
                self.broken.append(
                    f"{attempt.name} was created while RayJob {body['metadata']['name']} was live"
                )

    def violations(self) -> list[str]:
        """Return what was broken: watches are independent, so the versions tell what went before what."""
        late = [
            f"{name} was created while {held} was there"
            for name, version, uid, held in self._suspects
            if uid not in self._gone or self._gone[uid] > version
        ]
        return [*self.broken, *late]

    async def _work_on(self, uid: str) -> None:
        attempt = self.attempts[uid]
        while (body := self.rayjobs.by_uid.get(uid)) is not None:
            await attempt.beat(body)
            await asyncio.sleep(self.pace)
        await attempt.stop()

    # ---- the kubelet

    def _on_pod(self, kind: str, body: Object) -> None:
        meta = body["metadata"]
        self._on_owner(kind, body)
        if (
            kind != "DELETED"
            and meta.get("deletionTimestamp")
            and self._roles[1]
            and meta["uid"] not in self._ending
        ):
            self._ending.add(meta["uid"])
            self._spawn(self._terminate(meta))

    async def _terminate(self, meta: Object) -> None:
        """Let the run save (preStop) and remove the pod a little later."""
        cluster = meta["labels"].get("ray.io/cluster", "")
        for attempt in self.attempts.values():
            if cluster.startswith(f"{attempt.name}-") and attempt.namespace == meta["namespace"]:
                await attempt.save()
        await asyncio.sleep(TERMINATION_SECONDS)
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}
        await self.api.insist("DELETE", path_of("pods", meta["namespace"], meta["name"]), options)

    # ---- the garbage collector

    def _on_owner(self, kind: str, body: Object) -> None:
        self._unowned.set()
        if kind == "DELETED":
            self._gone[body["metadata"]["uid"]] = int(body["metadata"]["resourceVersion"])

    async def _collect(self) -> None:
        while True:
            await self._unowned.wait()
            self._unowned.clear()
            for plural in OWNED:
                mirror: Mirror = getattr(self, plural)
                for body in list(mirror.by_uid.values()):
                    await self._collect_one(plural, body)
            await asyncio.sleep(self.pace)

    async def _collect_one(self, plural: str, body: Object) -> None:
        meta = body["metadata"]
        for reference in meta.get("ownerReferences") or []:
            kind = OWNERS.get(reference["kind"])
            if kind is None or meta.get("deletionTimestamp"):
                continue
            mirror: Mirror = getattr(self, kind)
            if reference["uid"] not in mirror.by_uid and not await self._lives(
                kind, meta["namespace"], reference
            ):
                options = {"propagationPolicy": "Background", "preconditions": {"uid": meta["uid"]}}
                await self.api.insist("DELETE", path_of(plural, meta["namespace"], meta["name"]), options)

    async def _lives(self, plural: str, namespace: str, reference: Object) -> bool:
        """Ask the API server itself, as the real one does before it deletes."""
        with contextlib.suppress(ApiError):
            found = await self.api.insist("GET", path_of(plural, namespace, reference["name"]))
            return found is not None and found["metadata"]["uid"] == reference["uid"]
        return True
