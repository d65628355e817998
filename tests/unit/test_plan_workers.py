"""Cuts are compiled in processes beside each other. What they run is a stand-in, since the compiler takes minutes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from tests.unit import plan_stand_ins

from dpojob_trainer.plan import workers


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(workers, "begin", plan_stand_ins.begin)
    monkeypatch.setattr(workers, "compile_cut", plan_stand_ins.compile_cut)
    with workers.Beside() as found:
        yield found


def ended(pid: int) -> bool:
    for _ in range(1000):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def test_two_cuts_run_beside_each_other_and_a_third_takes_an_idle_process(beside: Any) -> None:
    first, second = beside.start("a"), beside.start("b")
    found = dict([first.result(), second.result()])
    assert len(set(found.values())) == 2
    assert beside.start("c").result()[1] in found.values()


def test_what_is_cancelled_ends_with_its_process(beside: Any) -> None:
    waits = beside.start("wait")
    (worker,) = beside._workers
    pid = worker._pid.result(60)
    waits.cancel()
    waits.cancel()
    assert ended(pid)
    assert beside.start("a").result()[0] == "a"


def test_a_process_that_dies_is_told_and_does_not_stop_the_end(beside: Any) -> None:
    with pytest.raises(BrokenProcessPool):
        beside.start("die").result()


def test_a_compiler_that_does_not_end_is_ended(beside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = beside.start("wait")
    (worker,) = beside._workers
    pid = worker._pid.result(60)
    monkeypatch.setattr(workers, "DEADLINE", 0.1)
    with pytest.raises(TimeoutError, match="has not ended after 0 s"):
        waits.result()
    assert ended(pid)


def test_leaving_ends_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "begin", plan_stand_ins.begin)
    monkeypatch.setattr(workers, "compile_cut", plan_stand_ins.compile_cut)
    with workers.Beside() as found:
        found.start("wait")
        pid = found._workers[0]._pid.result(60)
    assert ended(pid)


PLANNING = """
from tests.unit import plan_stand_ins
from dpojob_trainer.plan import workers

workers.begin, workers.compile_cut = plan_stand_ins.begin, plan_stand_ins.compile_cut
if __name__ == "__main__":
    found = workers.Beside()
    waits = found.start("wait")
    print(found._workers[0]._pid.result(60), flush=True)
    waits.result()
"""


def test_a_planner_that_is_killed_leaves_no_compiler_behind(tmp_path: Path) -> None:
    file = tmp_path / "planning.py"
    file.write_text(PLANNING)
    with subprocess.Popen(
        [sys.executable, file], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.getcwd()}
    ) as planner:
        assert planner.stdout is not None
        pid = int(planner.stdout.readline())
        planner.kill()
    assert ended(pid)


@pytest.mark.parametrize(
    ("cores", "free", "wanted"),
    [({0, 1}, 17, True), ({0}, 17, False), ({0, 1}, 15, False)],
)
def test_two_compilations_need_two_cores_and_memory(
    cores: set[int], free: int, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    monkeypatch.setattr(workers, "_free_bytes", lambda: free * workers.GIB)
    assert workers.side_by_side() is wanted
