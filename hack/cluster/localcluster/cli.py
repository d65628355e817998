"""The command line: one sub-command per thing a person or the Makefile asks of the local cluster."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from . import build, check, images, kuberay, kueue, lifecycle, objects, runtime
from .paths import MACHINE, Paths, here
from .shell import Problem, locked, step


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command; a Problem becomes one message and exit code 1."""
    options = _parser().parse_args(arguments)
    action: Callable[[Paths, argparse.Namespace], None] = options.action
    check.extend_path()
    try:
        action(here(), options)
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cluster", description="A real Kubernetes with KubeRay on this machine."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, action: Callable[[Paths, argparse.Namespace], None], text: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(action=action)
        return sub

    add("check", _check, "check prerequisites and install missing packages")
    add("build", _build, "compile the programs that the cache lacks").add_argument("program", nargs="*")
    add("up", _up, "build what is missing and bring the cluster up")
    add("down", _down, "stop the cluster").add_argument(
        "--purge", action="store_true", help="remove its state folder too"
    )
    add("status", _status, "show each part")
    add("kubeconfig", lambda p, _: print(p.kubeconfig), "print the path of the kubeconfig")
    add("store", lambda p, _: print(p.store), "print the folder behind the pvc:// stores")
    add("env", _env, "print shell settings: eval $(hack/cluster/cluster env)")
    add("images", _images, "list the images of the node")
    load = add("load", _load, "import an OCI archive")
    load.add_argument("archive", type=Path)
    load.add_argument("name")
    _image_options(add("image", _image, "build a Dockerfile, or take it from the cache, and import it"))
    add("base", lambda p, _: print(images.base(p)), "make the base image; print its archive")
    add("kuberay", _kuberay, "install KubeRay and wait until it is available")
    add(
        "kueue", _kueue, "install Kueue for RayJobs with a queue and wait until it is available"
    ).add_argument("--remove", action="store_true", help="take it and its objects away again")
    tpu = add("tpu", _tpu, "label the node as a host of this TPU slice")
    tpu.add_argument("kind", choices=sorted(objects.TOPOLOGIES))
    name_help = "make a restricted namespace with stores of its own"
    add("namespace", lambda p, o: objects.make_namespace(p, o.name), name_help).add_argument("name")
    return parser


def _image_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("name", help="image name, such as localhost/dpojob-operator:dev")
    sub.add_argument("--dockerfile", type=Path, required=True)
    sub.add_argument("--context", type=Path, required=True)
    sub.add_argument("--build-only", action="store_true", help="do not import it; print the archive")


def _check(paths: Paths, _: argparse.Namespace) -> None:
    check.check(paths)
    step("this machine can run the local cluster")


def _load(paths: Paths, options: argparse.Namespace) -> None:
    done = "imported" if runtime.load(paths, options.archive, options.name) else "there already"
    step(f"{options.name}: {done}")


def _machine(what: str) -> AbstractContextManager[None]:
    return locked(MACHINE.with_suffix(".lock"), what)


def _build(paths: Paths, options: argparse.Namespace) -> None:
    check.check(paths)
    build.build(paths, options.program)
    step(f"programs are in {paths.bin}")


def _up(paths: Paths, _: argparse.Namespace) -> None:
    check.check(paths)
    build.build(paths)
    with _machine("the local cluster"):
        lifecycle.up(paths)
    step(f"the cluster is up; use it with: export KUBECONFIG={paths.kubeconfig} PATH={paths.bin}:$PATH")


def _down(paths: Paths, options: argparse.Namespace) -> None:
    with _machine("the local cluster"):
        lifecycle.down(paths, options.purge)


def _status(paths: Paths, _: argparse.Namespace) -> None:
    found = lifecycle.status(paths)
    for name, state in found.items():
        print(f"{name:26}{state}")
    if found["node"] != "Ready":
        raise Problem("the cluster is not up; `make cluster-up` starts it")


def _env(paths: Paths, _: argparse.Namespace) -> None:
    print(f"export KUBECONFIG={paths.kubeconfig} PATH={paths.bin}:$PATH")


def _images(paths: Paths, _: argparse.Namespace) -> None:
    print(runtime.ctr(paths, "images", "ls", "name~=^localhost"), end="")


def _image(paths: Paths, options: argparse.Namespace) -> None:
    archive = images.image(paths, options.name, options.dockerfile, options.context)
    if options.build_only:
        print(archive)
    elif not runtime.load(paths, archive, options.name):
        step(f"{options.name} is on the node already")


def _kuberay(paths: Paths, _: argparse.Namespace) -> None:
    build.build(paths, ["kubernetes", "kuberay"])
    kuberay.install(paths)


def _kueue(paths: Paths, options: argparse.Namespace) -> None:
    build.build(paths, ["kueue"])
    if options.remove:
        kueue.remove(paths)
    else:
        kueue.install(paths)


def _tpu(paths: Paths, options: argparse.Namespace) -> None:
    objects.make_tpu_host(paths, options.kind)
    step(f"the node is a host of a {options.kind} slice")
