"""A stand-in for API server, KubeRay, kubelet and trainer in one process, so that thousands of lives of a job fit into a
unit test. It is simpler than the real ones, which tests/integration and tests/e2e use; what it does keep is what the
operator relies on: resource versions, uids, names that exist once, pods that outlive their RayCluster for a while, and
KubeRay's states of a RayJob. Kueue admits what has waited for a while, and evicts where the fates say so.
"""

import asyncio
import json
from copy import deepcopy
from datetime import timedelta

import httpx
from tests.unit import operator_builders as b

from dpojob_api.constants import ANNOTATION_STOP, RECORDED_HEADER
from dpojob_api.result import TrainerResult
from dpojob_operator import kube
from dpojob_operator.desired import rayjob
from dpojob_operator.errors import ConflictError, NotFoundError, TransientError

TICK = timedelta(seconds=5)
KEY = ("ns", "j")
TOTAL, EVERY, PER_TICK = 40, 10, 4
TERMINATION_TICKS = 2
QUEUE_TICKS = 2
RECORD_TICKS = 24
LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
FAULT_RATE = 0.03
# Reasons with which the trainer itself ends in the fates below.
REASONS = {
    "preempted": "Preempted",
    "internal": "Internal",
    "data": "DatasetNotFound",
    "fenced": "Fenced",
    "nan": "NonFiniteLoss",
}


class Killed(BaseException):
    """The operator's process has ended."""


