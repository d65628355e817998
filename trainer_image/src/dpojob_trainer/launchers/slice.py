"""The default launcher: Ray's SlicePlacementGroup and one actor per host, with explicit ranks."""

import logging
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayError
from ray.util.placement_group import PlacementGroupSchedulingStrategy
from ray.util.tpu import SlicePlacementGroup

from dpojob_api.reasons import TrainerReason
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.channel import Address
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.host import HostTask, launch_environment, run_host
from dpojob_trainer.launchers.base import Gang
from dpojob_trainer.launchers.nodes import wait_for_hosts

log = logging.getLogger(__name__)

PLACEMENT_SECONDS = 300.0
START_SECONDS = 600.0
# Ray's name of a generation where it differs from the table's.
RAY_GENERATIONS = {"v5e": "v5litepod", "tpu7x": "v7x"}


@dataclass(frozen=True)
class Whereabouts:
    """Where an actor runs."""

    address: str
    number: int
    """Which slice it is in; 0 where there is only one."""
    worker_id: int
    name: str


class Host:
    """The actor on one host; its process has not imported JAX yet when it starts."""

    def whereabouts(self) -> Whereabouts:
        """Return the host's address, the number of its slice, its own in it and its pod's name."""
        runtime = ray.get_runtime_context()
        labels = runtime.get_node_labels()
        worker = int(labels.get("ray.io/tpu-worker-id", 0))
        number = int(os.environ.get("MEGASCALE_SLICE_ID", 0))
        return Whereabouts(ray.util.get_node_ip_address(), number, worker, socket.gethostname())

    def free_port(self) -> int:
        """Return a port that is free on this host now."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return int(probe.getsockname()[1])

    def run(self, task: HostTask) -> bool:
        """Run the host to its end; see :func:`dpojob_trainer.host.run_host`."""
        return run_host(task)


class SliceGang:
    """The actors of one run on a reserved slice.

    Args:
        reservation: has the placement group with a bundle per host, and `shutdown`, which gives it back.
        share: the resources of a host.
    """

    def __init__(self, reservation: Any, share: dict[str, float]) -> None:
        self._reservation, self._share = reservation, share
        self._actors: list[Any] = []
        self._names: dict[Any, str] = {}
        self._pending: list[Any] = []

    def start(self, config: TrainerConfig, driver: Address) -> None:
        """Start an actor per host, rank them by slice and number in it and let them run; if that fails, stop them.

        Raises:
            TrainerError: HostLost or SliceNotReady.
        """
        try:
            self._start(config, driver)
        except BaseException:
            self.stop()
            raise

    def _start(self, config: TrainerConfig, driver: Address) -> None:
        self._actors = [self._actor(config, bundle) for bundle in range(config.plan.hosts)]
        places = self._get([actor.whereabouts.remote() for actor in self._actors])
        ranked = sorted(
            zip(places, self._actors, strict=True), key=lambda pair: (pair[0].number, pair[0].worker_id)
        )
        addresses = tuple(place.address for place, _ in ranked)
        port = self._get([ranked[0][1].free_port.remote()])[0]
        for rank, (place, actor) in enumerate(ranked):
            task = HostTask(config.to_json(), rank, addresses, port, driver)
            reference = actor.run.remote(task)
            self._pending.append(reference)
            self._names[reference] = f"host {rank} ({place.name}, {place.address})"
            log.info("started %s", self._names[reference])

    def _actor(self, config: TrainerConfig, bundle: int) -> Any:
        strategy = PlacementGroupSchedulingStrategy(
            self._reservation.placement_group, placement_group_bundle_index=bundle
        )
        return (
            ray.remote(Host)
            .options(
                num_cpus=0,
                resources=self._share,
                scheduling_strategy=strategy,
                runtime_env={"env_vars": launch_environment(config)},
                max_restarts=0,
            )
            .remote()
        )

    def _get(self, references: list[Any]) -> list[Any]:
        try:
            return list(ray.get(references, timeout=START_SECONDS))
        except GetTimeoutError:
            raise TrainerError(
                TrainerReason.SLICE_NOT_READY,
                f"the hosts' processes did not start within {START_SECONDS:.0f} s",
            ) from None
        except RayError as error:
            raise TrainerError(
                TrainerReason.HOST_LOST, f"a host ended while starting: {first_line(error)}"
            ) from None

    def check(self) -> None:
        """Raise if an actor or its node has died.

        Raises:
            TrainerError: HostLost, naming the host.
        """
        ready, self._pending = (
            ray.wait(self._pending, num_returns=len(self._pending), timeout=0) if self._pending else ([], [])
        )
        for reference in ready:
            try:
                ray.get(reference)
            except OutOfMemoryError:
                raise TrainerError(
                    TrainerReason.HBM_EXHAUSTED,
                    f"{self._names[reference]} ran out of host memory: raise runtime.host.resources.limits.memory",
                ) from None
            except RayActorError:
                raise TrainerError(
                    TrainerReason.HOST_LOST,
                    f"{self._names[reference]} died: its pod was deleted, evicted, or its process killed (out of memory?)",
                ) from None
            except RayError as error:
                raise TrainerError(
                    TrainerReason.HOST_LOST, f"{self._names[reference]}: {first_line(error)}"
                ) from None

    def ended(self) -> bool:
        """Whether every actor has returned."""
        return not self._pending

    def stop(self) -> None:
        """Kill every actor and give the slice back."""
        for actor in self._actors:
            with suppress(RayError):
                ray.kill(actor, no_restart=True)
        self._actors = []
        with suppress(RayError):
            self._reservation.shutdown()


class SliceLauncher:
    """Reserves the slice with SlicePlacementGroup."""

    def launch(self, config: TrainerConfig, driver: Address) -> Gang:
        """Start the hosts.

        Raises:
            TrainerError: SliceNotReady or HostLost.
        """
        wait_for_hosts(config, ray.nodes)
        gang = SliceGang(reserve(config), {"TPU": config.plan.chips_per_host})
        gang.start(config, driver)
        return gang


def reserve(config: TrainerConfig) -> Any:
    """Reserve the slices, each as a whole.

    Raises:
        TrainerError: SliceNotReady.
    """
    generation = RAY_GENERATIONS.get(config.generation, config.generation)
    try:
        reservation = SlicePlacementGroup(
            topology=config.plan.topology, accelerator_version=generation, num_slices=config.plan.slices
        )
        ray.get(reservation.placement_group.ready(), timeout=PLACEMENT_SECONDS)
    except (RayError, RuntimeError, TimeoutError, ValueError) as error:
        raise TrainerError(
            TrainerReason.SLICE_NOT_READY,
            f"Ray could not reserve {config.plan.slices} x {generation} {config.plan.topology}: {first_line(error)}",
        ) from None
    return reservation


def first_line(error: BaseException) -> str:
    """Return the first line that an exception says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
