"""Volumes of the Ray containers: the configuration, scratch space and the claims behind ``pvc://`` URIs."""

from typing import Any

from dpojob_api import constants
from dpojob_api.spec import DPOJobSpec
from dpojob_api.uris import pvc_claim, pvc_mount


def claims(spec: DPOJobSpec) -> dict[str, bool]:
    """Return the claims that a spec names, each with whether it is only read."""
    reads = {pvc_claim(spec.model.uri), pvc_claim(spec.dataset.uri)}
    written = (spec.output.uri, spec.output.cache_uri)
    writes = {pvc_claim(uri) for uri in written if uri is not None}
    names = sorted(claim for claim in reads | writes if claim is not None)
    return {name: name not in writes for name in names}


def volumes(spec: DPOJobSpec, config_map: str) -> list[dict[str, Any]]:
    """Return a Ray pod's volumes."""
    own: list[dict[str, Any]] = [
        {"name": "config", "configMap": {"name": config_map}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        {"name": "tmp", "emptyDir": {}},
    ]
    return own + [
        {"name": f"claim-{i}", "persistentVolumeClaim": {"claimName": name, "readOnly": read_only}}
        for i, (name, read_only) in enumerate(claims(spec).items())
    ]


def mounts(spec: DPOJobSpec) -> list[dict[str, Any]]:
    """Return a Ray container's mounts; Ray's object store is in /dev/shm and its sessions are in /tmp/ray."""
    own: list[dict[str, Any]] = [
        {"name": "config", "mountPath": constants.CONFIG_DIR, "readOnly": True},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    return own + [
        {"name": f"claim-{i}", "mountPath": pvc_mount(name), "readOnly": read_only}
        for i, (name, read_only) in enumerate(claims(spec).items())
    ]
