"""The local cluster's command line and how it fails. No sub-command that touches the machine is run."""

from pathlib import Path

import pytest
from hack.cluster.localcluster import cli, objects
from hack.cluster.localcluster.paths import Paths, here
from hack.cluster.localcluster.shell import Problem

from dpojob_api.accelerator import find_shape


def refused(*arguments: str) -> None:
    """Expect the parser to end the program."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert ended.value.code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["restart"],
        ["tpu", "v5p-8"],
        ["namespace"],
        ["load", "image.tar"],
        ["image", "a:b", "--context", "."],
        ["image", "a:b", "--dockerfile", "Dockerfile"],
    ],
)
def test_incomplete_or_unknown_commands_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    refused(*arguments)
    assert "usage: cluster" in capsys.readouterr().err


def test_a_problem_is_one_message_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(paths: Paths, name: str) -> None:
        raise Problem(f"{name}: do that")

    monkeypatch.setattr(objects, "make_namespace", fail)
    assert cli.main(["namespace", "team-a"]) == 1
    assert capsys.readouterr().err == "error: team-a: do that\n"


def test_an_interruption_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(paths: Paths, name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(objects, "make_namespace", interrupt)
    assert cli.main(["namespace", "team-a"]) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_settings_and_paths_are_those_of_this_checkout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("DPOJOB_CACHE", str(tmp_path / "a" / ".." / "b"))
    root = Path(__file__).resolve().parents[2]
    assert here() == Paths(root, tmp_path / "b")
    for command in ("kubeconfig", "store", "env"):
        assert cli.main([command]) == 0
    kubeconfig, store, env = capsys.readouterr().out.splitlines()
    assert Path(kubeconfig) == root / ".cluster/etc/admin.kubeconfig"
    assert Path(store) == root / ".cluster/store"
    assert env == f"export KUBECONFIG={kubeconfig} PATH={root}/.cluster/bin:$PATH"


@pytest.mark.parametrize("kind", sorted(objects.TOPOLOGIES))
def test_the_nodes_labels_are_those_that_jobs_of_this_type_ask_for(kind: str) -> None:
    shape = find_shape(kind)
    assert (shape.topology, shape.gke_accelerator) == (objects.TOPOLOGIES[kind], "tpu-v4-podslice")
    assert int(objects.CHIPS) >= shape.chips, "every host of a slice must fit on the one node"
