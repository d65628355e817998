"""What the tests of several folders share: the way to the local cluster."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def kubeconfig() -> Path:
    """The kubeconfig of the cluster: KUBECONFIG, or else that of this checkout's local cluster."""
    path = Path(os.environ.get("KUBECONFIG") or ROOT / ".cluster/etc/admin.kubeconfig")
    if not path.exists():
        pytest.fail(f"no cluster: {path} does not exist; run make cluster-up", pytrace=False)
    return path
