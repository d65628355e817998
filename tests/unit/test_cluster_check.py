"""What the local cluster asks of a machine. The machine is replaced: another Go, another distribution, less room."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hack.cluster.localcluster import check
from hack.cluster.localcluster.paths import Paths
from hack.cluster.localcluster.shell import Problem


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The programs that are found in PATH: all that are needed."""
    found = {"go", "python3.11", *check.PACKAGES}
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name in found else None)
    return found


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch, programs: set[str]) -> Callable[[str], list[str]]:
    """Return what is wrong with a version of Go."""

    def problems(version: str) -> list[str]:
        monkeypatch.setattr(check, "run", lambda command: f"{version}\n")
        return list(check._go())

    return problems


@pytest.mark.parametrize("version", ["go1.26.0", "go1.26", "go1.26rc1", "go1.30.2", "go2.0"])
def test_go_that_is_new_enough(go: Callable[[str], list[str]], version: str) -> None:
    assert go(version) == []


@pytest.mark.parametrize("version", ["go1.25.9", "go1.9", "devel +abc"])
def test_go_that_is_too_old_or_unknown_is_named_with_what_to_do(
    go: Callable[[str], list[str]], version: str
) -> None:
    (problem,) = go(version)
    assert f"Go is {version}, needed is 1.26" in problem and "/usr/local/go" in problem


def test_no_go(programs: set[str]) -> None:
    programs.remove("go")
    (problem,) = check._go()
    assert "Go is missing" in problem


def test_missing_programs_become_packages_once(
    monkeypatch: pytest.MonkeyPatch, programs: set[str], tmp_path: Path
) -> None:
    (tmp_path / "bridge").touch()
    monkeypatch.setattr(check, "CNI_FOLDERS", (tmp_path / "absent", tmp_path))
    assert check.missing_packages() == [] and check.cni_folder() == tmp_path
    programs -= {"ctr", "containerd", "ip"}
    monkeypatch.setattr(check, "CNI_FOLDERS", (tmp_path / "absent",))
    assert check.missing_packages() == ["containerd", "containernetworking-plugins", "iproute2"]


def test_every_problem_is_told_at_once_and_nothing_is_installed(
    monkeypatch: pytest.MonkeyPatch, programs: set[str], tmp_path: Path
) -> None:
    programs.clear()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    monkeypatch.setattr(check, "_install", lambda packages: pytest.fail("installed"))
    with pytest.raises(Problem) as caught:
        check.check(Paths(tmp_path / ("x" * 60), tmp_path / "cache"))
    text = str(caught.value)
    for words in ("not root", "Python 3.11 is missing", "Go is missing", "checkout is too long"):
        assert words in text
    assert all(line.startswith("  - ") for line in text.splitlines()[1:])


class Usage(NamedTuple):
    free: int


@pytest.mark.parametrize(
    ("gib", "compiled", "enough"), [(21, False, True), (19, False, False), (9, True, True), (7, True, False)]
)
def test_a_first_build_needs_more_room_than_a_cached_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gib: int, compiled: bool, enough: bool
) -> None:
    paths = Paths(Path("/c"), tmp_path)
    if compiled:
        binary = tmp_path / "bin/kubernetes-0123/kube"
        binary.parent.mkdir(parents=True)
        binary.touch()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(gib * check.GIB))
    problems = [problem for problem in check._room(paths) if "free" in problem]
    assert (problems == []) is enough
    assert all("set DPOJOB_CACHE" in problem for problem in problems)
