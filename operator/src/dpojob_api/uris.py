"""Where models, data sets and outputs live: ``hf://``, ``gs://`` and ``pvc://`` URIs.

``pvc://claim/path`` names a PersistentVolumeClaim of the DPOJob's namespace. The operator mounts the claim and the
trainer reads the mount; both take the folder from :func:`pvc_mount`. Outside a cluster any folder can stand for a claim.
"""

import json
import os
from dataclasses import dataclass

from dpojob_api.constants import CLAIMS_VARIABLE, PVC_MOUNT_ROOT

INPUT_PATTERN = r"^(hf://[A-Za-z0-9][\w.-]*/[\w.-]+|gs://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](/[^\s]*)?|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^\s]*)?)$"
OUTPUT_PATTERN = (
    r"^(gs://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](/[^\s]*)?|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^\s]*)?)$"
)


@dataclass(frozen=True)
class Uri:
    """A parsed URI: the scheme, what stands before the first slash, and the rest.

    For ``hf://org/name`` the root is ``org/name``; for ``gs://bucket/a/b`` the bucket; for ``pvc://claim/a`` the claim.
    """

    scheme: str
    root: str
    path: str


def parse_uri(uri: str) -> Uri:
    """Split a URI that admission has let through.

    Raises:
        ValueError: the scheme is not hf, gs or pvc.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in ("hf", "gs", "pvc"):
        raise ValueError(f"{uri!r}: use hf://org/name, gs://bucket/path or pvc://claim/path")
    if scheme == "hf":
        return Uri(scheme, rest, "")
    root, _, path = rest.partition("/")
    return Uri(scheme, root, path.strip("/"))


def pvc_claim(uri: str) -> str | None:
    """Return the claim that a ``pvc://`` URI names, None for other schemes."""
    parsed = parse_uri(uri)
    return parsed.root if parsed.scheme == "pvc" else None


def pvc_mount(claim: str) -> str:
    """Return the folder at which the operator mounts a claim in every Ray container."""
    return f"{PVC_MOUNT_ROOT}/{claim}"


def claim_folder(claim: str) -> str:
    """Return a claim's folder for this process: its mount, unless ``CLAIMS_VARIABLE``, a JSON object, names another."""
    named: dict[str, str] = json.loads(os.environ.get(CLAIMS_VARIABLE, "{}"))
    return named.get(claim, pvc_mount(claim))


def local_path(uri: str) -> str:
    """Return the folder or file behind a ``pvc://`` URI for this process.

    Raises:
        ValueError: another scheme.
    """
    parsed = parse_uri(uri)
    if parsed.scheme != "pvc":
        raise ValueError(f"{uri!r} is not a pvc:// URI")
    return f"{claim_folder(parsed.root)}/{parsed.path}".rstrip("/")
