"""The slice as Ray sees it: which hosts have joined, and waiting for the rest."""

import logging
import time
from collections.abc import Callable
from typing import Any

from dpojob_api.reasons import TrainerReason
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.errors import TrainerError

log = logging.getLogger(__name__)

# KubeRay submits the job once its pods are ready; a raylet may still need a moment, or minutes on a busy machine.
JOIN_SECONDS = 900.0
POLL_SECONDS = 2.0
WORKER_ID_LABEL = "ray.io/tpu-worker-id"
Node = dict[str, Any]


def joined_hosts(nodes: list[Node], chips_per_host: int) -> list[Node]:
    """Return the living Ray nodes that have a whole host's chips."""
    return [node for node in nodes if node["Alive"] and node["Resources"].get("TPU", 0) >= chips_per_host]


def wait_for_hosts(
    config: TrainerConfig, nodes: Callable[[], list[Node]], seconds: float = JOIN_SECONDS
) -> list[Node]:
    """Wait until every host of the slice has joined Ray and return them by their number in the slice.

    Raises:
        TrainerError: SliceNotReady after `seconds`.
    """
    plan, told, deadline = config.plan, -1, time.monotonic() + seconds
    while True:
        found = joined_hosts(nodes(), plan.chips_per_host)
        if len(found) >= plan.hosts:
            return sorted(found, key=worker_id)
        if len(found) != told:
            log.info("%d of %d hosts have joined Ray", len(found), plan.hosts)
            told = len(found)
        if time.monotonic() > deadline:
            raise TrainerError(
                TrainerReason.SLICE_NOT_READY,
                f"{len(found)} of {plan.hosts} hosts with {plan.chips_per_host} chips joined Ray in {seconds:.0f} s; "
                "look at the host pods' logs",
            )
        time.sleep(POLL_SECONDS)


def worker_id(node: Node) -> int:
    """Return a host's number in the slice, which Ray takes from TPU_WORKER_ID."""
    return int(node.get("Labels", {}).get(WORKER_ID_LABEL, 0))
