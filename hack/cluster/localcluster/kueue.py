"""Kueue for RayJobs, from the manifests of its own Go module and an image around its binary.

It minds only RayJobs that carry a queue's label; every other object of the cluster never meets its webhooks. Its
visibility server is left out: this API server has no aggregation layer.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from .build import module_folder
from .identity import make_certificate
from .kube import kubectl
from .oci import archive
from .paths import Paths
from .runtime import load
from .shell import step, wait_for

IMAGE = "localhost/kueue:local"
NAMESPACE = "kueue-system"
SECRET = "kueue-webhook-server-cert"
SERVICE = f"kueue-webhook-service.{NAMESPACE}.svc"
GROUP = "kueue.x-k8s.io"
OWN_WEBHOOKS = frozenset({"clusterqueue", "cohort", "resourceflavor", "workload"})
KINDS = ("clusterqueues", "cohorts", "localqueues", "resourceflavors", "workloads", "workloadpriorityclasses")
CONFIG = """apiVersion: config.kueue.x-k8s.io/v1beta2
kind: Configuration
health: {healthProbeBindAddress: ":8081"}
metrics: {bindAddress: ":8443"}
webhook: {port: 9443}
leaderElection: {leaderElect: false}
clientConnection: {qps: 50, burst: 100}
internalCertManagement: {enable: false}
featureGates: {VisibilityOnDemand: false}
integrations: {frameworks: ["ray.io/rayjob"]}
"""

Object = dict[str, Any]


def install(paths: Paths) -> None:
    """Load Kueue's image, apply its manifests and wait until its webhooks answer."""
    binaries = module_folder(paths, "kueue")
    file = binaries / "kueue.tar"
    if not file.exists():
        files = {"manager": binaries / "kueue"}
        archive(file, files, {"Entrypoint": ["/manager"], "User": "65532:65532"})
    load(paths, file, IMAGE)
    _apply(paths, [*fitted(_objects(paths), _authority(paths)), _certificate(paths)])
    step("waiting for Kueue")
    rollout = ("rollout", "status", "deployment/kueue-controller-manager", "--timeout=180s")
    kubectl(paths, "-n", NAMESPACE, *rollout, seconds=200)
    # It is ready before its webhook server listens.
    wait_for("Kueue's webhooks answer", lambda: _answers(paths), 60, f"the logs of {NAMESPACE}")
    step("Kueue is available")


def remove(paths: Paths) -> None:
    """Take Kueue and all its objects away; RayJobs that it held back stay suspended."""
    found = [o for o in _objects(paths) if o["kind"] != "Namespace"]
    # Nobody takes the finalizers of its objects off once the controller is gone, so that goes last but one.
    hooks = [o for o in found if o["kind"].endswith("WebhookConfiguration")]
    crds = [o for o in found if o["kind"] == "CustomResourceDefinition"]
    _delete(paths, hooks)
    _delete(paths, [o for o in found if o["kind"] == "Deployment"])
    for kind in KINDS:
        _strip_finalizers(paths, f"{kind}.{GROUP}")
    _delete(paths, crds)
    _delete(paths, [o for o in found if o not in hooks and o not in crds])
    kubectl(paths, "delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=90s", seconds=100)
    step("Kueue is gone")


def fitted(objects: list[Object], authority: str) -> Iterator[Object]:
    """Yield the module's objects as this cluster needs them.

    Args:
        authority: the base64 text of the certificate that signed the webhook server's.
    """
    for body in objects:
        name, kind = body["metadata"]["name"], body["kind"]
        if kind == "APIService" or (kind == "RoleBinding" and "visibility" in name) or name == SECRET:
            continue
        if kind.endswith("WebhookConfiguration"):
            body["webhooks"] = [_narrowed(w, authority) for w in body["webhooks"] if _is_wanted(w)]
        elif kind == "CustomResourceDefinition" and "webhook" in body["spec"].get("conversion", {}):
            body["spec"]["conversion"]["webhook"]["clientConfig"]["caBundle"] = authority
        elif kind == "ConfigMap":
            body["data"]["controller_manager_config.yaml"] = CONFIG
        elif kind == "Deployment":
            _adapt(body["spec"]["template"]["spec"]["containers"][0])
        yield body