def merge(target, patch):
    """Apply a JSON merge patch (RFC 7396) in place."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = value


class StandIn:
    """The cluster. `fates` says by attempt number how a run ends and after how many ticks of training."""

    def __init__(self, fates, spec=None):
        self.now = b.NOW
        self.fates = fates
        self.objects = {}
        self.events = []
        self.created = []
        self.broken = []
        self.checkpoint = 0
        self.finished = False
        self.uids = 0
        self.kill_at = None
        self.order = None
        self.faults = None
        self.lag = None
        self.watched = None
        self.calls = 0
        self.runs = {}
        job = b.make_job({"training": {"checkpointSteps": EVERY}} | (spec or {}))
        body = json.loads(job.model_dump_json(by_alias=True, exclude_none=True))
        body["metadata"] = {
            "name": "j",
            "namespace": "ns",
            "uid": b.UID,
            "generation": 1,
            "resourceVersion": "1",
        }
        self.objects[kube.DPOJOBS, "j"] = body | {"status": {}}
        properties = {name: {} for name in rayjob.REQUIRED_FIELDS}
        schema = {"openAPIV3Schema": {"properties": {"spec": {"properties": properties}}}}
        crd = {"metadata": {}, "spec": {"versions": [{"name": "v1", "served": True, "schema": schema}]}}
        self.objects[kube.CRDS, "rayjobs.ray.io"] = crd

    # ---- the API server

    async def call(self, point):
        """Count a point before or after a call; there the operator may end, the answer get lost, others go first."""
        self.calls += 1
        if self.calls == self.kill_at:
            raise Killed(point)
        if self.faults is not None and self.faults.random() < FAULT_RATE:
            raise TransientError(f"{point}: no answer")
        if self.order is not None:
            for _ in range(self.order.randrange(4)):
                await asyncio.sleep(0)

    def stamp(self):
        return self.now.strftime("%Y-%m-%dT%H:%M:%SZ")

    def put(self, resource, body):
        self.uids += 1
        meta = body["metadata"]
        meta.setdefault("uid", f"uid-{self.uids}-")
        meta.setdefault("creationTimestamp", self.stamp())
        self.objects[resource, meta["name"]] = deepcopy(body)

    async def get(self, resource, namespace, name):
        await self.call("get")
        if (resource, name) not in self.objects:
            raise NotFoundError(name)
        return deepcopy(self.objects[resource, name])

    async def list(self, resource, namespace, selector=""):
        await self.call("list")
        label, _, value = selector.partition("=")
        return [
            deepcopy(body)
            for (kind, _), body in self.objects.items()
            if kind == resource and body["metadata"].get("labels", {}).get(label) == value
        ]

    async def apply(self, resource, body):
        await self.call("before apply")
        self.put(resource, body)
        await self.call("after apply")
        return body

    async def create(self, resource, body):
        await self.call("before create")
        name = body["metadata"].get("name")
        if resource is kube.EVENTS:
            self.events.append(body["reason"])
        elif (resource, name) in self.objects:
            raise ConflictError("exists")
        elif resource is kube.CONFIGMAPS:
            self.put(resource, body)
        else:
            self.created.append(name)
            held = [k[1] for k in self.objects if k[0] in (kube.PODS, kube.RAYCLUSTERS)]
            live = [n for n, body in self.ray_jobs() if not self.over(body)]
            if held or live:
                self.broken.append(f"{name} was created while {held + live} were there")
            self.put(resource, body)
        await self.call("after create")
        return body

    async def delete(self, resource, namespace, name, uid=None):
        await self.call("before delete")
        found = self.objects.get((resource, name))
        if found is not None:
            if uid and found["metadata"]["uid"] != uid:
                raise ConflictError("another uid")
            found["metadata"]["deletionTimestamp"] = self.stamp()
        await self.call("after delete")

    async def patch(self, resource, namespace, name, patch):
        await self.call("before patch")
        found = self.objects.get((resource, name))
        if found is None:
            raise NotFoundError(name)
        if patch["metadata"]["uid"] != found["metadata"]["uid"]:
            raise ConflictError("another uid")
        merge(found, patch)
        await self.call("after patch")
        return found

    async def patch_status(self, resource, namespace, name, patch):
        await self.call("before status")
        body = self.objects[resource, name]
        if patch["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise ConflictError("changed")
        merge(body["status"], patch["status"])
        self.touch()
        await self.call("after status")
        return body

    def touch(self):
        meta = self.job["metadata"]
        meta["resourceVersion"] = str(int(meta["resourceVersion"]) + 1)

    def show(self):
        """Let the watches show what there is, some of them later."""
        if self.watched is not None:
            self.watched.show(self.lag)

    # ---- the user

    @property
    def job(self):
        return self.objects[kube.DPOJOBS, "j"]

    def edit(self, **spec):
        """Change the spec."""
        self.job["spec"] |= spec
        self.job["metadata"]["generation"] += 1
        self.touch()

    def label(self, **labels):
        """Set labels, as at creation."""
        self.job["metadata"]["labels"] = labels
        self.touch()

    # ---- KubeRay, Kueue, the kubelet and the trainer

    def ray_jobs(self):
        return [(name, body) for (kind, name), body in self.objects.items() if kind is kube.RAYJOBS]

    def over(self, body):
        return body.get("status", {}).get("jobDeploymentStatus") in ("Complete", "Failed")

    def metrics(self, request):
        """Serve the metrics of the run behind an address."""
        run = self.runs.get(request.url.host)
        if run is None or not run["serves"]:
            return httpx.Response(503)
        text = f'dpojob_phase{{phase="{run["phase"]}"}} 1\ndpojob_step {run["step"]}\n'
        text += f"dpojob_total_steps {TOTAL}\ndpojob_finished {int(run['finished'])}\n"
        text += f"dpojob_reward_accuracy {run['accuracy']}\n"
        if run["phase"] != "starting":
            text += f"dpojob_resumed_step {run['from']}\n"
        if run["finished"] and RECORDED_HEADER in request.headers:
            run["recorded"] = True
        return httpx.Response(200, text=text)

    def tick(self):
        """Let five seconds pass."""
        self.now += TICK
        for name, body in self.ray_jobs():
            self.admit(body)
            self.advance(name, body)
        self.collect()

    def admit(self, body):
        """Kueue: start a RayJob with a queue that has waited, whoever has suspended it."""
        if LABEL_QUEUE not in body["metadata"]["labels"] or not body["spec"].get("suspend"):
            return
        body["waited"] = body.get("waited", 0) + 1
        if body["waited"] > QUEUE_TICKS:
            body["spec"]["suspend"] = False
            body["waited"] = 0

    def advance(self, name, body):
        attempt = body["metadata"]["labels"]["dpojob.io/attempt"]
        cluster = (kube.RAYCLUSTERS, f"{name}-c")
        status = body.setdefault("status", {})
        if body["metadata"].get("deletionTimestamp"):
            self.remove_cluster(name)
            if cluster not in self.objects:
                del self.objects[kube.RAYJOBS, name]
            return
        if self.over(body):
            self.remove_cluster(name)
            return
        state = status.get("jobDeploymentStatus", "")
        if body["spec"].get("suspend"):
            self.save(attempt, stopped=True)
            self.remove_cluster(name)
            status["jobDeploymentStatus"] = "Suspending" if cluster in self.objects else "Suspended"
        elif state in ("Suspending", "Suspended"):
            status["jobDeploymentStatus"] = "" if cluster not in self.objects else state
        elif state == "":
            status |= {"jobDeploymentStatus": "Initializing", "startTime": self.stamp()}
            labels = body["metadata"]["labels"] | {"ray.io/originated-from-cr-name": name}
            self.put(kube.RAYCLUSTERS, {"metadata": {"name": f"{name}-c", "labels": labels}})
        elif state == "Initializing":
            self.initialize(name, body, attempt)
        else:
            self.train(name, body, attempt)

    def fate(self, attempt):
        return self.fates.get(int(attempt), ("succeed", 99))

    def initialize(self, name, body, attempt):
        if self.fate(attempt)[0] == "capacity":
            body["status"] |= {"jobDeploymentStatus": "Failed", "reason": "PreRunningDeadlineExceeded"}
            return
        for pod, role in ((f"{name}-head", "head"), (f"{name}-0", "host"), (f"{name}-1", "host")):
            labels = body["metadata"]["labels"] | {"dpojob.io/role": role}
            if role == "host":
                labels["ray.io/replica-host-index"] = pod[-1]
            status = {"phase": "Running", "podIP": f"10.0.0.{attempt}"}
            spec = {"nodeName": f"node-{pod[-1]}"}
            self.put(kube.PODS, {"metadata": {"name": pod, "labels": labels}, "status": status, "spec": spec})
        body["status"] |= {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
        run = {"from": self.checkpoint, "step": self.checkpoint, "phase": "starting", "ticks": 0}
        run["accuracy"] = 0.25 if self.fate(attempt)[0] == "bad" else 0.75
        self.runs[f"10.0.0.{attempt}"] = run | {
            "finished": False,
            "recorded": False,
            "waited": 0,
            "serves": True,
        }

    def train(self, name, body, attempt):
        run = self.runs[f"10.0.0.{attempt}"]
        what, when = self.fate(attempt)
        run["ticks"] += 1
        if not run["serves"]:
            return
        if run["ticks"] > when:
            self.strike(what, name, body, run)
        elif run["finished"]:
            if run["recorded"]:
                body["status"] |= {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
            run["waited"] += 1
            if run["waited"] > RECORD_TICKS:
                line = TrainerResult(reason="Succeeded", message="told.", step=run["step"], recorded=False)
                self.fail(body, run, line.to_line())
        elif run["step"] == TOTAL:
            run["finished"] = self.finished = True
        elif run["phase"] == "starting":
            run["phase"] = "training"
        else:
            run["step"] = min(TOTAL, run["step"] + PER_TICK)
            self.checkpoint = max(self.checkpoint, run["step"] // EVERY * EVERY)

    def strike(self, what, name, body, run):
        if what in REASONS:
            if what == "preempted":
                self.checkpoint = max(self.checkpoint, run["step"])
            line = TrainerResult(reason=REASONS[what], message="told.", step=run["step"]).to_line()
            self.fail(body, run, line)
        elif what == "evict":
            body["spec"]["suspend"] = True
            body["waited"] = 0
        elif what == "crash":
            self.fail(body, run, "Segmentation fault")
        elif what == "liar":
            body["status"] |= {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
            run["serves"] = False
        elif what == "host":
            run["serves"] = False
            state = {"terminated": {"exitCode": 137, "reason": "Error", "finishedAt": self.stamp()}}
            pod = self.objects[kube.PODS, f"{name}-1"]
            pod["status"] |= {
                "phase": "Failed",
                "containerStatuses": [{"name": "ray-worker", "state": state}],
            }
        elif what == "head":
            run["serves"] = False
            del self.objects[kube.PODS, f"{name}-head"]
        elif what == "delete":
            body["metadata"]["deletionTimestamp"] = self.stamp()

    def fail(self, body, run, message):
        run["serves"] = False
        failed = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed"}
        body["status"] |= failed | {"message": message}

    def save(self, attempt, stopped):
        """The preStop hook: the run saves its step and ends."""
        run = self.runs.get(f"10.0.0.{attempt}")
        if run is not None and run["serves"] and not run["finished"]:
            self.checkpoint = max(self.checkpoint, run["step"])
            run["serves"] = False

    def remove_cluster(self, name):
        cluster = self.objects.get((kube.RAYCLUSTERS, f"{name}-c"))
        if cluster is not None:
            cluster["metadata"].setdefault("deletionTimestamp", self.stamp())

    def collect(self):
        """Remove RayClusters that are being deleted, and their pods a little later."""
        for (kind, name), body in list(self.objects.items()):
            gone = body["metadata"].get("deletionTimestamp")
            if kind is kube.RAYCLUSTERS and (
                gone or (kube.RAYJOBS, name.removesuffix("-c")) not in self.objects
            ):
                del self.objects[kind, name]
        clusters = {name for kind, name in self.objects if kind is kube.RAYCLUSTERS}
        for (kind, name), body in list(self.objects.items()):
            if kind is kube.PODS and f"{name.rsplit('-', 1)[0]}-c" not in clusters:
                body["ticks"] = body.get("ticks", 0) + 1
                body["metadata"].setdefault("deletionTimestamp", self.stamp())
                if body["ticks"] > TERMINATION_TICKS:
                    del self.objects[kind, name]

    def stops_asked(self):
        """Return the RayJobs that the operator has asked to stop."""
        return [n for n, r in self.ray_jobs() if ANNOTATION_STOP in r["metadata"].get("annotations", {})]
