"""What the benchmark of the operator reads: processes from /proc, writes and reads from the API server's own metrics."""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

WRITES = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"})
HOUSEKEEPING = frozenset(
    {"leases", "flowschemas/status", "prioritylevelconfigurations/status", "subjectaccessreviews"}
)
"""What an API server writes by itself."""
SERIES = re.compile(r"^apiserver_request_total\{([^}]*)\} ([0-9.e+]+)$", re.M)
LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Use:
    """What a process has of the machine: bytes in memory, and seconds of CPU since its start."""

    rss_bytes: int
    cpu_seconds: float


def use_of(pids: Iterable[int]) -> Use:
    """Return what some processes have together."""
    found = [one_use(pid) for pid in pids]
    return Use(sum(use.rss_bytes for use in found), sum(use.cpu_seconds for use in found))


def one_use(pid: int) -> Use:
    """Return what a process has."""
    status = Path(f"/proc/{pid}/status").read_text()
    rss = re.search(r"^VmRSS:\s+(\d+) kB", status, re.M)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return Use(int(rss[1]) * 1024 if rss else 0, ticks / os.sysconf("SC_CLK_TCK"))


def requests(metrics: str) -> Counter[tuple[str, str]]:
    """Return the requests that an API server has answered, by verb and resource with its subresource."""
    found: Counter[tuple[str, str]] = Counter()
    for labels, number in SERIES.findall(metrics):
        label = dict(LABEL.findall(labels))
        resource = "/".join(filter(None, (label.get("resource"), label.get("subresource"))))
        if resource not in HOUSEKEEPING:
            found[label.get("verb", ""), resource] += int(float(number))
    return found


def writes(before: Counter[tuple[str, str]], after: Counter[tuple[str, str]]) -> dict[str, int]:
    """Return the writes between two looks, by verb and resource."""
    return by_name(before, after, lambda verb: verb in WRITES)


def reads(before: Counter[tuple[str, str]], after: Counter[tuple[str, str]]) -> dict[str, int]:
    """Return the reads between two looks, by verb and resource."""
    return by_name(before, after, lambda verb: verb in ("GET", "LIST", "WATCH"))


def by_name(
    before: Counter[tuple[str, str]], after: Counter[tuple[str, str]], wanted: Callable[[str], bool]
) -> dict[str, int]:
    """Return the requests between two looks whose verb is wanted."""
    found = (
        (f"{verb} {resource}", number - before[verb, resource])
        for (verb, resource), number in after.items()
        if wanted(verb)
    )
    return {name: number for name, number in sorted(found) if number}


def percentile(values: Iterable[float], share: float) -> float:
    """Return the nearest-rank percentile.

    Raises:
        ValueError: there are no values.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(sent: Mapping[str, float], seen: Mapping[str, float]) -> dict[str, float]:
    """Return p50, p99 and the longest of the seconds from `sent` to `seen`."""
    seconds = [seen[name] - sent[name] for name in sent]
    values = {"p50": percentile(seconds, 0.5), "p99": percentile(seconds, 0.99), "max": max(seconds)}
    return {name: round(value, 3) for name, value in values.items()}
