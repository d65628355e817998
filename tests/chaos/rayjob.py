"""One RayJob as the player's KubeRay works on it: the states and the order of writes of KubeRay v1.6 in HTTPMode."""

import copy
import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dpojob_api import constants
from tests.chaos.api import MERGE, Object, path_of
from tests.chaos.runs import Fate, Run

if TYPE_CHECKING:
    from tests.chaos.player import Player

FINALIZER = "ray.io/rayjob-finalizer"
ENDED = ("Complete", "Failed", "ValidationFailed")
BEATS_TO_CAPACITY_LOSS = 2
BEATS_TO_LAST_WORDS = 4
"""From the loss of a pod until the driver, or KubeRay for a driver that is gone, says that the job has failed."""


def stamp() -> str:
    """Return the time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def owner(body: Object, kind: str) -> Object:
    """Return the reference of a controller."""
    meta = body["metadata"]
    return {
        "apiVersion": "ray.io/v1",
        "kind": kind,
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


class Attempt:
    """A RayJob, what KubeRay has made for it, and the trainer's run on it."""

    def __init__(self, player: "Player", body: Object) -> None:
        meta = body["metadata"]
        self.player = player
        self.uid, self.name, self.namespace = meta["uid"], meta["name"], meta["namespace"]
        self.labels = dict(meta.get("labels") or {})
        self.job_uid = next((o["uid"] for o in meta.get("ownerReferences") or []), "")
        self.state: str = (body.get("status") or {}).get("jobDeploymentStatus", "")
        self.cluster: Object | None = None
        self.pods: list[Object] = []
        self.run: Run | None = None
        self.fate: Fate = player.fate_of(self.labels.get(constants.LABEL_JOB, ""), self.number)
        self._beats = 0

    @property
    def number(self) -> int:
        """The attempt's number."""
        return int(self.labels.get(constants.LABEL_ATTEMPT, "0"))

    @property
    def path(self) -> str:
        """The RayJob's URL path."""
        return path_of("rayjobs", self.namespace, self.name)

    async def beat(self, body: Object) -> None:
        """Do what is due by the RayJob as it is now."""
        meta = body["metadata"]
        if meta.get("deletionTimestamp"):
            await self._finalize(meta)
        elif self.state not in ENDED and FINALIZER not in meta.get("finalizers", []):
            await self._patch({"metadata": {"uid": self.uid, "finalizers": [FINALIZER]}})
        elif self.state in ENDED:
            await self._remove_cluster()
        elif body["spec"].get("suspend") or self.state == "Suspending":
            await self._suspend()
        elif self.state in ("", "Suspended"):
            await self._initialize(body)
        elif self.state == "Initializing":
            await self._start_pods(body)
        else:
            await self._train()

    async def stop(self) -> None:
        """End the run without letting it save."""
        if self.run is not None:
            await self.player.boards.close(self.run)

    async def save(self) -> None:
        """The preStop hook: the run saves its step and ends."""
        run = self.run
        if run is not None and run.serves and not run.finished:
            self.player.keep(self.job_uid, max(run.step, run.resumed))
            await self.stop()

    async def _patch(self, patch: Object) -> None:
        await self.player.api.insist("PATCH", self.path, patch, content_type=MERGE)

    async def _tell(self, **status: str) -> None:
        """Write the RayJob's status, as KubeRay does at each transition."""
        self.state = status.get("jobDeploymentStatus", self.state)
        patch = {"metadata": {"uid": self.uid}, "status": status}
        await self.player.api.insist("PATCH", f"{self.path}/status", patch, content_type=MERGE)

    async def _finalize(self, meta: Object) -> None:
        """KubeRay stops the Ray job and lets go; the RayCluster falls to the garbage collector."""
        await self.stop()
        if FINALIZER in meta.get("finalizers", []):
            await self._patch({"metadata": {"uid": self.uid, "finalizers": None}})

    async def _suspend(self) -> None:
        await self.save()
        if self.state not in ("Suspending", "Suspended"):
            await self._tell(jobDeploymentStatus="Suspending")
        elif await self._remove_cluster() and self.state == "Suspending":
            await self._tell(jobDeploymentStatus="Suspended", jobStatus="")

    async def _initialize(self, body: Object) -> None:
        await self._tell(jobDeploymentStatus="Initializing", startTime=stamp(), jobId=body["spec"]["jobId"])
        self.pods, self._beats = [], 0
        meta = {
            "name": f"{self.name}-{secrets.token_hex(3)[:5]}",
            "namespace": self.namespace,
            "labels": self.labels | {"ray.io/originated-from-cr-name": self.name},
            "ownerReferences": [owner(body, "RayJob")],
        }
        cluster = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": meta}
        cluster["spec"] = body["spec"]["rayClusterSpec"]
        self.cluster = await self.player.api.insist("POST", path_of("rayclusters", self.namespace), cluster)
        await self._tell(rayClusterName=meta["name"])

    async def _start_pods(self, body: Object) -> None:
        self._beats += 1
        if self.fate.kind == "capacity":
            if self._beats > BEATS_TO_CAPACITY_LOSS:
                await self._tell(jobDeploymentStatus="Failed", reason="PreRunningDeadlineExceeded")
            return
        if not self.pods and self.cluster is not None:
            await self._make_pods(body["spec"]["rayClusterSpec"])
            return
        self.run = await self.player.boards.open(self.player.saved.get(self.job_uid, 0), self.fate)
        for pod in self.pods:
            status = {"phase": "Running", "podIP": self.run.address, "podIPs": [{"ip": self.run.address}]}
            await self._pod_status(pod, status)
        await self._tell(jobDeploymentStatus="Running", jobStatus="RUNNING")

    async def _make_pods(self, spec: Object) -> None:
        groups = [("head", "headgroup", 1, spec["headGroupSpec"]["template"])]
        for group in spec["workerGroupSpecs"]:
            groups.append(("worker", group["groupName"], group.get("numOfHosts", 1), group["template"]))
        for kind, group_name, hosts, template in groups:
            for index in range(hosts):
                self.pods.append(await self._make_pod(kind, group_name, index, template))

    async def _make_pod(self, kind: str, group: str, index: int, template: Object) -> Object:
        assert self.cluster is not None
        cluster = self.cluster["metadata"]["name"]
        meta = copy.deepcopy(template["metadata"])
        meta["name"] = f"{cluster}-{kind}-{group}-{index}"
        meta["namespace"] = self.namespace
        meta["labels"] |= {"ray.io/cluster": cluster, "ray.io/group": group, "ray.io/node-type": kind}
        if kind == "worker":
            meta["labels"]["ray.io/replica-host-index"] = str(index)
        meta["ownerReferences"] = [owner(self.cluster, "RayCluster")]
        spec = template["spec"] | {"nodeName": f"{kind}-{index}"}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
        await self.player.api.insist("POST", path_of("pods", self.namespace), body)
        return body

    async def _pod_status(self, pod: Object, status: Object) -> None:
        path = path_of("pods", self.namespace, pod["metadata"]["name"], "status")
        await self.player.api.insist("PATCH", path, {"status": status}, content_type=MERGE)

    async def _train(self) -> None:
        run = self.run
        if run is None:
            return
        if run.struck:
            await self._follow_up()
        elif run.finished and run.changed_at + self.player.record_wait < time.monotonic():
            await self.stop()
            await self._fail("AppFailed", run.last_words())
        elif run.finished and run.recorded:
            await self.stop()
            await self._tell(jobDeploymentStatus="Complete", jobStatus="SUCCEEDED", endTime=stamp())
        elif run.advance(self.player.patience):
            if run.struck:
                await self._strike()
            else:
                self.player.keep(self.job_uid, run.saved)
                await self._touch()

    async def _touch(self) -> None:
        """Change the head, so that the operator looks at the new numbers at once and not at its next poll."""
        path = path_of("pods", self.namespace, self.pods[0]["metadata"]["name"])
        run = self.run
        assert run is not None
        note = {"metadata": {"annotations": {"player/step": f"{run.phase}-{run.step}"}}}
        await self.player.api.insist("PATCH", path, note, content_type=MERGE)

    async def _strike(self) -> None:
        kind, run = self.fate.kind, self.run
        assert run is not None
        self._beats = 0
        if kind == "preempted":
            self.player.keep(self.job_uid, run.step)
        if kind not in ("host", "head"):
            await self.stop()
        if kind == "liar":
            await self._tell(jobDeploymentStatus="Complete", jobStatus="SUCCEEDED", endTime=stamp())
        elif kind == "delete":
            await self.player.api.insist("DELETE", self.path)
        elif kind == "host":
            await self._lose_host()
        elif kind == "head":
            path = path_of("pods", self.namespace, self.pods[0]["metadata"]["name"])
            await self.player.api.insist("DELETE", path, {"gracePeriodSeconds": 0})
        else:
            await self._fail("AppFailed", run.last_words())

    async def _lose_host(self) -> None:
        state = {
            "terminated": {"exitCode": 137, "reason": "Error", "finishedAt": stamp(), "startedAt": stamp()}
        }
        container = {"name": "ray-worker", "state": state, "ready": False, "restartCount": 0}
        container |= {"image": "x", "imageID": ""}
        await self._pod_status(self.pods[-1], {"phase": "Failed", "containerStatuses": [container]})

    async def _follow_up(self) -> None:
        """A driver whose host is lost says so after a while; of one whose head is lost KubeRay says so."""
        self._beats += 1
        if self._beats < BEATS_TO_LAST_WORDS or self.fate.kind not in ("host", "head"):
            return
        await self.stop()
        if self.fate.kind == "head":
            await self._fail("JobStatusCheckTimeoutExceeded", "the dashboard does not answer")
        else:
            await self._fail("AppFailed", 'DPOJOB-RESULT {"reason":"HostLost","message":"host 1 left."}')

    async def _fail(self, reason: str, message: str) -> None:
        status = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "endTime": stamp()}
        await self._tell(**status, reason=reason, message=message)

    async def _remove_cluster(self) -> bool:
        """Delete the RayCluster; return whether it is gone."""
        if self.cluster is None:
            return True
        meta = self.cluster["metadata"]
        if meta["uid"] not in self.player.rayclusters.by_uid:
            self.cluster = None
            return True
        await self.player.api.insist("DELETE", path_of("rayclusters", self.namespace, meta["name"]))
        return False
