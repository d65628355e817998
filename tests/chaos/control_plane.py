"""A private control plane: etcd and kube-apiserver as processes on free ports, with our CRDs and KubeRay's.

The programs are those of the local cluster (hack/cluster), compiled if the cache lacks them. There is no node and no
controller, so that it can be killed, restarted, stopped and compacted without harm to anybody.
"""

import json
import os
import random
import shutil
import socket
import tempfile
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hack.cluster.localcluster import build, daemons, identity, paths, shell

from tests.chaos.api import Connection

ROOT = Path(__file__).resolve().parents[2]
MARK = "DPOJOB_CHAOS"
"""Not the local cluster's mark, by which its `up` and `down` find what to kill."""
START_SECONDS = 120.0
FOLDER_PREFIX = "dpojob-chaos-"
PORTS = 20000, 32000
"""Below Linux's range of ports for outgoing connections."""
SERVICES = "10.97.0.0/16"


@dataclass(frozen=True)
class Folders(paths.Paths):
    """The checkout's programs and cache, with a state folder elsewhere."""

    folder: Path

    @property
    def state(self) -> Path:
        """The folder of this control plane."""
        return self.folder

    @property
    def bin(self) -> Path:
        """The checkout's own folder of links to the programs."""
        return self.checkout / ".cluster/bin"


def free_ports(number: int) -> list[int]:
    """Return TCP ports that nobody listens on and that no connection gets as its own while a server is away."""
    found: list[int] = []
    while len(found) < number:
        with socket.socket() as listener:
            port = random.SystemRandom().randrange(*PORTS)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    return found


