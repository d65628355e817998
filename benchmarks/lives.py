"""Whole lives of jobs, and jobs that run: KubeRay, kubelet and trainer are played by tests/chaos, the operator is real."""

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

from tests.chaos.api import Api
from tests.chaos.control_plane import ControlPlane
from tests.chaos.player import Player
from tests.chaos.runs import Fate

from benchmarks.burst import send_all, until
from benchmarks.contenders import Ours, make_bodies, make_namespace
from benchmarks.measure import use_of

Object = dict[str, Any]

PACE_SECONDS = 2.0
"""Between two changes of an attempt: a run of 40 steps then takes half a minute."""
WAVES = 3
WATCHED_SECONDS = 60.0
CALLS = re.compile(
    r'^dpojob_operator_api_calls_total\{code="2\d\d",resource="([^"]*)",verb="([^"]*)"\} ([0-9.e+]+)$', re.M
)
SUMMARY = re.compile(r'^dpojob_operator_jobs\{summary="([^"]*)"\} ([0-9.e+]+)$', re.M)
WRITES = frozenset({"apply", "create", "delete", "patch", "patch status"})


def written(metrics: str) -> dict[str, int]:
    """Return the operator's successful writes so far, by its own count."""
    found = {
        f"{verb} {resource}": int(float(n)) for resource, verb, n in CALLS.findall(metrics) if verb in WRITES
    }
    return dict(sorted(found.items()))


def summaries(metrics: str) -> dict[str, int]:
    """Return the number of jobs by summary, by the operator's own count."""
    return {summary: int(float(number)) for summary, number in SUMMARY.findall(metrics)}


def measure_lives(plane: ControlPlane, number: int, seconds: float) -> Object:
    """Let waves of jobs live from creation to Complete and return the operator's writes and memory after each."""
    return asyncio.run(_lives(plane, number, seconds))


async def _lives(plane: ControlPlane, number: int, seconds: float) -> Object:
    namespace, ours = "bench-lives", Ours(plane)
    make_namespace(plane, namespace)
    waves = []
    async with Api(plane.connection) as api, Player(api, namespace, pace=PACE_SECONDS):
        try:
            await asyncio.to_thread(ours.start, namespace)
            for wave in range(WAVES):
                waves.append(await _wave(plane, ours, namespace, f"wave{wave}", number, seconds))
        finally:
            ours.stop()
    return {"jobs": number, "waves": waves}


async def _wave(
    plane: ControlPlane, ours: Ours, namespace: str, prefix: str, number: int, seconds: float
) -> Object:
    bodies = {f"{prefix}-{name}": body for name, body in make_bodies(ours, namespace, number).items()}
    for name, body in bodies.items():
        body["metadata"]["name"] = name
    parent, _ = ours.kinds(namespace)
    before, cpu, begun = written(ours.metrics()), use_of(ours.pids).cpu_seconds, time.monotonic()
    await asyncio.to_thread(send_all, plane.connection, parent, bodies)
    await wait(
        f"{number} jobs Complete", lambda: summaries(ours.metrics()).get("Complete") == number, seconds
    )
    took, after, use = time.monotonic() - begun, written(ours.metrics()), use_of(ours.pids)
    per_job = {name: round((after[name] - before.get(name, 0)) / number, 2) for name in after}
    await asyncio.to_thread(plane.call, "DELETE", parent.path)
    await wait("the jobs are gone", lambda: not summaries(ours.metrics()), seconds)
    return {
        "seconds": round(took, 1),
        "writes_per_job": round(sum(per_job.values()), 2),
        "writes": {name: count for name, count in per_job.items() if count},
        "rss_bytes": use.rss_bytes,
        "cpu_seconds": round(use.cpu_seconds - cpu, 2),
        "rss_bytes_after_deletion": use_of(ours.pids).rss_bytes,
    }


async def wait(what: str, reached: Callable[[], bool], seconds: float) -> float:
    """Wait in a thread, so that the played world goes on, and return the seconds that it took."""
    return await asyncio.to_thread(until, what, reached, seconds)


def measure_running(plane: ControlPlane, number: int, seconds: float) -> Object:
    """Let jobs run for ever and return what the operator takes, and how long a new one needs to have looked at each."""
    return asyncio.run(_running(plane, number, seconds))


async def _running(plane: ControlPlane, number: int, seconds: float) -> Object:
    namespace, ours = "bench-running", Ours(plane)
    make_namespace(plane, namespace)
    bodies = make_bodies(ours, namespace, number)
    async with Api(plane.connection) as api, Player(api, namespace, pace=PACE_SECONDS) as player:
        player.fates = {name: {1: Fate("hold", 10)} for name in bodies}
        try:
            await asyncio.to_thread(ours.start, namespace)
            idle = use_of(ours.pids).rss_bytes
            await asyncio.to_thread(send_all, plane.connection, ours.kinds(namespace)[0], bodies)
            await wait(
                f"{number} jobs Running", lambda: summaries(ours.metrics()).get("Running") == number, seconds
            )
            result = await _steady(ours)
            result["rss_bytes_idle"] = idle
            result["rss_bytes_per_job"] = round((result["rss_bytes"] - idle) / number)
            ours.stop()
            begun = time.monotonic()
            await asyncio.to_thread(ours.start, namespace)
            ready = time.monotonic() - begun
            await wait(
                "each looked at again", lambda: summaries(ours.metrics()).get("Running") == number, seconds
            )
            result["restart_seconds"] = round(time.monotonic() - begun, 2)
            result["restart_seconds_until_ports_answer"] = round(ready, 2)
            result["restart_writes"] = written(ours.metrics())
            result["rss_bytes_after_restart"] = use_of(ours.pids).rss_bytes
        finally:
            ours.stop()
    return {"jobs": number, **result}


async def _steady(ours: Ours) -> Object:
    """Return what the operator takes while nothing changes but time."""
    before, calls = use_of(ours.pids), reads_and_writes(ours.metrics())
    await asyncio.sleep(WATCHED_SECONDS)
    after, later = use_of(ours.pids), reads_and_writes(ours.metrics())
    return {
        "rss_bytes": after.rss_bytes,
        "cpu_share": round((after.cpu_seconds - before.cpu_seconds) / WATCHED_SECONDS, 3),
        "api_calls_per_second": round((later - calls) / WATCHED_SECONDS, 2),
    }


def reads_and_writes(metrics: str) -> int:
    """Return the operator's calls so far, watches not counted."""
    return sum(int(float(number)) for _, _, number in CALLS.findall(metrics))
