"""Up and down: bring the cluster to the wanted state from whatever is there, or take all of it away."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from pathlib import Path

from . import config, daemons, identity, leftovers, runtime
from .build import COMPONENTS
from .daemons import Daemon
from .objects import apply_base, node_ready, prove_pod
from .paths import MACHINE, Paths
from .shell import Problem, run, step, wait_for
from .tools import load_tools

CORE = ("etcd", "kube-apiserver", "containerd")
DAEMONS = (*CORE, *(name for name in COMPONENTS if name not in CORE), "coredns")
PORTS = (6443, 10250, 10256, 12379, 12380, 18181)


def up(paths: Paths) -> None:
    """Bring the cluster up; what already runs is kept, what is broken is replaced.

    Raises:
        Problem: a part does not become ready in time; the message names its log.
    """
    others = {str(state) for state in leftovers.marked().values()} - {str(paths.state)}
    core = all(daemons.alive(paths, name) for name in CORE) and _readyz(paths)
    if others or not core:
        _reset(paths, others)
        _prepare(paths)
        _start_core(paths)
    _start_rest(paths)
    _wait_ready(paths)


def down(paths: Paths, purge: bool) -> None:
    """Stop the cluster of this checkout, or what is left of any; with `purge` remove the state folder too."""
    running = set(leftovers.marked().values())
    if of_another(paths, running, leftovers.owner()):
        step(f"the running cluster belongs to {', '.join(str(s.parent) for s in running)}; it is left alone")
    else:
        step("stopping the cluster")
        leftovers.remove_everything(config.BRIDGE)
        _forget(paths)
    if purge:
        step(f"removing {paths.state}")
        shutil.rmtree(paths.state, ignore_errors=True)


def of_another(paths: Paths, running: Collection[Path], owner: Path | None) -> bool:
    """Tell whether what runs is another checkout's alone; `running` are the state folders of the live processes."""
    return bool(running) and paths.state not in running and owner != paths.checkout


def status(paths: Paths) -> dict[str, str]:
    """Return the state of each daemon, of the API server and of the node."""
    found = {
        name: f"running, pid {pid}" if (pid := daemons.pid_of(paths, name)) else "stopped" for name in DAEMONS
    }
    ready = _readyz(paths)
    found["API server"] = "ready" if ready else "not ready"
    found["node"] = "Ready" if ready and node_ready(paths) else "not ready"
    found["owner"] = str(leftovers.owner() or "none")
    return found


def _reset(paths: Paths, others: set[str]) -> None:
    for state in sorted(others):
        step(f"stopping the cluster of {Path(state).parent}: one machine holds one")
    leftovers.remove_everything(config.BRIDGE)
    _forget(paths)
    for port in PORTS:
        _must_be_free(port)


def _forget(paths: Paths) -> None:
    for folder in (paths.run, paths.state / "etcd", paths.state / "kubelet"):
        shutil.rmtree(folder, ignore_errors=True)


def _must_be_free(port: int) -> None:
    # A process that was killed may hold its port a moment longer, while the kernel takes its memory apart.
    look_in = f"`ss -ltnp sport = :{port}`: another program has it"
    wait_for(f"port {port} free", lambda: _is_free(port), 15, look_in)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True


def _prepare(paths: Paths) -> None:
    for folder in (paths.run, paths.log, paths.containerd, MACHINE):
        folder.mkdir(parents=True, exist_ok=True)
    MACHINE.chmod(0o700)
    identity.make_identity(paths)
    config.write_config(paths)
    leftovers.make_cgroups()
    # The API server advertises the bridge's address and CoreDNS binds it, so it exists before both.
    run(["ip", "link", "add", config.BRIDGE, "type", "bridge"])
    run(["ip", "addr", "add", f"{identity.HOST_IP}/24", "dev", config.BRIDGE])
    run(["ip", "link", "set", config.BRIDGE, "up"])
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    leftovers.claim(paths)


def _start_core(paths: Paths) -> None:
    step("starting etcd, kube-apiserver and containerd")
    _start_containerd(paths)
    _start(paths, config.etcd(paths))
    _start(paths, config.apiserver(paths))
    if runtime.clear_containers(paths):
        # Only a restart makes containerd's Kubernetes plugin forget sandboxes whose processes are gone.
        daemons.terminate(daemons.pid_of(paths, "containerd") or 0, 5)
        _start_containerd(paths)
    _until(paths, "kube-apiserver", lambda: _readyz(paths), 120)
    step("the API server is ready; starting controllers, kubelet, kube-proxy and CoreDNS")


def _start_containerd(paths: Paths) -> None:
    _start(paths, config.containerd(paths))
    try:
        _until(paths, "containerd", lambda: _containerd_serves(paths), 20)
    except Problem:
        broken = paths.containerd.with_name("containerd.broken")
        step(f"containerd does not start on {paths.containerd}; moving it to {broken} and starting empty")
        daemons.kill([pid for pid in [daemons.pid_of(paths, "containerd")] if pid])
        shutil.rmtree(broken, ignore_errors=True)
        paths.containerd.rename(broken)
        paths.containerd.mkdir()
        _start(paths, config.containerd(paths))
        _until(paths, "containerd", lambda: _containerd_serves(paths), 30)


def _start_rest(paths: Paths) -> None:
    containerd_pid = daemons.pid_of(paths, "containerd")
    if containerd_pid is None:
        raise Problem(f"containerd has stopped; look in {daemons.log_of(paths, 'containerd')}")
    load_tools(paths)
    for daemon in [*config.controllers(paths), *config.node_agents(paths, containerd_pid)]:
        _start(paths, daemon)


def _wait_ready(paths: Paths) -> None:
    apply_base(paths)
    _until(paths, "kubelet", lambda: node_ready(paths), 90)
    _until(paths, "kube-proxy", lambda: _answers(f"http://{config.PROXY_HEALTH}/healthz"), 60)
    _until(paths, "coredns", lambda: _answers(f"http://{config.DNS_READY}/ready"), 60)
    prove_pod(paths)


def _start(paths: Paths, daemon: Daemon) -> None:
    daemons.start(paths, daemon)


def _until(paths: Paths, name: str, ready: Callable[[], bool], seconds: float) -> None:
    log = daemons.log_of(paths, name)

    def check() -> bool:
        if not daemons.alive(paths, name):
            tail = "\n".join(log.read_text(errors="replace").strip().splitlines()[-6:])
            raise Problem(f"{name} has ended; look in {log}\n{tail}")
        return ready()

    wait_for(f"{name} ready", check, seconds, log)


def _readyz(paths: Paths) -> bool:
    try:
        trust = ssl.create_default_context(cafile=str(paths.etc / "ca.crt"))
        token = identity.admin_token(paths)
    except (OSError, StopIteration):
        return False
    request = urllib.request.Request(f"{identity.API}/readyz", headers={"Authorization": f"Bearer {token}"})
    return _opens(request, trust)


def _answers(url: str) -> bool:
    return _opens(urllib.request.Request(url), None)


def _opens(request: urllib.request.Request, trust: ssl.SSLContext | None) -> bool:
    handlers = [urllib.request.ProxyHandler({})]
    opener = urllib.request.build_opener(
        *handlers, *([urllib.request.HTTPSHandler(context=trust)] if trust else [])
    )
    try:
        with opener.open(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _containerd_serves(paths: Paths) -> bool:
    command = ["ctr", "-a", str(paths.socket), "version"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=10)
    return done.returncode == 0
