"""kubectl as the cluster's admin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .paths import Paths
from .shell import run


def kubectl(
    paths: Paths, *words: str, stdin: str | None = None, seconds: float = 60, check: bool = True
) -> str:
    """Run kubectl against the local cluster and return its standard output."""
    command: list[str | Path] = [paths.bin / "kubectl", "--kubeconfig", paths.kubeconfig, *words]
    return run(command, stdin=stdin, seconds=seconds, check=check)


def get(paths: Paths, *words: str) -> dict[str, Any] | None:
    """Return one object as JSON, or None when it does not exist."""
    text = kubectl(paths, "get", *words, "--ignore-not-found", "-o", "json")
    found: dict[str, Any] | None = json.loads(text) if text.strip() else None
    return found


def apply(paths: Paths, *objects: dict[str, Any], seconds: float = 60) -> None:
    """Apply `objects` server-side."""
    document = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    words = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    kubectl(paths, *words, stdin=document, seconds=seconds)
