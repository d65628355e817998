"""Fixtures of the end-to-end tests: the local cluster with KubeRay and our chart, one namespace per test module."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hack.demo.follow import Kubectl

from tests.e2e.cluster import Namespace, make
from tests.e2e.inputs import write_inputs

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "hack" / "cluster" / "cluster"
SMALL = "v4-16"


@pytest.fixture(scope="session")
def kubectl() -> Kubectl:
    """kubectl of the running local cluster with the operator installed."""
    found = Kubectl(make(ROOT, "kubeconfig"))
    try:
        found.run("-n", "dpojob-system", "rollout", "status", "deploy/dpojob-operator", "--timeout=60s")
    except SystemExit as failed:
        pytest.fail(f"no local cluster with the operator; run `make install` first ({failed})", pytrace=False)
    return found


@pytest.fixture(scope="module")
def namespace(request: pytest.FixtureRequest, kubectl: Kubectl) -> Iterator[Namespace]:
    """A fresh namespace with Pod Security `restricted`, inputs in place, gone afterwards."""
    name = "e2e-" + request.module.__name__.rsplit("test_", 1)[1].replace("_", "-")
    store = Path(make(ROOT, "store")) / name
    kubectl.run("delete", "namespace", name, "--ignore-not-found", "--wait=true", "--timeout=120s")
    shutil.rmtree(store, ignore_errors=True)
    subprocess.run([str(CLUSTER), "namespace", name], check=True, cwd=ROOT)
    write_inputs(store / "inputs")
    yield Namespace(name, kubectl, store / "inputs", store / "outputs")
    kubectl.run("delete", "namespace", name, "--wait=true", "--timeout=120s")


def stand_for(slice_type: str) -> None:
    """Let the one node stand for the hosts of a slice."""
    subprocess.run([str(CLUSTER), "tpu", slice_type], check=True, cwd=ROOT)


@pytest.fixture(scope="session", autouse=True)
def small_slice(kubectl: Kubectl) -> None:
    """The two hosts of a v4-16, unless a module asks for others."""
    stand_for(SMALL)


@pytest.fixture(scope="module")
def single_hosts(small_slice: None) -> Iterator[None]:
    """Hosts of a v4-8 while a module runs."""
    stand_for("v4-8")
    yield
    stand_for(SMALL)


@pytest.fixture(scope="module")
def tutorial_slice(small_slice: None) -> Iterator[None]:
    """The eight hosts of a v4-64 while a module runs."""
    stand_for("v4-64")
    yield
    stand_for(SMALL)
