"""What the API server takes for the objects of many jobs when no operator runs: nothing that makes them can be faster.

The objects are those that the operator makes, sent from a tight loop over many connections.
"""

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from hack.cluster.localcluster import daemons
from tests.chaos.control_plane import ControlPlane

from benchmarks.burst import Kind, send_all
from benchmarks.contenders import Contender, make_bodies, make_namespace
from benchmarks.measure import Use, use_of
from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator import kube
from dpojob_operator.desired import configmap, rayjob

Object = dict[str, Any]

NAMESPACE = "bench-floor"
IMAGE = "localhost/absent:none"
WARM = 50
"""Objects of a kind that are created before it is measured: the server compiles a kind's schema at its first use."""


def measure_floor(plane: ControlPlane, contenders: list[Contender], number: int) -> Object:
    """Create so many objects of each kind and return wall seconds, and milliseconds of CPU per object, by kind.

    Args:
        contenders: the first one's jobs are ours.
    """
    make_namespace(plane, NAMESPACE)
    found: Object = {"number": number, "cpus": len(os.sched_getaffinity(0))}
    kinds = {
        contender.kinds(NAMESPACE)[0]: make_bodies(contender, NAMESPACE, number + WARM)
        for contender in contenders
    }
    found["kinds"] = {name_of(kind): create(plane, kind, bodies) for kind, bodies in kinds.items()}
    stored = json.loads(plane.call("GET", next(iter(kinds)).path))["items"]
    jobs = [DPOJob.from_wire(body) for body in stored]
    maps = {job.metadata.name: configmap.build_configmap(job, 1) for job in jobs}
    ray_jobs = {job.metadata.name: rayjob.build_rayjob(job, 1, IMAGE) for job in jobs}
    for resource, bodies in ((kube.CONFIGMAPS, maps), (kube.RAYJOBS, ray_jobs)):
        kind = Kind(resource.path(NAMESPACE))
        found["kinds"][name_of(kind)] = create(plane, kind, bodies)
    return found


def name_of(kind: Kind) -> str:
    """Return the plural of a kind."""
    return kind.path.rpartition("/")[2]


def create(plane: ControlPlane, kind: Kind, bodies: Mapping[str, Object]) -> Object:
    """Create objects and return what it took."""
    names = list(bodies)
    send_all(plane.connection, kind, {name: bodies[name] for name in names[:WARM]})
    measured = {name: bodies[name] for name in names[WARM:]}
    before, begun = used(plane), time.monotonic()
    send_all(plane.connection, kind, measured)
    seconds, after = time.monotonic() - begun, used(plane)
    per_object = {
        f"{name}_ms": round(1000 * (after[name].cpu_seconds - before[name].cpu_seconds) / len(measured), 2)
        for name in after
    }
    return {"seconds": round(seconds, 2), **per_object}


def used(plane: ControlPlane) -> dict[str, Use]:
    """Return what API server, etcd and this process, which sends, have used."""
    pids = {
        "apiserver": daemons.pid_of(plane.folders, "kube-apiserver"),
        "etcd": daemons.pid_of(plane.folders, "etcd"),
        "sender": os.getpid(),
    }
    return {name: use_of([pid]) for name, pid in pids.items() if pid is not None}
