"""The launcher of ``dpojob run``: a Ray of its own on this machine, and the slice's hosts as processes beside each other.

Only the reservation differs from a cluster's: actors, ranks, supervision and the end are the slice launcher's.
"""

import logging

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.channel import Address
from dpojob_trainer.launchers.base import Gang
from dpojob_trainer.launchers.slice import PLACEMENT_SECONDS, SliceGang

# A host's place on this machine; Ray's own "TPU" would look for chips.
HOST_RESOURCE = "dpojob-host"
# The hosts exchange a few kilobytes through Ray; its default would take a third of the memory.
OBJECT_STORE_BYTES = 100 * 2**20


class Places:
    """The reserved places of the hosts."""

    def __init__(self, hosts: int) -> None:
        self.placement_group = placement_group([{HOST_RESOURCE: 1}] * hosts)
        ray.get(self.placement_group.ready(), timeout=PLACEMENT_SECONDS)

    def shutdown(self) -> None:
        """Give them back."""
        remove_placement_group(self.placement_group)


class MachineLauncher:
    """Starts every host of the plan on this machine."""

    def launch(self, config: TrainerConfig, driver: Address) -> Gang:
        """Start the hosts.

        Raises:
            TrainerError: SliceNotReady or HostLost.
        """
        gang = SliceGang(Places(config.plan.hosts), {HOST_RESOURCE: 1})
        gang.start(config, driver)
        return gang


def embed_ray(hosts: int, *, verbose: bool) -> None:
    """Start a Ray that ends with this process.

    Args:
        hosts: how many host processes it has a place for.
        verbose: repeat what the hosts log.
    """
    ray.init(
        address="local",
        num_cpus=max(hosts, 1),
        resources={HOST_RESOURCE: hosts},
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=verbose,
        logging_level=logging.WARNING,
    )
