"""The chart as Helm renders it, and its installation on the local cluster."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/dpojob-operator"
HELM_SECONDS = 180

Manifest = dict[str, Any]


class Helm:
    """Runs helm and, where it should fail, returns why."""

    def __init__(self, binary: str, kubeconfig: Path | None = None) -> None:
        self.binary = binary
        self.environment = os.environ | ({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.binary, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=HELM_SECONDS,
            check=False,
        )

    def succeed(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fail(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode != 0, f"helm {' '.join(arguments)} should have failed"
        return done.stderr + done.stdout


class Rendered:
    """The objects that the chart makes of some values."""

    def __init__(self, objects: list[Manifest]) -> None:
        self.objects = objects

    def named(self, kind: str) -> dict[str, Manifest]:
        return {o["metadata"]["name"]: o for o in self.objects if o["kind"] == kind}

    def one(self, kind: str) -> Manifest:
        (found,) = (o for o in self.objects if o["kind"] == kind)
        return found


@pytest.fixture(scope="session")
def helm() -> Helm:
    return Helm(_program("helm"))


@pytest.fixture(scope="session")
def render(helm: Helm) -> Callable[..., Rendered]:
    """Render the chart, by default as release ``dpojob`` in namespace ``dpojob-system``."""

    def with_values(
        values: Manifest | None = None, release: str = "dpojob", namespace: str = "dpojob-system"
    ) -> Rendered:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(values or {}, file)
            file.flush()
            text = helm.succeed(
                "template", release, str(CHART), "--namespace", namespace, "--values", file.name
            )
        return Rendered([o for o in yaml.safe_load_all(text) if o])

    return with_values


@pytest.fixture(scope="session")
def cluster_helm(kubeconfig: Path) -> Helm:
    return Helm(_program("helm"), kubeconfig)


@pytest.fixture(scope="session")
def kubectl() -> str:
    return _program("kubectl")


def _program(name: str) -> str:
    local = ROOT / ".cluster/bin" / name
    found = str(local) if local.exists() else shutil.which(name)
    if not found:
        pytest.fail(f"no {name}: run make cluster-build", pytrace=False)
    return found
