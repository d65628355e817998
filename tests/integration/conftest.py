"""The operator of this checkout as a process, against the local cluster's API server and its KubeRay.

Everything is real but the pods: their image does not exist and no node has the slice, so that they never start. An
operator that is installed in the cluster is scaled to zero meanwhile; two would share the work.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from tests.integration.world import World

ROOT = Path(__file__).resolve().parents[2]
CRD_FILE = ROOT / "crds/dpojob.io_dpojobs.yaml"
INSTALLED = ("dpojob-operator", "dpojob-system")
START_SECONDS = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder as one that needs the cluster."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)


class Operator:
    """The operator's process."""

    def __init__(self, kubeconfig: Path, namespace: str, log: Path) -> None:
        self.log = log
        self._kubeconfig = kubeconfig
        self._namespace = namespace
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is alive.

        Raises:
            AssertionError: it ended or did not answer in time.
        """
        port = free_port()
        arguments = ["--namespaces", self._namespace, "--metrics-port", "0", "--probe-port", str(port)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dpojob_operator", *arguments],
                env=os.environ | {"KUBECONFIG": str(self._kubeconfig)},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while not is_alive(port):
            assert self._process.poll() is None, f"the operator ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"the operator did not start:\n{self.log.read_text()}"
            time.sleep(0.2)

    def stop(self) -> int:
        """Ask it to end and return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=30)


def is_alive(port: int) -> bool:
    """Return whether the liveness endpoint answers well."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def api(kubeconfig: Path) -> Iterator[client.ApiClient]:
    """The API server, with this checkout's CRD and without an operator of its own."""
    api = config.new_client_from_config(str(kubeconfig))
    client.ApiextensionsV1Api(api).patch_custom_resource_definition(
        "dpojobs.dpojob.io",
        yaml.safe_load(CRD_FILE.read_text()),
        field_manager="dpojob-integration-tests",
        force=True,
        _content_type="application/apply-patch+yaml",
    )
    replicas = scale_installed(api, 0)
    yield api
    if replicas:
        scale_installed(api, replicas)


def scale_installed(api: client.ApiClient, replicas: int) -> int:
    """Scale an installed operator and return how many replicas it had before; 0 if there is none."""
    apps = client.AppsV1Api(api)
    try:
        before: int = apps.read_namespaced_deployment_scale(*INSTALLED).spec.replicas or 0
    except ApiException as error:
        if error.status == 404:
            return 0
        raise
    apps.patch_namespaced_deployment_scale(*INSTALLED, {"spec": {"replicas": replicas}})
    return before


@pytest.fixture(scope="session")
def world(api: client.ApiClient) -> Iterator[World]:
    """A namespace of this run with Pod Security `restricted`, gone afterwards."""
    name = f"operator-tests-{uuid.uuid4().hex[:6]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    core = client.CoreV1Api(api)
    core.create_namespace({"metadata": {"name": name, "labels": labels}})
    world = World(api, name)
    world.wait("the CRD is served", lambda: serves_jobs(world))
    world.wait("the default service account", lambda: world.find("serviceaccounts", "default"))
    yield world
    core.delete_namespace(name)


def serves_jobs(world: World) -> bool:
    """Return whether the API server knows DPOJobs."""
    try:
        world.request("GET", world.path("dpojobs"))
    except ApiException:
        return False
    return True


@pytest.fixture(scope="session")
def operator(kubeconfig: Path, world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """The running operator."""
    process = Operator(kubeconfig, world.namespace, tmp_path_factory.mktemp("operator") / "log.jsonl")
    process.start()
    yield process
    process.stop()


@pytest.fixture
def job(request: pytest.FixtureRequest, world: World, operator: Operator) -> Iterator[str]:
    """A job name of the test's own; the job is deleted afterwards."""
    name = f"t-{uuid.uuid4().hex[:6]}"
    yield name
    world.delete("dpojobs", name)
