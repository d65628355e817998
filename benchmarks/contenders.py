"""The two operators that are compared, as processes of this machine against a private control plane.

Kubeflow Trainer's and JobSet's admission webhooks are left out: what they would default is spelled out in the runtime, so
the peer does less work than in a cluster, not more. The peer's jobs are suspended and no KubeRay acts on ours, so neither
waits for pods.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml
from hack.cluster.localcluster import build
from hack.cluster.localcluster.shell import run, write
from tests.chaos.control_plane import ControlPlane, free_ports
from tests.chaos.operators import kubeconfig

from benchmarks.burst import Kind, until
from benchmarks.measure import WRITES, requests

Object = dict[str, Any]

START_SECONDS = 180.0
RUNTIME = "bench"
TRAINER, JOBSET = "github.com/kubeflow/trainer/v2", "sigs.k8s.io/jobset"
TRAINER_CRDS, JOBSET_CRDS = "manifests/base/crds", "config/components/crd/bases"


class Contender(Protocol):
    """An operator under measurement."""

    name: str
    words: str

    def start(self, namespace: str) -> None:
        """Start it and wait until it is ready."""

    def stop(self) -> None:
        """Kill it."""

    @property
    def pids(self) -> list[int]:
        """Its processes."""

    def kinds(self, namespace: str) -> tuple[Kind, Kind]:
        """Return what is created, and what it makes of it."""

    def body(self, name: str, namespace: str) -> Object:
        """Return a job."""


class Processes:
    """Processes with their output in the control plane's folder."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.running: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> list[int]:
        """The processes that were started."""
        return [process.pid for process in self.running]

    def spawn(self, command: list[str | Path], **variables: str) -> None:
        """Start a process."""
        log = self.plane.folders.log / f"{Path(command[0]).name}.log"
        cache = {
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(self.plane.folders.state / "pycache"),
        }
        env = os.environ | {"KUBECONFIG": str(write_kubeconfig(self.plane))} | cache | variables
        with log.open("ab") as out:
            self.running.append(
                subprocess.Popen([str(word) for word in command], env=env, stdout=out, stderr=out)
            )

    def stop(self) -> None:
        """Kill them."""
        for process in self.running:
            process.kill()
            process.wait()
        self.running.clear()


def write_kubeconfig(plane: ControlPlane) -> Path:
    """Write the kubeconfig of a control plane and return its path."""
    link, etc = plane.connection, plane.folders.etc
    return write(etc / "bench.kubeconfig", kubeconfig(link.url, link.token, etc / "ca.crt"), 0o600)


