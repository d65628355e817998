"""The interface between the driver and a way of starting processes on the slice."""

from typing import Protocol

from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.channel import Address


class Gang(Protocol):
    """The processes of one run, one per host; they live and die together."""

    def check(self) -> None:
        """Raise if a process has died.

        Raises:
            TrainerError: HostLost, naming the host.
        """
        ...

    def ended(self) -> bool:
        """Whether every process has ended by itself."""
        ...

    def stop(self) -> None:
        """End every process and give the slice back; safe to call at any time and twice."""
        ...


class Launcher(Protocol):
    """Starts a gang."""

    def launch(self, config: TrainerConfig, driver: Address) -> Gang:
        """Reserve the slice and start :func:`dpojob_trainer.host.run_host` on every host.

        Raises:
            TrainerError: SliceNotReady or HostLost.
        """
        ...