def remove_leftovers() -> None:
    """Kill control planes whose test process is gone, by the mark in their environment, and remove their folders."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        mark = next((v.partition(b"=")[2] for v in variables if v.startswith(MARK.encode())), b"").decode()
        if FOLDER_PREFIX in mark and daemons.started(owner_of(Path(mark))) is None:
            daemons.kill([int(process.name)])
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        if daemons.started(owner_of(folder)) is None:
            shutil.rmtree(folder, ignore_errors=True)


def owner_of(folder: Path) -> int:
    """Return the pid of the process that made a state folder; it is part of the name."""
    digits = folder.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
    return int(digits) if digits.isdecimal() else os.getpid()


class ControlPlane:
    """etcd and kube-apiserver; use it as a context manager.

    Raises:
        shell.Problem: a program cannot be compiled or does not become ready; the message names its log.
    """

    def __init__(self, kuberay: bool = True) -> None:
        """Take what to install.

        Args:
            kuberay: whether KubeRay's CRDs are there from the beginning.
        """
        self._with_kuberay = kuberay

    def __enter__(self) -> "ControlPlane":
        remove_leftovers()
        here, folder = paths.here(), tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-")
        self.folders = Folders(here.checkout, here.cache, Path(folder))
        build.build(self.folders, ["net", "kubernetes", "kuberay"])
        identity.make_identity(self.folders)
        self._client, self._peer, self._secure = free_ports(3)
        self.connection = Connection(
            f"https://127.0.0.1:{self._secure}",
            identity.admin_token(self.folders),
            (self.folders.etc / "ca.crt").read_text(),
        )
        try:
            self.start()
            self.install(self.our_crds())
            if self._with_kuberay:
                self.install(self.kuberay_crds())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_apiserver()
        self.kill_etcd()
        shutil.rmtree(self.folders.state, ignore_errors=True)

    def start(self) -> None:
        """Start what does not run, and wait until the API server is ready."""
        log = daemons.log_of(self.folders, "kube-apiserver")
        shell.wait_for("the private API server ready", self._is_ready, START_SECONDS, log)

    def kill_etcd(self) -> None:
        """Kill etcd; its data stays."""
        self._kill("etcd")

    def kill_apiserver(self) -> None:
        """Kill the API server."""
        self._kill("kube-apiserver")

    def compact(self) -> None:
        """Make etcd forget every version but the newest, so that older watches end with 410 Gone."""
        head = self._etcd_call("kv/range", '{"key":"AA=="}')["header"]
        self._etcd_call("kv/compaction", f'{{"revision":"{head["revision"]}","physical":true}}')

    def our_crds(self) -> list[dict[str, Any]]:
        """Return the CRDs of this checkout."""
        return [yaml.safe_load(file.read_text()) for file in sorted((ROOT / "crds").glob("*.yaml"))]

    def kuberay_crds(self) -> list[dict[str, Any]]:
        """Return KubeRay's CRDs."""
        manifests = (build.module_folder(self.folders, "kuberay") / "manifests.yaml").read_text()
        return [
            body
            for body in yaml.load_all(manifests, yaml.CSafeLoader)
            if body and body["kind"] == "CustomResourceDefinition"
        ]

    def install(self, crds: Iterable[dict[str, Any]]) -> None:
        """Apply CRDs and wait until they are served."""
        for crd in crds:
            name = crd["metadata"]["name"]
            path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
            self.call("PATCH", f"{path}?fieldManager=chaos&force=true", json.dumps(crd))

            def established(path: str = path) -> bool:
                status = json.loads(self.call("GET", path)).get("status") or {}
                return any(
                    c["type"] == "Established" and c["status"] == "True"
                    for c in status.get("conditions") or []
                )

            shell.wait_for(f"CRD {name} served", established, 60, path)

    def call(self, method: str, path: str, body: str | None = None) -> str:
        """Call the API server.

        Raises:
            OSError: it does not answer, or refuses.
        """
        headers = {
            "Authorization": f"Bearer {self.connection.token}",
            "Content-Type": "application/apply-patch+yaml" if method == "PATCH" else "application/json",
        }
        data = body.encode() if body else None
        request = urllib.request.Request(self.connection.url + path, data, headers, method=method)
        handlers = (
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=self.connection.trust()),
        )
        with urllib.request.build_opener(*handlers).open(request, timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    def _etcd_call(self, path: str, body: str) -> dict[str, dict[str, str]]:
        url = f"http://127.0.0.1:{self._client}/v3/{path}"
        request = urllib.request.Request(url, body.encode(), method="POST")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            found: dict[str, dict[str, str]] = json.loads(answer.read())
            return found

    def _kill(self, name: str) -> None:
        pid = daemons.pid_of(self.folders, name)
        if pid is not None and daemons.kill([pid]):
            raise shell.Problem(f"{name}, pid {pid}, does not end")

    def _is_ready(self) -> bool:
        # An API server gives up when its etcd does not answer at once.
        daemons.start(self.folders, self._etcd(), MARK)
        daemons.start(self.folders, self._apiserver(), MARK)
        try:
            return self.call("GET", "/readyz") == "ok"
        except OSError:
            return False

    def _etcd(self) -> daemons.Daemon:
        client, peer = f"http://127.0.0.1:{self._client}", f"http://127.0.0.1:{self._peer}"
        return daemons.Daemon("etcd", [
            self.folders.bin / "etcd", "--data-dir", self.folders.state / "etcd", "--unsafe-no-fsync", "--log-level=warn",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
        ])  # fmt: skip

    def _apiserver(self) -> daemons.Daemon:
        etc = self.folders.etc
        # Pods need no service account here: no controller makes one.
        return daemons.Daemon("kube-apiserver", [
            self.folders.bin / "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{self._client}",
            f"--service-cluster-ip-range={SERVICES}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
            f"--secure-port={self._secure}", "--authorization-mode=AlwaysAllow", "--endpoint-reconciler-type=none",
            "--disable-admission-plugins=ServiceAccount", f"--tls-cert-file={etc / 'api.crt'}",
            f"--tls-private-key-file={etc / 'api.key'}", f"--client-ca-file={etc / 'ca.crt'}",
            f"--token-auth-file={etc / 'tokens.csv'}", "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={etc / 'sa.pub'}", f"--service-account-signing-key-file={etc / 'sa.key'}",
            "--profiling=false", "--shutdown-delay-duration=0s",
        ])  # fmt: skip
