"""Images as files: one-layer archives made without a builder, and builds as an index over blobs they share."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Container, Mapping
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


def adopt(folder: Path, into: Path) -> Path:
    """Move the image that `buildah push dir:folder` left in `folder` into the shared blobs beside `into`, its index.

    Versions of an image differ in their last layers: as shared blobs the large ones are stored and imported once.
    """
    blobs = into.parent / "blobs"
    blobs.mkdir(exist_ok=True)
    manifest = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").rename(blobs / _hex(_digest(manifest)))
    for digest in _parts(manifest):
        if (folder / _hex(digest)).exists():
            (folder / _hex(digest)).replace(blobs / _hex(digest))
    draft = into.with_name(f".{into.name}")
    draft.write_bytes(_json({"schemaVersion": 2, "manifests": [_descriptor(_MANIFEST, manifest)]}))
    return draft.replace(into)


def size(path: Path, without: Container[str] = ()) -> int:
    """Return the bytes of the archive or index `path`, not counting the digests `without`."""
    if path.suffix == ".tar":
        return path.stat().st_size
    return sum((path.parent / "blobs" / _hex(d)).stat().st_size for d in _blobs(path) if d not in without)


def sweep(folder: Path) -> None:
    """Delete the blobs that no index in `folder` names."""
    used = {_hex(digest) for index in folder.glob("*.json") for digest in _blobs(index)}
    for blob in (folder / "blobs").iterdir():
        if blob.name not in used:
            blob.unlink()


def stream(path: Path, out: IO[bytes], without: Container[str] = ()) -> None:
    """Write the image `path` to `out` as an OCI archive, leaving out the blobs that the reader has, `without`."""
    if path.suffix == ".tar":
        with path.open("rb") as archived:
            shutil.copyfileobj(archived, out, 1 << 20)
        return
    with tarfile.open(fileobj=out, mode="w|") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(tar, "index.json", path.read_bytes())
        for digest in _blobs(path):
            if digest not in without:
                tar.add(path.parent / "blobs" / _hex(digest), arcname=_blob(digest))


def index_digest(path: Path) -> str:
    """Return the digest of the index of the image `path`, by which containerd knows it once imported."""
    if path.suffix == ".json":
        return _digest(path.read_bytes())
    with tarfile.open(path) as tar:
        return _digest(tar.extractfile("index.json").read())  # type: ignore[union-attr]


def _blobs(index: Path) -> list[str]:
    found = [manifest["digest"] for manifest in json.loads(index.read_bytes())["manifests"]]
    manifests = [(index.parent / "blobs" / _hex(digest)).read_bytes() for digest in found]
    return list(dict.fromkeys([*found, *(part for manifest in manifests for part in _parts(manifest))]))


def _parts(manifest: bytes) -> list[str]:
    parts = json.loads(manifest)
    return [part["digest"] for part in (parts["config"], *parts["layers"])]


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


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
    return f"blobs/sha256/{_hex(digest)}"


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
