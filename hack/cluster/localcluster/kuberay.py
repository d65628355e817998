"""KubeRay, from the manifests of its own Go module and an image around its binary."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from .build import module_folder
from .kube import kubectl
from .oci import archive
from .paths import Paths
from .runtime import load
from .shell import step

IMAGE = "localhost/kuberay-operator:local"
NAMESPACE = "kuberay-system"
_CONTAINER = "/spec/template/spec/containers/0"
# Injected wait containers poll with `ray health-check`, seconds of CPU each: eight of them starve a small machine. And at
# the stock limit of 100m the operator loses its lease as soon as the machine is busy.
_PATCH = [
    {"op": "replace", "path": f"{_CONTAINER}/image", "value": IMAGE},
    {"op": "add", "path": f"{_CONTAINER}/env", "value": [{"name": "ENABLE_INIT_CONTAINER_INJECTION", "value": "false"}]},
    {"op": "replace", "path": f"{_CONTAINER}/resources", "value": {
        "requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}}},
    {"op": "add", "path": f"{_CONTAINER}/livenessProbe/timeoutSeconds", "value": 20},
    {"op": "add", "path": f"{_CONTAINER}/readinessProbe/timeoutSeconds", "value": 20},
    {"op": "replace", "path": f"{_CONTAINER}/readinessProbe/initialDelaySeconds", "value": 1},
]  # fmt: skip


def install(paths: Paths) -> None:
    """Load KubeRay's image, apply its manifests and wait until the operator is available."""
    binaries = module_folder(paths, "kuberay")
    file = binaries / "kuberay-operator.tar"
    if not file.exists():
        with tempfile.TemporaryDirectory() as empty:
            files = {"manager": binaries / "kuberay-operator", "tmp": Path(empty)}
            archive(file, files, {"Entrypoint": ["/manager"], "User": "65532:65532"})
    load(paths, file, IMAGE)
    manifests = _manifests(paths, binaries / "manifests.yaml")
    kubectl(paths, "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=manifests, seconds=120)
    step("waiting for KubeRay")
    kubectl(
        paths,
        "-n",
        NAMESPACE,
        "rollout",
        "status",
        "deployment/kuberay-operator",
        "--timeout=180s",
        seconds=200,
    )
    step("KubeRay is available")


def _manifests(paths: Paths, module_manifests: Path) -> str:
    overlay = {
        "namespace": NAMESPACE,
        "resources": ["manifests.yaml", "namespace.yaml"],
        "patches": [
            {"target": {"kind": "Deployment", "name": "kuberay-operator"}, "patch": json.dumps(_PATCH)}
        ],
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "manifests.yaml").write_text(module_manifests.read_text())
        (folder / "namespace.yaml").write_text(json.dumps(namespace))
        (folder / "kustomization.yaml").write_text(json.dumps(overlay))
        return kubectl(paths, "kustomize", name)
