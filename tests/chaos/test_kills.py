"""The operator is killed before and after every API call of several lives of a job.

Real are the operator's process, its kill, the API server and etcd; KubeRay, kubelet, garbage collector and trainer are
played (see ``player``): a control plane that may be killed has no node, and their real lives take minutes.
"""

import asyncio
import os
from pathlib import Path

from tests.chaos.campaign import run
from tests.chaos.control_plane import ControlPlane

KILLS = int(os.environ.get("DPOJOB_CHAOS_KILLS", "300"))
SEED = 1
CELLS = 4


async def test_killed_at_hundreds_of_calls_nothing_is_made_twice_lost_or_left(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    tally = await run(control_plane, tmp_path, SEED, KILLS, CELLS)
    assert tally.found() == []
    assert tally.kills >= KILLS
    assert len(asyncio.all_tasks()) < 50, "a cell left its tasks behind"
