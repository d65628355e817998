"""What a cluster leaves on the machine, whoever started it and however it died: found by mark and name, and removed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from .daemons import kill, terminate
from .paths import MACHINE, MARK, OWNER, Paths
from .shell import Problem, run, step, write

CGROUP = "dpojob-cluster"
CGROUPS = Path("/sys/fs/cgroup")
NETWORK_NAMESPACES = Path("/run/netns")
_CHAINS = re.compile(r"KUBE-|CNI-")


def marked() -> dict[int, Path]:
    """Return every process of a local cluster on this machine with the state folder it belongs to."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for item in (entry / "environ").read_bytes().split(b"\0"):
                if item.startswith(MARK.encode() + b"="):
                    found[int(entry.name)] = Path(os.fsdecode(item.partition(b"=")[2]))
    return found


def owner() -> Path | None:
    """Return the checkout that last brought a cluster up on this machine since it booted."""
    try:
        return Path(json.loads(OWNER.read_text())["checkout"])
    except (OSError, ValueError, KeyError):
        return None


def claim(paths: Paths) -> None:
    """Record this checkout as the owner of the machine's cluster."""
    write(OWNER, json.dumps({"checkout": str(paths.checkout), "state": str(paths.state)}))


def remove_everything(bridge: str) -> None:
    """Kill all pods and processes of any local cluster and remove its mounts, cgroups, bridge and iptables rules.

    Raises:
        Problem: a process does not die.
    """
    processes = marked()
    # containerd first and gently: its database of images is shared by all checkouts.
    for pid in [pid for pid in processes if _name(pid) == "containerd"]:
        terminate(pid, 3)
    left = kill(_container_pids())
    left += kill(marked())
    left += kill(_container_pids())
    if left:
        raise Problem(
            f"processes {left} do not die; see `ps -fp {' '.join(map(str, left))}`, or restart the machine"
        )
    _remove_cgroups()
    _remove_network(bridge)
    shutil.rmtree(MACHINE, ignore_errors=True)
    OWNER.unlink(missing_ok=True)


def make_cgroups() -> None:
    """Make the cgroup that holds every pod, in each hierarchy (version 1) or with all controllers (version 2)."""
    for parent in _hierarchies():
        (parent / CGROUP).mkdir(exist_ok=True)
    controllers = CGROUPS / "cgroup.controllers"
    if controllers.exists():
        enable = " ".join(f"+{name}" for name in controllers.read_text().split())
        for folder in (CGROUPS, CGROUPS / CGROUP):
            (folder / "cgroup.subtree_control").write_text(enable)
    cpuset = CGROUPS / "cpuset"
    for item in ("cpuset.cpus", "cpuset.mems"):
        if (cpuset / item).exists():
            (cpuset / CGROUP / item).write_text((cpuset / item).read_text())


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _hierarchies() -> list[Path]:
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [p for p in CGROUPS.iterdir() if p.is_dir() and not p.is_symlink() and p.name != "unified"]


def _container_pids() -> set[int]:
    files = (file for parent in _hierarchies() for file in (parent / CGROUP).rglob("cgroup.procs"))
    return {int(pid) for file in files for pid in _lines(file)}


def _lines(file: Path) -> Iterable[str]:
    with contextlib.suppress(OSError):
        return file.read_text().split()
    return ()


def _remove_cgroups() -> None:
    for parent in (*_hierarchies(), CGROUPS / "unified"):
        top = parent / CGROUP
        for folder in sorted((p for p in top.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts)):
            with contextlib.suppress(OSError):
                folder.rmdir()
        with contextlib.suppress(OSError):
            top.rmdir()


def _remove_network(bridge: str) -> None:
    run(["ip", "link", "delete", bridge], check=False)
    for file in NETWORK_NAMESPACES.glob("cni-*"):
        run(["umount", "-l", file], check=False)
        with contextlib.suppress(OSError):
            file.unlink()
    for family in ("iptables", "ip6tables"):
        _remove_rules(family)


def _remove_rules(family: str) -> None:
    if not shutil.which(f"{family}-save"):
        return
    rules = run([f"{family}-save"], check=False)
    kept = rules_of_others(rules)
    if kept == rules:
        return
    step(f"removing the cluster's {family} rules")
    run([f"{family}-restore"], stdin=kept, check=False)


def rules_of_others(rules: str) -> str:
    """Return the output of iptables-save without the chains of kube-proxy and the CNI plugins and the jumps to them."""
    return "".join(line for line in rules.splitlines(keepends=True) if not _CHAINS.search(line))
