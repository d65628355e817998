"""kopf's storages, empty. There are no handlers of changes, yet kopf copies every object it is shown, several times, to find
what has changed since it was last handled: more than half of the operator's time with many jobs.
"""

from collections.abc import Iterable
from typing import Any

import kopf


class NoDiffs(kopf.DiffBaseStorage):
    """Remembers nothing of an object and finds no changes."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:
        """Return nothing to compare."""
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """Return nothing remembered."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Remember nothing."""


class NoProgress(kopf.ProgressStorage):
    """Knows of no handlers that go on over several events."""

    def fetch(self, *, key: Any, body: kopf.Body) -> None:
        """Return nothing remembered."""
        return None

    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Remember nothing."""

    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Forget nothing."""

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        """Change nothing."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """Return what is compared as it is."""
        return essence
