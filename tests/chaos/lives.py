"""Lives of a job: what the user does, how its attempts end, and how the end is compared with the undisturbed one."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.chaos.api import Object, path_of
from tests.chaos.runs import Fate

if TYPE_CHECKING:
    from tests.chaos.cell import Cell

LIFE_SECONDS = 240.0
POLL_SECONDS = 0.05
FINAL = ("Complete", "Failed")
QUICK = {"backoffSeconds": 0}
RETRIES = {
    "preempted": {"backoffSeconds": 1},
    "infrastructure": QUICK,
    "application": QUICK,
    "capacity": QUICK,
}

User = Callable[["Cell"], Awaitable[None]]


async def nothing(cell: "Cell") -> None:
    """The user lets the job be."""


@dataclass(frozen=True)
class Life:
    """A job's life.

    Attributes:
        fates: by attempt number.
        user: what the user does meanwhile.
        deleted: the job is gone before it has ended, so that nothing is left to compare but that.
    """

    name: str
    fates: dict[int, Fate] = field(default_factory=dict)
    user: User = nothing
    deleted: bool = False


@dataclass
class Outcome:
    """What a life has come to."""

    end: Object
    duplicates: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)


async def suspend_and_resume(cell: "Cell") -> None:
    """Suspend the job once its run has taken steps, and resume it once it has released its slice."""
    await cell.until("the run at step 20", lambda status: (status.get("progress") or {}).get("step", 0) >= 20)
    await cell.edit({"suspend": True})
    await cell.until("suspended", lambda status: status.get("summary") == "Suspended")
    await cell.edit({"suspend": False})


def delete_when(what: str, seen: Callable[[Object], bool]) -> User:
    """Return a user who deletes the job at a moment of its life."""

    async def delete(cell: "Cell") -> None:
        await cell.until(what, seen)
        await cell.delete()

    return delete


def summary(word: str) -> Callable[[Object], bool]:
    """Return a test of a status for its summary."""
    return lambda status: status.get("summary") == word


def second_attempt(status: Object) -> bool:
    """Return whether the second attempt is there."""
    return bool(status.get("attempt") == 2)


PREEMPTED = {1: Fate("preempted", 20)}
LIVES = {
    life.name: life
    for life in (
        Life("succeed"),
        Life("preempted", PREEMPTED),
        Life("crashed after a checkpoint, then host lost", {1: Fate("internal", 30), 2: Fate("host", 40)}),
        Life("no slice, then head lost", {1: Fate("capacity"), 2: Fate("head", 10)}),
        Life("suspended and resumed", {1: Fate("hold", 20)}, suspend_and_resume),
        Life("RayJob deleted", {1: Fate("delete", 20)}),
        Life("bad data", {1: Fate("data", 0)}),
        Life(
            "deleted at the start",
            user=delete_when("there", lambda s: s.get("summary") is not None),
            deleted=True,
        ),
        Life(
            "deleted while running",
            {1: Fate("hold", 20)},
            delete_when("running", summary("Running")),
            deleted=True,
        ),
        Life("deleted while retrying", PREEMPTED, delete_when("attempt 2", second_attempt), deleted=True),
    )
}


def job_body(namespace: str, name: str) -> Object:
    """Return a DPOJob on two hosts of four chips that retries without delay."""
    return {
        "apiVersion": "dpojob.io/v1alpha1",
        "kind": "DPOJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"uri": "hf://org/model"},
            "dataset": {"uri": "hf://org/data"},
            "accelerator": {"type": "v4-16"},
            "training": {"globalBatchSize": 8, "checkpointSteps": 20},
            "output": {"uri": f"gs://bucket/{name}"},
            "plan": {"enforce": "Off"},
            "retryPolicy": RETRIES,
        },
    }


def end_of(status: Object) -> Object:
    """Return what must not depend on when the operator was killed: not times, words and the last step that was seen."""
    kept = ("number", "outcome", "class", "reason")
    return {
        "summary": status.get("summary"),
        "attempts": [{key: attempt.get(key) for key in kept} for attempt in status.get("attempts", [])],
        "retries": status.get("retries"),
        "proof": (status.get("finalMetrics") or {}).get("step"),
    }


async def live(cell: "Cell", life: Life) -> Outcome:
    """Live a life to its end and to the job's deletion, and return what it has come to.

    Raises:
        AssertionError: it does not come to its end in time.
    """
    cell.player.fates[cell.job] = life.fates
    body = job_body(cell.namespace, cell.job)
    await cell.api.insist("POST", path_of("dpojobs", cell.namespace), body)
    await life.user(cell)
    end: Object = {}
    if not life.deleted:
        await cell.until("the end", lambda status: status.get("summary") in FINAL)
        await cell.until_held("nothing held", cell.holds_nothing)
        end = end_of(cell.status())
        await cell.delete()
    return Outcome(end, cell.duplicates(), await cell.orphans())


async def wait(
    what: str, probe: Callable[[], bool], tail: Callable[[], str], seconds: float = LIFE_SECONDS
) -> None:
    """Poll until something holds.

    Raises:
        AssertionError: it does not in time; the message has the tail.
    """
    deadline = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:.0f} s\n{tail()}")
        await asyncio.sleep(POLL_SECONDS)
