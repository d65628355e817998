"""The operator meets what another version left, and a KubeRay that comes later.

Played and real: see ``test_kills``.
"""

import asyncio
import copy
from typing import Any

from hack.cluster.localcluster import shell

from tests.chaos.api import MERGE, path_of
from tests.chaos.cell import Cell
from tests.chaos.control_plane import ControlPlane
from tests.chaos.lives import FINAL, LIVES, end_of, job_body, live

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


def serves(control_plane: ControlPlane, path: str) -> bool:
    """Return whether an object exists."""
    try:
        return bool(control_plane.call("GET", path))
    except OSError:
        return False


async def test_job_waits_for_kuberay_and_goes_on_by_itself_once_it_is_there(
    cell: Cell, control_plane: ControlPlane
) -> None:
    cell.restarting = False
    await cell.operator.kill()
    crds = [
        crd
        for crd in control_plane.kuberay_crds()
        if crd["metadata"]["name"] in ("rayjobs.ray.io", "rayclusters.ray.io")
    ]
    for crd in crds:
        path = path_of("customresourcedefinitions", None, crd["metadata"]["name"])
        await cell.api.insist("DELETE", path)
        await asyncio.to_thread(
            shell.wait_for, f"{path} gone", lambda path=path: not serves(control_plane, path), 60, path
        )
    try:
        cell.begin()
        cell.restarting = True
        body = job_body(cell.namespace, cell.job)
        await cell.api.insist("POST", path_of("dpojobs", cell.namespace), body)
        await cell.until("stalled", lambda status: status.get("summary") == "Stalled")
        message = next(c["message"] for c in cell.status()["conditions"] if c["type"] == "Stalled")
        assert "KubeRay" in message
    finally:
        await asyncio.to_thread(control_plane.install, crds)
    await cell.until("the end", lambda status: status.get("summary") in FINAL)
    assert end_of(cell.status())["summary"] == "Complete"
    assert cell.operator.starts == 2, cell.operator.tail()
