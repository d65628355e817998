"""The programs, compiled from pinned Go modules into the shared cache and linked into the state folder."""

from __future__ import annotations

import os
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from .paths import Paths
from .shell import Problem, digest, locked, run, run_logged, step, write

COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
KUBERAY = "github.com/ray-project/kuberay/ray-operator"
KUEUE = "sigs.k8s.io/kueue"


@dataclass(frozen=True)
class Program:
    """One Go module under gomods/ and the binaries it makes.

    `outputs` maps a binary's name to its Go package; `stamp` maps a linker variable to a template over the `version` (and
    its `minor`) that go.mod pins for the module `pinned`. With `manifests`, those of that module are kept beside the
    binary. What is `extra` is only compiled when it is asked for by name.
    """

    name: str
    outputs: dict[str, str]
    pinned: str = ""
    stamp: dict[str, str] = field(default_factory=dict)
    hint: str = ""
    manifests: str = ""
    extra: bool = False


_K8S = "k8s.io/component-base/version"
_CHART = "helm.sh/helm/v3/pkg/chartutil"
PROGRAMS = (
    Program("pod", {"pause": "./pause", "probe": "./probe"}),
    Program("net", {"etcd": "go.etcd.io/etcd/server/v3", "coredns": "."}),
    Program(
        "kubernetes",
        {"kube": ".", "kubectl": "k8s.io/kubernetes/cmd/kubectl"},
        "k8s.io/kubernetes",
        {f"{_K8S}.gitVersion": "{version}", f"{_K8S}.gitMajor": "1", f"{_K8S}.gitMinor": "{minor}"},
        " (6 to 11 minutes on two cores)",
    ),
    Program("kuberay", {"kuberay-operator": KUBERAY}, KUBERAY, manifests=KUBERAY),
    Program("kueue", {"kueue": f"{KUEUE}/cmd/kueue"}, KUEUE, manifests=KUEUE, extra=True),
    Program(
        "helm",
        {"helm": "helm.sh/helm/v3/cmd/helm"},
        "helm.sh/helm/v3",
        {
            "helm.sh/helm/v3/internal/version.version": "{version}",
            f"{_CHART}.k8sVersionMajor": "1",
            f"{_CHART}.k8sVersionMinor": "35",
        },
    ),
    Program(
        "kubeconform",
        {"kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform"},
        "github.com/yannh/kubeconform",
        {"main.version": "{version}"},
    ),
)


def build(paths: Paths, names: list[str] | None = None) -> dict[str, float]:
    """Compile what the cache lacks and link every binary into the state folder; return seconds per compiled program."""
    known = {program.name for program in PROGRAMS}
    if unknown := set(names or ()) - known:
        raise Problem(f"unknown program {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    wanted = set(names or (program.name for program in PROGRAMS if not program.extra))
    # kubectl writes the manifests.
    wanted |= {"kubernetes" for program in PROGRAMS if program.name in wanted and program.manifests}
    took: dict[str, float] = {}
    for program in PROGRAMS:
        if program.name in wanted:
            folder, seconds = _build_one(paths, program)
            _link(paths, program, folder)
            took |= {program.name: seconds} if seconds else {}
    return took


def module_folder(paths: Paths, program: str) -> Path:
    """Return the cache folder with the compiled `program`."""
    found = next(p for p in PROGRAMS if p.name == program)
    return paths.cache / "bin" / f"{program}-{_key(paths, found)}"


def _source(paths: Paths, program: Program) -> Path:
    return paths.modules / program.name


def _flags(paths: Paths, program: Program) -> list[str]:
    stamps = [f"-X {name}={text.format(**_version(paths, program))}" for name, text in program.stamp.items()]
    return ["-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", " ".join(["-s -w", *stamps])]


def _version(paths: Paths, program: Program) -> dict[str, str]:
    text = (_source(paths, program) / "go.mod").read_text()
    found = re.search(rf"{re.escape(program.pinned)} (v\d+\.(\d+)\.\S+)", text)
    if not found:
        raise Problem(f"{_source(paths, program)}/go.mod does not require {program.pinned}")
    return {"version": found[1], "minor": found[2]}


def _key(paths: Paths, program: Program) -> str:
    source = _source(paths, program)
    files = sorted(p for p in source.rglob("*") if p.suffix in {".go", ".mod", ".sum"})
    content = [part for file in files for part in (str(file.relative_to(source)), file.read_bytes())]
    go = run(["go", "env", "GOVERSION"], env=_environment())
    return digest([*content, *_flags(paths, program), *program.outputs, go])


def _environment() -> dict[str, str]:
    return {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}


def _build_one(paths: Paths, program: Program) -> tuple[Path, float]:
    folder = module_folder(paths, program.name)
    if folder.exists():
        return folder, 0.0
    with locked(paths.cache / "bin" / f".{program.name}.lock", f"compiling {program.name}"):
        if folder.exists():
            return folder, 0.0
        step(f"compiling {program.name}{program.hint}")
        began = time.monotonic()
        draft = folder.with_name(f".{folder.name}")
        shutil.rmtree(draft, ignore_errors=True)
        _compile(paths, program, draft)
        if program.manifests:
            _save_manifests(paths, program, draft)
        draft.rename(folder)
        took = time.monotonic() - began
        step(f"compiled {program.name} in {took:.0f} s")
        return folder, took


def _compile(paths: Paths, program: Program, into: Path) -> None:
    for output, package in program.outputs.items():
        command: list[str | Path] = ["go", "build", *_flags(paths, program), "-o", into / output, package]
        log = paths.cache / "log" / f"build-{output}.log"
        run_logged(
            command, log, f"compiling {output}", env=_environment(), cwd=_source(paths, program), seconds=4800
        )


def _save_manifests(paths: Paths, program: Program, into: Path) -> None:
    command = ["go", "list", "-m", "-f", "{{.Dir}}", program.manifests]
    where = run(command, env=_environment(), cwd=_source(paths, program))
    kubectl = paths.bin / "kubectl"
    write(into / "manifests.yaml", run([kubectl, "kustomize", f"{where.strip()}/config/default"]))


def _link(paths: Paths, program: Program, folder: Path) -> None:
    paths.bin.mkdir(parents=True, exist_ok=True)
    for output in program.outputs:
        for name in COMPONENTS if output == "kube" else (output,):
            link = paths.bin / name
            if link.is_symlink() and link.readlink() == folder / output:
                continue
            link.unlink(missing_ok=True)
            link.symlink_to(folder / output)
