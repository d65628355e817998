"""Sentences for conditions: which pod waits for what and how it ended, what became of the pairs."""

from collections.abc import Mapping

from dpojob_api.constants import ROLE_HEAD
from dpojob_operator.observed import CheckView, Observed, PodView

MAX_WORDS = 700


def shortened(text: str, limit: int = MAX_WORDS) -> str:
    """Cut a text to a number of characters and put it on one line."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def pod_title(pod: PodView) -> str:
    """Return how a pod is called in messages: the head, host 3, or host 3 of slice 1."""
    if pod.role == ROLE_HEAD:
        return "head"
    return host_title(pod.slice_index, pod.host_index)


def host_title(slice_index: int | None, host_index: int | None) -> str:
    """Return how a host is called in messages; a slice is only named where there are several."""
    of = "" if slice_index is None else f" of slice {slice_index}"
    return f"host {host_index}{of}"


def complaint(pod: PodView) -> str | None:
    """Return what keeps a pod from running, in the scheduler's or the kubelet's words."""
    if pod.ended is not None:
        return ending(pod)
    return pod.unschedulable or pod.waiting


def ending(pod: PodView) -> str:
    """Return how a pod ended, e.g. ``exit code 137 (OOMKilled: out of memory, raise its memory)``."""
    if pod.ended is None:
        return pod.evicted or ("it is being deleted" if pod.deleting else f"it is {pod.phase}")
    details = [f"container {pod.ended.container} ended with exit code {pod.ended.exit_code}"]
    if pod.ended.reason == "OOMKilled":
        role = "head" if pod.role == ROLE_HEAD else "host"
        details.append(f"OOMKilled, that is out of memory: raise runtime.{role}.resources memory")
    elif pod.ended.reason not in ("", "Error", "Completed"):
        details.append(pod.ended.reason)
    if pod.ended.message:
        details.append(shortened(pod.ended.message, 300))
    if pod.evicted:
        details.append(pod.evicted)
    return "; ".join(details)


def job_going(job: CheckView, does: str) -> str:
    """Return what a Job that comes before the slice is doing, or what keeps its pod from running."""
    found = complaint(job.pod) if job.pod is not None else None
    return (
        f"Job {job.name} waits: {shortened(found)}" if found else f"Job {job.name} {does}; no chip is held."
    )


def job_silent(job: CheckView, lacks: str) -> str:
    """Return how such a Job ended whose trainer has not said what it was asked for."""
    pod = f" {ending(job.pod)}." if job.pod is not None and job.pod.ended is not None else ""
    return f"Job {job.name} ended without {lacks}: {job.words or 'it is complete'}.{pod}"


def describe_waiting(observed: Observed, hosts: int) -> str:
    """Return what an attempt that is starting waits for.

    Args:
        observed: the attempt's pods and RayCluster.
        hosts: number of host pods of all slices.
    """
    refused = next((c.failure for c in observed.ray_clusters if c.failure and not c.deleting), None)
    running = sum(pod.alive for pod in observed.pods)
    parts = [f"{running} of {hosts + 1} pods run"]
    groups: dict[str, list[PodView]] = {}
    for pod in observed.pods:
        words = complaint(pod)
        if words is not None and not pod.deleting:
            groups.setdefault(shortened(words), []).append(pod)
    parts += [f"{titles(pods)}: {words}" for words, pods in groups.items()]
    if refused:
        parts.append(f"the API server refuses pods: {shortened(refused)}")
    if len(parts) == 1 and running == hosts + 1:
        return "All pods run; Ray and the trainer are starting."
    return shortened("; ".join(parts), 2000)


def titles(pods: list[PodView]) -> str:
    """Return who a complaint is about, counting hosts when there are several."""
    hosts = [pod for pod in pods if pod.role != ROLE_HEAD]
    names = ["head"] if len(hosts) < len(pods) else []
    if len(hosts) == 1:
        names.append(pod_title(hosts[0]))
    elif hosts:
        names.append(f"{len(hosts)} hosts")
    return " and ".join(names)


def describe_pairs(pairs: Mapping[str, int]) -> str:
    """Return what became of the data set's pairs, by the kinds of `dpojob_api.metrics.DATA_KINDS`."""
    dropped = pairs["dropped_empty"] + pairs["dropped_equal"]
    return (
        f"{pairs['read']} pairs: {pairs['train']} train, {pairs['eval']} eval; {dropped} dropped, "
        f"{pairs['truncated']} truncated, {pairs['duplicate']} duplicate, {pairs['overlap']} in both."
    )