def answers(url: str) -> str | None:
    """Return what a port of this machine answers, None if it does not."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return None


class Ours(Processes):
    """The operator of this checkout."""

    name = "dpojob"
    words = "DPOJob to RayJob"

    def start(self, namespace: str) -> None:
        """Start it and wait until it is ready."""
        self.metrics_port, self._probe_port = free_ports(2)
        ports: list[str | Path] = [
            "--metrics-port",
            str(self.metrics_port),
            "--probe-port",
            str(self._probe_port),
        ]
        self.spawn([sys.executable, "-m", "dpojob_operator", "--namespaces", namespace, *ports])
        probe = f"http://127.0.0.1:{self._probe_port}/readyz"
        until("the operator ready", lambda: answers(probe) is not None, START_SECONDS, 0.1)

    def metrics(self) -> str:
        """Return its own metrics, nothing while it does not answer."""
        return answers(f"http://127.0.0.1:{self.metrics_port}/metrics") or ""

    def kinds(self, namespace: str) -> tuple[Kind, Kind]:
        """Return what is created, and what it makes of it."""
        jobs = Kind(f"/apis/dpojob.io/v1alpha1/namespaces/{namespace}/dpojobs")
        return jobs, Kind(f"/apis/ray.io/v1/namespaces/{namespace}/rayjobs", "-a1")

    def body(self, name: str, namespace: str) -> Object:
        """Return a job of two hosts."""
        spec = {
            "model": {"uri": "hf://org/model"},
            "dataset": {"uri": "hf://org/data"},
            "accelerator": {"type": "v4-16"},
            "output": {"uri": f"gs://bucket/{name}"},
            "plan": {"enforce": "Off"},
            "runtime": {"image": "localhost/absent:none", "platform": "cpu"},
        }
        meta = {"name": name, "namespace": namespace}
        return {"apiVersion": "dpojob.io/v1alpha1", "kind": "DPOJob", "metadata": meta, "spec": spec}


class Peer(Processes):
    """Kubeflow Trainer and JobSet."""

    name = "kubeflow-trainer"
    words = "TrainJob to JobSet"

    def install(self) -> None:
        """Compile what the cache lacks, and install CRDs and a runtime."""
        folders = self.plane.folders
        build.build(folders, ["trainer"])
        for module, folder in ((TRAINER, TRAINER_CRDS), (JOBSET, JOBSET_CRDS)):
            command = ["go", "list", "-m", "-f", "{{.Dir}}", module]
            where = Path(run(command, cwd=folders.modules / "trainer").strip()) / folder
            bodies = [yaml.safe_load(file.read_text()) for file in sorted(where.glob("*.yaml"))]
            self.plane.install([body for body in bodies if body["kind"] == "CustomResourceDefinition"])
        path = f"/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes/{RUNTIME}?fieldManager=bench&force=true"
        self.plane.call("PATCH", path, json.dumps(runtime()))

    def start(self, namespace: str) -> None:
        """Start both and wait until they are ready."""
        hooks, jobset_hooks, probe, jobset_probe = free_ports(4)
        etc = self.plane.folders.etc
        serving_certificates(self.plane)
        off = {"leaderElection": {"leaderElect": False}}
        trainer = off | {
            "apiVersion": "config.trainer.kubeflow.org/v1alpha1",
            "kind": "Configuration",
            "health": {"healthProbeBindAddress": f"127.0.0.1:{probe}"},
            "metrics": {"bindAddress": "0", "secureServing": False},
            "webhook": {"port": hooks, "host": "127.0.0.1"},
            "controller": {"groupKindConcurrency": {"TrainJob.trainer.kubeflow.org": 5}},
            "certManagement": {"enable": False},
        }
        jobset = off | {
            "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
            "kind": "Configuration",
            "health": {"healthProbeBindAddress": f"127.0.0.1:{jobset_probe}"},
            "metrics": {"bindAddress": "0"},
            "webhook": {"port": jobset_hooks, "host": "127.0.0.1"},
            "internalCertManagement": {"enable": False},
        }
        for name, config in (("trainer-controller-manager", trainer), ("jobset", jobset)):
            file = write(etc / f"{name}.yaml", yaml.safe_dump(config))
            self.spawn([self.plane.folders.bin / name, "--config", file], TMPDIR=str(etc))
        for port in (probe, jobset_probe):
            url = f"http://127.0.0.1:{port}/readyz"
            until("the peer ready", lambda url=url: answers(url) is not None, START_SECONDS, 0.1)  # type: ignore[misc]

    def kinds(self, namespace: str) -> tuple[Kind, Kind]:
        """Return what is created, and what it makes of it."""
        jobs = Kind(f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{namespace}/trainjobs")
        return jobs, Kind(f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{namespace}/jobsets")

    def body(self, name: str, namespace: str) -> Object:
        """Return a suspended job."""
        spec = {"runtimeRef": {"name": RUNTIME}, "trainer": {"numNodes": 1}, "suspend": True}
        meta = {"name": name, "namespace": namespace}
        return {
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "kind": "TrainJob",
            "metadata": meta,
            "spec": spec,
        }


def serving_certificates(plane: ControlPlane) -> None:
    """Put a certificate where the peer's servers look for theirs."""
    for server in ("k8s-webhook-server", "k8s-metrics-server"):
        folder = plane.folders.etc / server / "serving-certs"
        folder.mkdir(parents=True, exist_ok=True)
        for name, file in (("tls.crt", "api.crt"), ("tls.key", "api.key")):
            shutil.copy(plane.folders.etc / file, folder / name)


def runtime() -> Object:
    """Return a runtime of one pod, with everything spelled out that JobSet's webhook would default."""
    container = {"name": "node", "image": "localhost/absent:none", "command": ["sleep", "1"]}
    pod = {"restartPolicy": "Never", "containers": [container]}
    labels = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    job = {"metadata": {"labels": labels}, "spec": {"completionMode": "Indexed", "template": {"spec": pod}}}
    spec = {
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
        "successPolicy": {"operator": "All"},
        "startupPolicy": {"startupPolicyOrder": "AnyOrder"},
        "replicatedJobs": [{"name": "node", "template": job}],
    }
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "ClusterTrainingRuntime",
        "metadata": {"name": RUNTIME, "labels": {"trainer.kubeflow.org/framework": "torch"}},
        "spec": {
            "mlPolicy": {"numNodes": 1, "torch": {"numProcPerNode": "auto"}},
            "template": {"spec": spec},
        },
    }


def make_bodies(contender: Contender, namespace: str, number: int) -> Mapping[str, Object]:
    """Return so many jobs by name."""
    names = [f"job-{index:05d}" for index in range(number)]
    return {name: contender.body(name, namespace) for name in names}


def make_namespace(plane: ControlPlane, name: str) -> None:
    """Create a namespace that was not there."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    plane.call("POST", "/api/v1/namespaces", json.dumps(body))


def settle(plane: ControlPlane, quiet: float, seconds: float) -> str:
    """Wait until nothing was written for a while and return the API server's metrics.

    Raises:
        SystemExit: it took too long.
    """
    deadline, last, since = time.monotonic() + seconds, -1, time.monotonic()
    while True:
        text = plane.call("GET", "/metrics")
        number = sum(count for (verb, _), count in requests(text).items() if verb in WRITES)
        now = time.monotonic()
        if number != last:
            last, since = number, now
        elif now - since >= quiet:
            return text
        if now > deadline:
            raise SystemExit(f"the API server is still written to after {seconds:.0f} s")
        time.sleep(1)
