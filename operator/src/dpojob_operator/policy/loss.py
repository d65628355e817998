"""Whether a pod of a running attempt is gone. With one host gone the slice cannot go on, and Ray does not say so."""

from datetime import datetime

from dpojob_api.reasons import OperatorReason
from dpojob_operator import words
from dpojob_operator.observed import Observed, PodView
from dpojob_operator.policy.failure import Failure


def find_loss(observed: Observed, hosts: int, running_since: datetime | None) -> Failure | None:
    """Return the loss of a pod, None if all are there.

    Hosts count only once the trainer has run on all of them: before, the driver waits for a slice that KubeRay
    rebuilds. A host that is younger than that moment stands in a rebuilt slice.

    Args:
        observed: the attempt's pods, read before its RayJob, so that a regular end is never taken for a loss.
        hosts: number of hosts of the slice.
        running_since: when the trainer ran on all hosts, None if it never has.
    """
    head = observed.head
    if head is None:
        return Failure(OperatorReason.HEAD_LOST, "The head pod is gone, and with it the driver.")
    if not head.alive:
        return Failure(OperatorReason.HEAD_LOST, f"The head pod {placed(head)} ended: {words.ending(head)}.")
    if running_since is None:
        return None
    return lost_host(observed.hosts, hosts, running_since)


def lost_host(pods: tuple[PodView, ...], hosts: int, running_since: datetime) -> Failure | None:
    """Return the loss of a host, the best explained one first."""
    ended = next((pod for pod in pods if pod.ended is not None or pod.phase == "Failed"), None)
    if ended is not None:
        return host_failure(f"Host {ended.host_index} {placed(ended)} ended: {words.ending(ended)}.")
    deleted = next((pod for pod in pods if pod.deleting), None)
    if deleted is not None:
        return host_failure(f"Host {deleted.host_index} {placed(deleted)} is being deleted.")
    rebuilt = next((pod for pod in pods if pod.created is not None and pod.created > running_since), None)
    if rebuilt is not None:
        return host_failure(
            f"Host {rebuilt.host_index} was lost and replaced {placed(rebuilt)}; the slice was rebuilt."
        )
    missing = sorted(set(range(hosts)) - {pod.host_index for pod in pods if pod.host_index is not None})
    if missing:
        return host_failure(f"The pod of host {missing[0]} is gone.")
    return None


def host_failure(message: str) -> Failure:
    """Return a HostLost failure."""
    return Failure(OperatorReason.HOST_LOST, message)


def placed(pod: PodView) -> str:
    """Return a pod's name and node in brackets."""
    return f"(pod {pod.name}, node {pod.node})" if pod.node else f"(pod {pod.name})"
