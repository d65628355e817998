"""``make bench-operator``: what many jobs at once cost, against Kubeflow Trainer on the same API server in the same run.

A private etcd and kube-apiserver; the contenders take turns, each with processes of its own that are started for a size
and killed after it. Writes benchmarks/results/operator.json and the tables in docs/benchmarks.md.
"""

import argparse
import json
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.chaos.control_plane import ControlPlane

from benchmarks import lives
from benchmarks.burst import burst
from benchmarks.contenders import Contender, Ours, Peer, make_bodies, make_namespace, settle
from benchmarks.floor import measure_floor
from benchmarks.measure import reads, requests, spread, use_of, writes
from benchmarks.report import RESULTS, write_document

Object = dict[str, Any]

QUIET_SECONDS = 4.0
IDLE_SECONDS = 5.0
OURS_ALONE = 5000
"""From this size on the peer is left out: it would take longer than everything else together."""


def measure(plane: ControlPlane, contender: Contender, number: int, seconds: float) -> Object:
    """Create so many jobs at once and return what became of it."""
    namespace = f"bench-{contender.name}-{number}"
    make_namespace(plane, namespace)
    try:
        contender.start(namespace)
        time.sleep(IDLE_SECONDS)
        idle = use_of(contender.pids)
        if not number:
            return {"rss_bytes": idle.rss_bytes}
        before = requests(plane.call("GET", "/metrics"))
        parent, child = contender.kinds(namespace)
        sent, seen = burst(
            plane.connection, parent, child, make_bodies(contender, namespace, number), seconds
        )
        after = requests(settle(plane, QUIET_SECONDS, seconds))
        use = use_of(contender.pids)
    finally:
        contender.stop()
    made = writes(before, after)
    return {
        **spread(sent, seen),
        "sending_seconds": round(max(sent.values()) - min(sent.values()), 2),
        "writes_per_job": round(sum(made.values()) / number, 2),
        "writes": made,
        "reads": reads(before, after),
        "rss_bytes": use.rss_bytes,
        "rss_bytes_idle": idle.rss_bytes,
        "rss_bytes_per_job": round((use.rss_bytes - idle.rss_bytes) / number),
        "cpu_seconds": round(use.cpu_seconds - idle.cpu_seconds, 2),
    }


def compare(plane: ControlPlane, sizes: list[int], with_peer: bool, seconds: float) -> Object:
    """Let the contenders take turns and return the results by contender and size."""
    ours, peer = Ours(plane), Peer(plane)
    if with_peer:
        peer.install()
    found: Object = {ours.name: {}, peer.name: {}}
    for number in sizes:
        for contender in (ours, peer) if with_peer and 0 < number < OURS_ALONE else (ours,):
            print(f"{contender.name}: {number} jobs", flush=True)
            found[contender.name][str(number)] = result = measure(plane, contender, number, seconds)
            print(
                json.dumps({key: value for key, value in result.items() if key not in ("writes", "reads")}),
                flush=True,
            )
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[0, 100, 1000, 5000])
    parser.add_argument(
        "--lives", type=int, default=50, help="jobs of a wave that live to their end; 0 leaves it out"
    )
    parser.add_argument("--running", type=int, default=1000, help="jobs that run for ever; 0 leaves it out")
    parser.add_argument(
        "--floor", type=int, default=1000, help="objects of each kind without an operator; 0 leaves it out"
    )
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seconds", type=float, default=1500.0, help="deadline of each part")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    result: Object = {"time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "machine": platform.platform()}
    if args.floor:
        with ControlPlane() as plane:
            peer = Peer(plane)
            peer.install()
            result["floor"] = measure_floor(plane, [Ours(plane), peer], args.floor)
            print(json.dumps(result["floor"]), flush=True)
    with ControlPlane() as plane:
        result["burst"] = compare(plane, args.sizes, args.peer, args.seconds)
    if args.lives:
        with ControlPlane() as plane:
            result["lives"] = lives.measure_lives(plane, args.lives, args.seconds)
            print(json.dumps(result["lives"]), flush=True)
    if args.running:
        with ControlPlane() as plane:
            result["running"] = lives.measure_running(plane, args.running, args.seconds)
            print(json.dumps(result["running"]), flush=True)
    write_document(result, args.out)


if __name__ == "__main__":
    main()
