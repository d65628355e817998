"""Which programs are compiled again and what is stamped into them. Go itself is not run: its version is given."""

import re
import shutil
from pathlib import Path

import pytest
from hack.cluster.localcluster import build
from hack.cluster.localcluster.build import PROGRAMS, Program
from hack.cluster.localcluster.paths import Paths
from hack.cluster.localcluster.shell import Problem

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A checkout with a copy of the Go modules."""
    monkeypatch.setattr(build, "run", lambda command, env: "go1.26.0\n")
    shutil.copytree(ROOT / "hack/cluster/gomods", tmp_path / "hack/cluster/gomods")
    return Paths(tmp_path, tmp_path / "cache")


def program(name: str) -> Program:
    return next(program for program in PROGRAMS if program.name == name)


def test_kubernetes_is_stamped_with_the_version_that_its_module_pins(paths: Paths) -> None:
    pinned = re.search(
        r"k8s.io/kubernetes (v1\.(\d+)\.\d+)", (paths.modules / "kubernetes/go.mod").read_text()
    )
    assert pinned is not None
    linker = build._flags(paths, program("kubernetes"))[-1]
    assert f"version.gitVersion={pinned[1]} " in linker
    assert linker.endswith(f"version.gitMinor={pinned[2]}")


def test_helm_renders_for_the_kubernetes_that_is_built(paths: Paths) -> None:
    minor = build._version(paths, program("kubernetes"))["minor"]
    assert build._flags(paths, program("helm"))[-1].endswith(f"k8sVersionMinor={minor}")


def test_a_module_that_does_not_pin_its_program_is_named(paths: Paths) -> None:
    (paths.modules / "helm/go.mod").write_text("module x\n")
    with pytest.raises(Problem, match=r"helm/go.mod does not require helm.sh/helm/v3"):
        build._version(paths, program("helm"))


def test_only_what_the_binary_is_made_of_makes_another_build(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build.module_folder(paths, "net")
    (paths.modules / "net/README.md").write_text("x")
    assert build.module_folder(paths, "net") == before
    (paths.modules / "net/more.go").write_text("package main\n")
    changed = build.module_folder(paths, "net")
    monkeypatch.setattr(build, "run", lambda command, env: "go1.26.1\n")
    assert len({before, changed, build.module_folder(paths, "net")}) == 3


def test_unknown_programs_are_refused_with_the_known_ones(paths: Paths) -> None:
    with pytest.raises(Problem, match="unknown program kubelt; known are helm, kubeconform"):
        build.build(paths, ["kubelt"])


def test_what_the_cache_has_is_linked_and_not_compiled(paths: Paths) -> None:
    folder = build.module_folder(paths, "kubernetes")
    folder.mkdir(parents=True)
    stale = paths.bin / "kubelet"
    stale.parent.mkdir(parents=True)
    stale.symlink_to("/somewhere/else")
    for _ in range(2):
        assert build.build(paths, ["kubernetes"]) == {}
    links = {link.name: link.readlink() for link in paths.bin.iterdir()}
    assert links == dict.fromkeys(build.COMPONENTS, folder / "kube") | {"kubectl": folder / "kubectl"}


@pytest.mark.parametrize(("name", "binary"), [("kuberay", "kuberay-operator"), ("kueue", "kueue")])
def test_what_has_manifests_brings_kubectl_which_writes_them(paths: Paths, name: str, binary: str) -> None:
    for folder in ("kubernetes", name):
        build.module_folder(paths, folder).mkdir(parents=True)
    build.build(paths, [name])
    assert {"kubectl", binary} <= {link.name for link in paths.bin.iterdir()}


def test_what_is_extra_is_not_compiled_for_the_cluster_itself(paths: Paths) -> None:
    for wanted in PROGRAMS:
        if not wanted.extra:
            build.module_folder(paths, wanted.name).mkdir(parents=True)
    assert build.build(paths) == {}
    assert "kueue" not in {link.name for link in paths.bin.iterdir()}
