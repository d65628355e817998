"""Whether a pod of a running attempt is gone. With one host gone the slice cannot go on, and Ray does not say so."""

from datetime import UTC, datetime
from itertools import product

from dpojob_api.failure_class import FailureClass
from dpojob_api.reasons import OperatorReason
from dpojob_operator import words
from dpojob_operator.observed import Observed, PodView
from dpojob_operator.policy.failure import Failure

# Exit code of a process that SIGTERM ended.
TERMINATED = 143
# Pod reasons of the kubelet when the node goes away or a pod of higher priority comes.
NODE_GOES = ("Terminated", "NodeShutdown", "Shutdown", "Preempting")


def find_loss(
    observed: Observed, hosts: int, running_since: datetime | None, spot: bool = False, slices: int = 1
) -> Failure | None:
    """Return the loss of a pod, None if all are there.

    Hosts count only once the trainer has run on all of them: before, the driver waits for a slice that KubeRay
    rebuilds. A host that is younger than that moment stands in a rebuilt slice. The same goes for a head that has not
    started yet: the pods are read before the RayJob, which may say Running by then.

    Args:
        observed: the attempt's pods, read before its RayJob, so that a regular end is never taken for a loss.
        hosts: number of hosts of a slice.
        running_since: when the trainer ran on all hosts, None if it never has.
        spot: whether the slice may be taken away at any time; a host that merely vanished then was.
        slices: number of slices; without one of them the others cannot go on either.
    """
    head = observed.head
    if head is None:
        return Failure(OperatorReason.HEAD_LOST, "The head pod is gone, and with it the driver.")
    if running_since is None and head.starting:
        return None
    if not head.alive:
        message = f"The head pod ({placed(head)}) ended: {words.ending(head)}."
        return Failure(OperatorReason.HEAD_LOST, message, class_of_end(head, spot=False), placed(head))
    if running_since is None:
        return None
    places = set(product(range(slices), range(hosts)))
    return lost_host(observed.hosts, places, running_since, spot)


def lost_host(
    pods: tuple[PodView, ...], places: set[tuple[int, int]], running_since: datetime, spot: bool
) -> Failure | None:
    """Return the loss of a host, the best explained one first."""
    ended = first_ended(pods)
    if ended is not None:
        return host_failure(ended, f"ended: {words.ending(ended)}.", spot)
    deleted = next((pod for pod in pods if pod.deleting), None)
    if deleted is not None:
        return host_failure(deleted, "is being deleted.", spot)
    rebuilt = next((pod for pod in pods if pod.created is not None and pod.created > running_since), None)
    kind = FailureClass.PREEMPTED if spot else FailureClass.INFRASTRUCTURE
    if rebuilt is not None:
        title = words.pod_title(rebuilt).capitalize()
        message = f"{title} was lost and replaced ({placed(rebuilt)}); the slice was rebuilt."
        return Failure(OperatorReason.HOST_LOST, message, kind)
    missing = sorted(places - {pod.place for pod in pods})
    if missing:
        several = any(number for number, _ in places)
        number, host = missing[0]
        title = words.host_title(number if several else None, host)
        return Failure(OperatorReason.HOST_LOST, f"The pod of {title} is gone.", kind)
    return None


def first_ended(pods: tuple[PodView, ...]) -> PodView | None:
    """Return the host that ended first by itself: once one has, KubeRay deletes the others of the slice."""
    ended = [pod for pod in pods if pod.ended is not None or pod.phase == "Failed"]
    return min(ended, key=lambda pod: (pod.deleting, end_time(pod)), default=None)


def end_time(pod: PodView) -> datetime:
    """Return when a pod's container ended, the end of time if nobody knows."""
    known = pod.ended.finished_at if pod.ended is not None else None
    return known or datetime.max.replace(tzinfo=UTC)


def host_failure(pod: PodView, what: str, spot: bool) -> Failure:
    """Return a HostLost failure."""
    message = f"{words.pod_title(pod).capitalize()} ({placed(pod)}) {what}"
    return Failure(OperatorReason.HOST_LOST, message, class_of_end(pod, spot), placed(pod))


def class_of_end(pod: PodView, spot: bool) -> FailureClass:
    """Return who is to blame for the end of a pod: the job, whoever took it away, or the machine."""
    if pod.ended is not None and pod.ended.reason == "OOMKilled":
        return FailureClass.APPLICATION
    evicted = pod.evicted or ""
    if evicted.startswith(NODE_GOES) or (pod.disrupted and not evicted.startswith("Evicted")):
        return FailureClass.PREEMPTED
    if pod.ended is not None and pod.ended.exit_code == TERMINATED and not pod.deleting:
        return FailureClass.PREEMPTED
    return FailureClass.PREEMPTED if spot and pod.deleting else FailureClass.INFRASTRUCTURE


def placed(pod: PodView) -> str:
    """Return a pod's name and node."""
    return f"pod {pod.name}, node {pod.node}" if pod.node else f"pod {pod.name}"
