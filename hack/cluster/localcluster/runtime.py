"""Images in containerd's k8s.io namespace, the one the kubelet uses."""

from __future__ import annotations

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
    step(f"importing {name} ({archive.stat().st_size >> 20} MiB)")
    ctr(paths, "images", "import", "--index-name", name, archive, seconds=600)
    wait_for(
        f"image {name} known to the kubelet", lambda: _managed(paths, name), 30, paths.log / "containerd.log"
    )
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


def _managed(paths: Paths, name: str) -> bool:
    return "io.cri-containerd.image=managed" in ctr(paths, "images", "ls", f"name=={name}")