def _answers(paths: Paths) -> bool:
    flavor = {
        "apiVersion": f"{GROUP}/v1beta2",
        "kind": "ResourceFlavor",
        "metadata": {"name": "probe"},
        "spec": {},
    }
    words = ("create", "--dry-run=server", "-o", "name", "-f", "-")
    return bool(kubectl(paths, *words, stdin=json.dumps(flavor), check=False).strip())


def _is_wanted(webhook: Object) -> bool:
    """Tell whether a webhook is for RayJobs or Kueue's own kinds; names are such as mrayjob.kb.io."""
    return webhook["name"][1:].removesuffix(".kb.io") in OWN_WEBHOOKS | {"rayjob"}


def _narrowed(webhook: Object, authority: str) -> Object:
    webhook["clientConfig"]["caBundle"] = authority
    if webhook["name"].endswith("rayjob.kb.io"):
        queued = {"key": f"{GROUP}/queue-name", "operator": "Exists"}
        webhook["objectSelector"] = {"matchExpressions": [queued]}
    return webhook


def _adapt(container: Object) -> None:
    container["image"], container["imagePullPolicy"] = IMAGE, "Never"
    container["resources"] = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
    for probe in ("livenessProbe", "readinessProbe"):
        container[probe] |= {"timeoutSeconds": 20, "periodSeconds": 5}
    container["readinessProbe"]["initialDelaySeconds"] = 1
    # Without certificates of its own Kueue wants one for its metrics too.
    container["volumeMounts"].append(
        {"name": "cert", "mountPath": "/etc/kueue/metrics/certs", "readOnly": True}
    )


def _objects(paths: Paths) -> list[Object]:
    """Return the module's manifests; kubectl is the one that reads YAML here."""
    file = module_folder(paths, "kueue") / "manifests.yaml"
    text = kubectl(paths, "create", "--dry-run=client", "--validate=false", "-o", "json", "-f", str(file))
    found: list[Object] = []
    decoder, end = json.JSONDecoder(), 0
    while (start := text.find("{", end)) >= 0:
        body, end = decoder.raw_decode(text, start)
        found += body["items"] if body["kind"] == "List" else [body]
    return found


def _authority(paths: Paths) -> str:
    return base64.b64encode((paths.etc / "ca.crt").read_bytes()).decode()


def _certificate(paths: Paths) -> Object:
    make_certificate(paths.etc, "kueue", f"/CN={SERVICE}", f"subjectAltName=DNS:{SERVICE}")
    files = {"tls.crt": "kueue.crt", "tls.key": "kueue.key", "ca.crt": "ca.crt"}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": NAMESPACE},
        "type": "kubernetes.io/tls",
        "stringData": {key: (paths.etc / file).read_text() for key, file in files.items()},
    }


def _apply(paths: Paths, objects: list[Object]) -> None:
    words = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    kubectl(paths, *words, stdin=_list(objects), seconds=180)


def _delete(paths: Paths, objects: list[Object]) -> None:
    words = ("delete", "--ignore-not-found", "--timeout=90s", "-f", "-")
    kubectl(paths, *words, stdin=_list(objects), seconds=120)


def _list(objects: list[Object]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


def _strip_finalizers(paths: Paths, kind: str) -> None:
    listing = kubectl(paths, "get", kind, "-A", "--ignore-not-found", "-o", "json", check=False)
    for body in json.loads(listing)["items"] if listing.strip() else []:
        if body["metadata"].get("finalizers"):
            where = ["-n", body["metadata"]["namespace"]] if "namespace" in body["metadata"] else []
            patch = '{"metadata":{"finalizers":null}}'
            name = body["metadata"]["name"]
            kubectl(paths, *where, "patch", kind, name, "--type=merge", "-p", patch, check=False)
