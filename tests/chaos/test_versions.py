"""The operator meets what another version left.

Played and real: see ``test_kills``.
"""

import asyncio
import copy
from typing import Any

import pytest

from tests.chaos.api import MERGE, path_of
from tests.chaos.cell import Cell
from tests.chaos.control_plane import ControlPlane
from tests.chaos.lives import LIVES, live

pytestmark = pytest.mark.slow

# Fields of the status that the operator of commit 71dfdb3, before retries and ledger, did not write; of an attempt it
# wrote the first five of the kept ones.
NEWER = ("ledger", "retries", "guards", "suspendedSeconds")
ATTEMPT_KEPT = ("number", "rayJob", "outcome", "reason", "message", "startTime", "endTime")
PROGRESS_NEWER = ("changeTime",)
OLDER: dict[str, Any] = {"chipSeconds": {"training": 480, "starting": 96}}
"""What a status may hold that no version of today knows."""


def older(status: dict[str, Any]) -> dict[str, Any]:
    """Return the merge patch from a status to what the older operator would have written."""
    attempts = [{k: v for k, v in a.items() if k in ATTEMPT_KEPT} for a in status["attempts"]]
    progress = dict.fromkeys(PROGRESS_NEWER)
    return {**dict.fromkeys(NEWER), "attempts": attempts, "progress": progress, **OLDER}


def permissive(crd: dict[str, Any]) -> dict[str, Any]:
    """Return a CRD whose status keeps what it does not know, as the older one knew other fields."""
    found = copy.deepcopy(crd)
    for version in found["spec"]["versions"]:
        schema = version["schema"]["openAPIV3Schema"]["properties"]
        schema["status"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return found


async def test_status_of_an_older_operator_is_read_and_gone_on_from(
    cell: Cell, control_plane: ControlPlane
) -> None:
    cell.begin()
    life = asyncio.ensure_future(live(cell, LIVES["preempted"]))
    await cell.until_held(
        "the run at step 10", lambda: (cell.status().get("progress") or {}).get("step", 0) >= 10
    )
    cell.restarting = False
    await cell.operator.kill()
    crds = control_plane.our_crds()
    await asyncio.to_thread(control_plane.install, [permissive(crd) for crd in crds])
    try:
        path = path_of("dpojobs", cell.namespace, cell.job, "status")
        written = await cell.api.request("PATCH", path, {"status": older(cell.status())}, content_type=MERGE)
        assert written["status"]["chipSeconds"] == OLDER["chipSeconds"]
        assert "ledger" not in written["status"]
    finally:
        await asyncio.to_thread(control_plane.install, crds)
    cell.restarting = True
    outcome = await life
    assert (outcome.end["summary"], outcome.end["proof"]) == ("Complete", 40)
    assert [a["outcome"] for a in outcome.end["attempts"]] == ["Failed", "Succeeded"]
    assert (outcome.duplicates, outcome.orphans) == ([], [])
    assert cell.operator.starts == 2
    assert "Traceback" not in cell.operator.log.read_text()
