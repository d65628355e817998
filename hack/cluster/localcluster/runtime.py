"""Images in containerd's k8s.io namespace, the one the kubelet uses."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from . import oci
from .paths import Paths
from .shell import Problem, run, step, wait_for


def ctr(paths: Paths, *words: str | Path, seconds: float = 60, check: bool = True) -> str:
    """Run `ctr` against the cluster's containerd."""
    return run(["ctr", "-a", paths.socket, "-n", "k8s.io", *words], seconds=seconds, check=check)


def load(paths: Paths, archive: Path, name: str) -> bool:
    """Import the OCI `archive` as `name` unless that very image is there already; tell whether it was imported.

    Raises:
        Problem: the archive is not readable, or the kubelet does not see the image in time.
    """
    if not archive.exists():
        raise Problem(f"no such archive: {archive}")
    if oci.index_digest(archive) == present(paths).get(name):
        return False
    known = set(ctr(paths, "content", "ls", "-q").split())
    step(f"importing {name} ({oci.size(archive, known) >> 20} MiB)")
    try:
        _import(paths, archive, name, known)
    except Problem:
        # A blob that no image held may have been collected since it was listed: send all of them.
        _import(paths, archive, name, set())
    wait_for(
        f"image {name} known to the kubelet", lambda: _managed(paths, name), 30, paths.log / "containerd.log"
    )
    _drop_untagged(paths)
    return True


def present(paths: Paths) -> dict[str, str]:
    """Return the images of the node: name to digest."""
    rows = (line.split() for line in ctr(paths, "images", "ls").splitlines()[1:])
    return {row[0]: row[2] for row in rows if len(row) > 2}


def clear_containers(paths: Paths) -> int:
    """Delete the records of containers that an earlier cluster left in containerd's database; return how many."""
    names = ctr(paths, "containers", "ls", "-q").split()
    if names:
        ctr(paths, "containers", "rm", *names, seconds=300, check=False)
    return len(names)


def _import(paths: Paths, archive: Path, name: str, known: set[str]) -> None:
    command = ["ctr", "-a", str(paths.socket), "-n", "k8s.io", "images", "import", "--index-name", name, "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as child:
        assert child.stdin and child.stderr
        with contextlib.suppress(BrokenPipeError), child.stdin:
            oci.stream(archive, child.stdin, known)
        said = child.stderr.read().decode(errors="replace").strip()
    if child.returncode:
        raise Problem(
            f"containerd does not take {archive} as {name}: {said}; look in {paths.log / 'containerd.log'}"
        )


def _drop_untagged(paths: Paths) -> None:
    """Remove the images that lost their name to a newer version; a running container keeps its own snapshot."""
    images = present(paths)
    named = {digest for name, digest in images.items() if not name.startswith("sha256:")}
    if stale := [
        name for name, digest in images.items() if name.startswith("sha256:") and digest not in named
    ]:
        ctr(paths, "images", "rm", *stale, seconds=300, check=False)


def _managed(paths: Paths, name: str) -> bool:
    return "io.cri-containerd.image=managed" in ctr(paths, "images", "ls", f"name=={name}")
