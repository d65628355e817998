"""Where a reconcile reads: at the API server, or of what the watches have shown."""

from dataclasses import dataclass
from typing import Protocol

from dpojob_operator import kube
from dpojob_operator.observe import Observer


@dataclass(frozen=True)
class View:
    """One way to read a job and what belongs to it."""

    api: kube.Reader
    observer: Observer
    fresh: bool = True


class Glance(Protocol):
    """What the watches have shown."""

    @property
    def view(self) -> View:
        """Where to read it."""

    @property
    def in_step(self) -> bool:
        """Whether it is complete."""

    def has_made(self, job: kube.Key) -> bool:
        """Return whether there may ever have been a child of a job of this name."""

    def is_current(self, namespace: str) -> bool:
        """Return whether it is what was so a few seconds ago, as for the DPOJobs of a namespace."""

    def count(self) -> int:
        """Return the number of jobs."""


class StaleError(Exception):
    """What the watches have shown is not enough to act on."""
