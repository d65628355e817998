"""What the cluster holds from the start: DNS rights, the node as a TPU host, stores, and proof that a pod runs."""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any

from .identity import NODE
from .kube import apply, get, kubectl
from .paths import Paths
from .shell import Problem, step, wait_for
from .tools import PROBE

TOPOLOGIES = {"v4-16": "2x2x2", "v4-8": "2x2x1", "v4-64": "2x4x4"}
CHIPS = "32"
USER_ID = 1000
STORES = ("inputs", "outputs")


def apply_base(paths: Paths) -> None:
    """Bring the objects of a fresh cluster to their wanted state; safe on a cluster in use."""
    apply(paths, *_dns_rights())
    wait_for("namespace default", lambda: get(paths, "serviceaccount", "default") is not None, 60,
             paths.log / "kube-controller-manager.log")  # fmt: skip
    apply(paths, _namespace("default"))
    make_stores(paths, "default")
    wait_for(
        f"node {NODE} registered", lambda: get(paths, "node", NODE) is not None, 60, paths.log / "kubelet.log"
    )
    current = (get(paths, "node", NODE) or {})["metadata"]["labels"].get("cloud.google.com/gke-tpu-topology")
    kinds = [kind for kind, topology in TOPOLOGIES.items() if topology == current]
    make_tpu_host(paths, kinds[0] if kinds else "v4-16")
    step("the node is registered as a TPU host")


def make_tpu_host(paths: Paths, kind: str) -> None:
    """Label the node as a host of a `kind` slice and give it chips, as GKE's device plugin would.

    Raises:
        Problem: `kind` is none of TOPOLOGIES.
    """
    if kind not in TOPOLOGIES:
        raise Problem(f"unknown TPU slice {kind}; known are {', '.join(TOPOLOGIES)}")
    prefix = "cloud.google.com/gke-tpu"
    labels = (f"{prefix}-accelerator=tpu-v4-podslice", f"{prefix}-topology={TOPOLOGIES[kind]}")
    kubectl(paths, "label", "node", NODE, "--overwrite", *labels)
    chips = [{"op": "add", "path": "/status/capacity/google.com~1tpu", "value": CHIPS}]
    kubectl(paths, "patch", "node", NODE, "--subresource=status", "--type=json", "-p", json.dumps(chips))
    wait_for("google.com/tpu allocatable", lambda: _chips(paths) == CHIPS, 30, paths.log / "kubelet.log")


def make_namespace(paths: Paths, name: str) -> None:
    """Make the namespace `name` under Pod Security `restricted`, with stores of its own.

    Raises:
        Problem: `name` is not a label of RFC 1123, or is the name of a store.
    """
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?", name) or name in STORES:
        raise Problem(f"{name} is no name for a namespace here: lower-case letters, digits and -, at most 52")
    apply(paths, _namespace(name))
    make_stores(paths, name)


def make_stores(paths: Paths, namespace: str) -> None:
    """Make folders, volumes and bound claims dpo-inputs and dpo-outputs for `namespace`."""
    base = paths.store if namespace == "default" else paths.store / namespace
    for store in STORES:
        folder = base / store
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o2775)
        os.chown(folder, USER_ID, USER_ID)
        volume = f"dpo-{store}-{namespace}"
        if _phase(paths, "pv", volume) in {"Released", "Failed"}:
            kubectl(paths, "delete", "pv", volume)
        apply(paths, *_store_objects(namespace, store, volume, str(folder)))
    for store in STORES:
        claim = ("pvc", f"dpo-{store}", "-n", namespace)
        log = paths.log / "kube-controller-manager.log"
        wait_for(f"claim dpo-{store} bound", lambda c=claim: _phase(paths, *c) == "Bound", 60, log)  # type: ignore[misc]


def node_ready(paths: Paths) -> bool:
    """Tell whether the node's Ready condition is True."""
    node = get(paths, "node", NODE)
    conditions = node["status"].get("conditions", []) if node else []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def prove_pod(paths: Paths) -> None:
    """Run a pod that reads its token and asks the API server through DNS and ClusterIP; fail when it does not succeed."""
    name = f"probe-{time.time_ns() % 10**10}"
    apply(paths, _probe(name))
    try:
        done = {"Succeeded", "Failed"}
        wait_for(
            "a test pod ended", lambda: _phase(paths, "pod", name) in done, 90, paths.log / "kubelet.log"
        )
        if _phase(paths, "pod", name) != "Succeeded":
            said = kubectl(paths, "logs", name, check=False).strip()
            raise Problem(f"the test pod failed: {said}; look in {paths.log}/coredns.log and kube-proxy.log")
    finally:
        kubectl(paths, "delete", "pod", name, "--wait=false", "--grace-period=0", "--force", check=False)
    step("node Ready, DNS answers, a pod with its token reaches the API server")


def _chips(paths: Paths) -> str | None:
    node = get(paths, "node", NODE)
    return node["status"].get("allocatable", {}).get("google.com/tpu") if node else None


def _phase(paths: Paths, *words: str) -> str | None:
    found = get(paths, *words)
    return found["status"].get("phase") if found else None


def _namespace(name: str) -> dict[str, Any]:
    level = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": level}}


def _dns_rights() -> list[dict[str, Any]]:
    group = "rbac.authorization.k8s.io"
    read = ["get", "list", "watch"]
    rules = [
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": read},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
    ]
    name = {"name": "system:coredns"}
    role = {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": name, "rules": rules}
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": name,
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", **name},
        "subjects": [{"apiGroup": group, "kind": "User", **name}],
    }
    return [role, binding]


def _store_objects(namespace: str, store: str, volume: str, folder: str) -> list[dict[str, Any]]:
    size = {"storage": "100Gi"}
    claim = f"dpo-{store}"
    shared: dict[str, Any] = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": shared
            | {
                "capacity": size,
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": folder, "type": "Directory"},
                "claimRef": {"namespace": namespace, "name": claim},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim, "namespace": namespace},
            "spec": shared | {"volumeName": volume, "resources": {"requests": size}},
        },
    ]


def _probe(name: str) -> dict[str, Any]:
    locked_down = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "probe", "image": PROBE, "imagePullPolicy": "Never", "securityContext": locked_down}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }
