"""The second launcher: EasyDeL's executor (eformer), told what it would otherwise guess on the driver's machine.

eformer finds hosts and chips by looking at the machine of the driver, which has none under KubeRay, and returns
failures as values. Its call index is not the host's number in the slice, so ranks come from TPU_WORKER_ID.
"""

import os
import threading
from typing import Any

import ray
from eformer.executor.ray import TpuAcceleratorConfig, execute
from eformer.executor.ray.types import JobSucceeded
from ray.runtime_env import RuntimeEnv

from dpojob_api.reasons import TrainerReason
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.channel import Address
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.host import HostTask, launch_environment, run_host
from dpojob_trainer.launchers.base import Gang
from dpojob_trainer.launchers.nodes import wait_for_hosts

COORDINATOR_PORT = 8476
STOP_SECONDS = 5.0


def run_by_worker_id(config: str, addresses: tuple[str, ...], port: int, driver: Address) -> bool:
    """Run the host whose number in the slice is TPU_WORKER_ID; called by eformer in a process of its own."""
    rank = int(os.environ["TPU_WORKER_ID"])
    return run_host(HostTask(config, rank, addresses, port, driver))


class EformerGang:
    """The hosts under eformer's `execute`, which blocks until all have ended and therefore has a thread."""

    def __init__(self, config: TrainerConfig, addresses: tuple[str, ...], driver: Address) -> None:
        self._status: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._execute, args=(config, addresses, driver), daemon=True)
        self._thread.start()

    def _execute(self, config: TrainerConfig, addresses: tuple[str, ...], driver: Address) -> None:
        accelerator = TpuAcceleratorConfig(
            tpu_version=config.plan.accelerator_type,
            execution_env=RuntimeEnv(env_vars=launch_environment(config)),
            cpu_count=1,
            chips_per_host=config.plan.chips_per_host,
            worker_count=config.plan.hosts,
            runtime_name=config.job.name,
        )
        task = ray.remote(num_cpus=0, max_retries=0)(run_by_worker_id)
        try:
            self._status = execute(accelerator)(task)(
                config=config.to_json(), addresses=addresses, port=COORDINATOR_PORT, driver=driver
            )
        except Exception as error:
            self._error = error

    def check(self) -> None:
        """Raise what eformer returned as a value.

        Raises:
            TrainerError: HostLost.
        """
        if self._thread.is_alive() or isinstance(self._status, JobSucceeded):
            return
        cause = self._error or getattr(self._status, "error", None) or self._status
        words = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
        kind = type(self._status).__name__ if self._status is not None else "error"
        raise TrainerError(TrainerReason.HOST_LOST, f"eformer ended with {kind}: {words[-1]}")

    def ended(self) -> bool:
        """Whether `execute` has returned."""
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Let `execute` return; what still runs then ends with the driver's Ray job."""
        self._thread.join(STOP_SECONDS)


class EformerLauncher:
    """Starts the hosts with eformer."""

    def launch(self, config: TrainerConfig, driver: Address) -> Gang:
        """Start the hosts.

        Raises:
            TrainerError: SliceNotReady.
        """
        nodes = wait_for_hosts(config, ray.nodes)
        head = f"TPU-{config.plan.accelerator_type}-head"
        if not ray.cluster_resources().get(head):
            raise TrainerError(
                TrainerReason.SLICE_NOT_READY,
                f"no host offers {head}: TPU_NAME, TPU_WORKER_ID and TPU_ACCELERATOR_TYPE must be set on the hosts",
            )
        addresses = tuple(node["NodeManagerAddress"] for node in nodes[: config.plan.hosts])
        return EformerGang(config, addresses, driver)
