"""One-layer OCI archives, made without a builder: the pod tools, KubeRay and the base image."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def archive(into: Path, files: Mapping[str, Path], config: Mapping[str, Any]) -> Path:
    """Write a nameless image to the archive `into`, the same bytes for the same content.

    `files` maps paths in the image to files or folders of this machine; `config` is the image configuration's `config`.
    """
    with tempfile.TemporaryFile(dir=into.parent) as layer:
        _layer(layer, files)
        layer_digest, size = _hash(layer)
        image = _json({"architecture": "amd64", "os": "linux", "config": config,
                       "history": [{"created_by": "hack/cluster"}],
                       "rootfs": {"type": "layers", "diff_ids": [layer_digest]}})  # fmt: skip
        manifest = _json({"schemaVersion": 2, "mediaType": _MANIFEST, "config": _descriptor(_CONFIG, image),
                          "layers": [{"mediaType": _LAYER, "digest": layer_digest, "size": size}]})  # fmt: skip
        index = _json({"schemaVersion": 2, "manifests": [_descriptor(_MANIFEST, manifest)]})
        draft = into.with_name(f".{into.name}")
        with tarfile.open(draft, "w") as out:
            _add(out, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            _add(out, "index.json", index)
            for blob in (image, manifest):
                _add(out, _blob(_digest(blob)), blob)
            layer.seek(0)
            entry = tarfile.TarInfo(_blob(layer_digest))
            entry.size = size
            out.addfile(entry, layer)
    return draft.replace(into)


def repack(folder: Path, into: Path) -> Path:
    """Write the image that `buildah push dir:folder` left in `folder` to the archive `into`, its layers as they are."""
    manifest = (folder / "manifest.json").read_bytes()
    parts = json.loads(manifest)
    draft = into.with_name(f".{into.name}")
    with tarfile.open(draft, "w") as out:
        _add(out, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(out, "index.json", _json({"schemaVersion": 2, "manifests": [_descriptor(_MANIFEST, manifest)]}))
        _add(out, _blob(_digest(manifest)), manifest)
        for digest in dict.fromkeys(part["digest"] for part in (parts["config"], *parts["layers"])):
            out.add(folder / digest.removeprefix("sha256:"), arcname=_blob(digest))
    return draft.replace(into)


def index_digest(path: Path) -> str:
    """Return the digest of the index of the archive `path`, by which containerd knows the imported image."""
    with tarfile.open(path) as tar:
        return _digest(tar.extractfile("index.json").read())  # type: ignore[union-attr]


def _layer(out: IO[bytes], files: Mapping[str, Path]) -> None:
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, source in sorted(files.items()):
            tar.add(source, arcname=name, filter=_normal)
    out.seek(0)


def _normal(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime = 0
    return entry


def _hash(file: IO[bytes]) -> tuple[str, int]:
    found = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]
    return f"sha256:{found.hexdigest()}", file.tell()


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _descriptor(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(blob), "size": len(blob)}


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
