"""The results of ``make bench-operator`` as a file and as the tables between two marks of docs/benchmarks.md."""

import json
from pathlib import Path
from typing import Any

from benchmarks import document

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "operator.json"
MIB = 1024 * 1024
KIB = 1024

Object = dict[str, Any]


def write_document(result: Object, path: Path) -> None:
    """Write the results, and the document if they are the ones that are kept."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    if path != RESULTS:
        return
    document.keep("operator", section(result))


def section(result: Object) -> str:
    """Return the Markdown of the results."""
    lines = [
        "## Many jobs at once",
        "",
        f"`make bench-operator`, {result['time']}, 2 shared cores: 16 threads create jobs on a private API server; seconds from",
        "sending a job until a watch shows its RayJob (the peer: its JobSet). No KubeRay acts and the peer's jobs are suspended;",
        "the peer's webhooks are left out. Writes are the API server's own count. Only what is in the same column compares.",
        "",
        "| | jobs | p50 s | p99 s | max s | writes per job | memory, MiB | KiB per job | CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, sizes in result["burst"].items():
        lines += [burst_row(name, size, entry) for size, entry in sizes.items()]
    lines += [
        "",
        *ratios(result["burst"]),
        *burst_writes(result["burst"]),
        *floor_lines(result.get("floor")),
        *lives_lines(result.get("lives")),
        *running_lines(result.get("running")),
    ]
    return "\n".join(lines) + "\n"


def burst_row(name: str, size: str, entry: Object) -> str:
    """Return a row of the first table."""
    rss = round(entry["rss_bytes"] / MIB, 1)
    if "p50" not in entry:
        return f"| {name} | {size} | | | | | {rss} | | |"
    seconds = " | ".join(str(entry[key]) for key in ("p50", "p99", "max"))
    per_job = round(entry["rss_bytes_per_job"] / KIB, 1)
    return f"| {name} | {size} | {seconds} | {entry['writes_per_job']} | {rss} | {per_job} | {entry['cpu_seconds']} |"


def ratios(burst: Object) -> list[str]:
    """Return how the contenders compare at the sizes that both have."""
    ours, peer = burst.values()
    found = [(size, ours[size]["p99"] / peer[size]["p99"]) for size in peer if size in ours]
    if not found:
        return []
    return [
        f"p99 against the peer's: {', '.join(f'{ratio:.3f} at {size} jobs' for size, ratio in found)}.",
        "",
    ]


def burst_writes(burst: Object) -> list[str]:
    """Return the writes until a job's child is there, at the largest size that both contenders have."""
    size = max((int(size) for size in set.intersection(*map(set, burst.values()))), default=0)
    if not size:
        return []
    lines = [f"Writes per job at {size} jobs, until nothing is written any more:", ""]
    lines += ["| | verb and resource | writes per job |", "|---|---|---|"]
    for name, sizes in burst.items():
        found = sizes[str(size)]["writes"].items()
        lines += [f"| {name} | {what} | {number / size:.2f} |" for what, number in found]
    return [*lines, ""]


def floor_lines(found: Object | None) -> list[str]:
    """Return what the API server takes for the objects alone."""
    if found is None:
        return []
    number, kinds = found["number"], found["kinds"]
    lines = [
        f"The API server alone, no operator: {number} objects of each kind from a tight loop, milliseconds of CPU per object.",
        "",
        "| kind | seconds | API server | etcd | sender |",
        "|---|---|---|---|---|",
    ]
    for kind, entry in kinds.items():
        cpu = " | ".join(str(entry[f"{name}_ms"]) for name in ("apiserver", "etcd", "sender"))
        lines.append(f"| {kind} | {entry['seconds']} | {cpu} |")
    ours = [kinds[kind] for kind in ("dpojobs", "configmaps", "rayjobs")]
    needed = sum(entry["apiserver_ms"] + entry["etcd_ms"] + entry["sender_ms"] for entry in ours)
    least = needed * number / 1000 / found["cpus"]
    return [
        *lines,
        "",
        f"So {number} jobs with ConfigMap and RayJob cost {needed:.1f} ms each before any operator does anything: on {found['cpus']} CPUs"
        f" {least:.1f} s at the least until the last RayJob exists.",
        "",
    ]


def lives_lines(found: Object | None) -> list[str]:
    """Return the table of whole lives."""
    if found is None:
        return []
    lines = [
        f"Whole lives, {found['jobs']} jobs a wave, KubeRay, kubelet and trainer played; the operator's own count of its writes:",
        "",
        "| wave | seconds | writes per job | memory, MiB | after their deletion | CPU s |",
        "|---|---|---|---|---|---|",
    ]
    for number, wave in enumerate(found["waves"], 1):
        sizes = " | ".join(
            str(round(wave[key] / MIB, 1)) for key in ("rss_bytes", "rss_bytes_after_deletion")
        )
        lines.append(
            f"| {number} | {wave['seconds']} | {wave['writes_per_job']} | {sizes} | {wave['cpu_seconds']} |"
        )
    writes = [f"| {what} | {number} |" for what, number in found["waves"][-1]["writes"].items()]
    title = "The writes of a job of the last wave, from creation to Complete:"
    return [*lines, "", title, "", "| verb and resource | writes per job |", "|---|---|", *writes, ""]


def running_lines(found: Object | None) -> list[str]:
    """Return what jobs that run take."""
    if found is None:
        return []
    return [
        f"{found['jobs']} jobs running: {found['rss_bytes'] / MIB:.0f} MiB ({found['rss_bytes_per_job'] / KIB:.1f} KiB per job with its"
        f" RayCluster and three pods), {found['cpu_share']:.0%} of one CPU, {found['api_calls_per_second']} calls of the API server per"
        f" second. Killed and started again, the operator has looked at each after {found['restart_seconds']} s,"
        f" {found['rss_bytes_after_restart'] / MIB:.0f} MiB.",
    ]
