"""Where things are: the checkout, its state folder, the cache that all checkouts share, and the machine's own places."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MACHINE = Path("/run/dpojob-cluster")
OWNER = Path("/run/dpojob-cluster.json")
MARK = "DPOJOB_CLUSTER"


@dataclass(frozen=True)
class Paths:
    """Every folder and file that more than one module uses.

    `state` belongs to one checkout and may be deleted when the cluster is down; `cache` holds what is expensive to make
    and keyed by content, so that a second clone makes nothing again.
    """

    checkout: Path
    cache: Path

    @property
    def state(self) -> Path:
        return self.checkout / ".cluster"

    @property
    def bin(self) -> Path:
        return self.state / "bin"

    @property
    def etc(self) -> Path:
        return self.state / "etc"

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def log(self) -> Path:
        return self.state / "log"

    @property
    def store(self) -> Path:
        return self.state / "store"

    @property
    def kubeconfig(self) -> Path:
        return self.etc / "admin.kubeconfig"

    @property
    def modules(self) -> Path:
        return self.checkout / "hack/cluster/gomods"

    @property
    def containerd(self) -> Path:
        return self.cache / "containerd"

    @property
    def socket(self) -> Path:
        return MACHINE / "containerd.sock"


def here() -> Paths:
    """Return the paths of the checkout this file is in."""
    cache = os.environ.get("DPOJOB_CACHE") or Path.home() / ".cache/dpojob"
    return Paths(checkout=Path(__file__).resolve().parents[3], cache=Path(cache).resolve())
