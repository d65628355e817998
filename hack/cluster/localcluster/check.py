"""Prerequisites, checked before anything else: what a package can fix is installed, the rest is said with its fix."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from .paths import Paths
from .shell import Problem, run, step

GIB = 1 << 30
PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "debootstrap": "debootstrap",
    "buildah": "buildah",
    "ip": "iproute2",
    "openssl": "openssl",
    "nsenter": "util-linux",
    "git": "git",
}
CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))


def check(paths: Paths) -> None:
    """Check this machine and install missing Debian packages.

    Raises:
        Problem: something is missing that this program cannot install.
    """
    problems = [*_system(), *_go(), *_room(paths)]
    if problems:
        raise Problem(
            "this machine cannot run the local cluster yet:\n" + "\n".join(f"  - {p}" for p in problems)
        )
    _install(missing_packages())


def extend_path() -> None:
    """Add the folders of Go and of the system's programs, which cron and some shells leave out of PATH."""
    os.environ["PATH"] = (
        f"{os.environ.get('PATH', '')}:/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    )


def cni_folder() -> Path | None:
    """Return the folder with the CNI plugins, or None."""
    return next((folder for folder in CNI_FOLDERS if (folder / "bridge").exists()), None)


def missing_packages() -> list[str]:
    """Return the Debian packages whose programs are not on this machine."""
    missing = {package for program, package in PACKAGES.items() if not shutil.which(program)}
    if not cni_folder():
        missing.add("containernetworking-plugins")
    return sorted(missing)


def _system() -> Iterator[str]:
    release = Path("/etc/os-release")
    if not release.exists() or not re.search(r"^ID(_LIKE)?=.*debian", release.read_text(), re.M):
        yield "it is not Debian or Ubuntu; use one of them, a virtual machine is fine"
    if os.geteuid():
        yield "you are not root; run the same command with sudo"
    if sys.version_info[:2] != (3, 11) and not shutil.which("python3.11"):
        yield f"Python 3.11 is missing, python3 is {sys.version.split()[0]}; apt-get install python3.11 python3.11-venv"


def _go() -> Iterator[str]:
    if not shutil.which("go"):
        yield "Go is missing; unpack Go 1.26 or newer to /usr/local/go and add /usr/local/go/bin to PATH"
        return
    version = run(["go", "env", "GOVERSION"]).strip()
    found = re.match(r"go(\d+)\.(\d+)", version)
    if not found or (int(found[1]), int(found[2])) < (1, 26):
        yield f"Go is {version}, needed is 1.26 or newer; unpack it to /usr/local/go"


def _room(paths: Paths) -> Iterator[str]:
    paths.cache.mkdir(parents=True, exist_ok=True)
    cold = not any((paths.cache / "bin").glob("kubernetes-*/kube"))
    needed = 20 if cold else 8
    free = shutil.disk_usage(paths.cache).free / GIB
    if free < needed:
        yield f"{free:.1f} GiB are free under {paths.cache}, needed are {needed}; free some or set DPOJOB_CACHE"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    if memory < 7.5:
        yield f"it has {memory:.1f} GiB of memory, needed are 8"
    if len(str(paths.state)) > 60:
        yield f"the path of the checkout is too long for the kubelet's sockets: {paths.checkout}; use a shorter one"


def _install(packages: list[str]) -> None:
    if not packages:
        return
    step(f"installing Debian packages: {' '.join(packages)}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-q"], env=quiet, seconds=600)
    run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages], env=quiet, seconds=1200)
    if left := missing_packages():
        raise Problem(f"still missing after apt-get install: {' '.join(left)}; install them by hand")
