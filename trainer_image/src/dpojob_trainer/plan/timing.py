"""From work to seconds: a model, not a measurement. Pure.

A step takes what its instructions take by the compiler's own estimate, custom kernels at a share of the peak, and the
collectives that the device waits for; other collectives run beside them and count only if they take longer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dpojob_api.accelerator import ChipSpec
from dpojob_trainer.plan.measured import Measured

# Splash attention on its blocks of 128 positions; the compiler estimates nothing for custom kernels.
KERNEL_SHARE = 0.4
# A ring along one axis of a torus uses a part of the chip's links.
ICI_SHARE = 0.5


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step, as a sum and as its parts.

    Attributes:
        compute: instructions and custom kernels.
        waiting: collectives that nothing runs beside.
        hidden: collectives beside the instructions.
        floor: all arithmetic at the peak of all devices: no step can be faster.
    """

    compute: float
    waiting: float
    hidden: float
    floor: float

    @property
    def seconds(self) -> float:
        """The estimate."""
        return max(self.compute, self.hidden, self.floor - self.waiting) + self.waiting

    def scaled(self, share: float) -> "StepTime":
        """Return the time of a batch with that share of the positions; parameters travel all the same."""
        return StepTime(self.compute * share, self.waiting, self.hidden, self.floor * share)


def step_time(measured: Measured, chip: ChipSpec, devices: int) -> StepTime:
    """Return the seconds of a measured step."""
    peak = chip.peak_flops
    links = chip.ici_gb_per_second * 1e9 * ICI_SHARE
    instructions = measured.cycles / (chip.clock_mhz * 1e6)
    kernels = measured.kernels / devices / (peak * KERNEL_SHARE)
    return StepTime(
        compute=instructions + kernels,
        waiting=measured.blocking / links,
        hidden=measured.hidden / links,
        floor=measured.flops / devices / peak,
    )


@dataclass(frozen=True)
class Load:
    """The batches of one length in an epoch.

    Attributes:
        sequence: positions of a sequence.
        batches: how many batches of an epoch have it.
    """

    sequence: int
    batches: int


def mean_step(times: Mapping[int, StepTime], loads: Sequence[Load]) -> float:
    """Return the seconds of a step on average over an epoch.

    Args:
        times: of batches by their length, the longest one's among them. Other batches are like those of the next longer one.
        loads: of an epoch; at least one batch.
    """
    batches = sum(load.batches for load in loads)
    return sum(load.batches * seconds_of(load.sequence, times) for load in loads) / batches


def seconds_of(sequence: int, times: Mapping[int, StepTime]) -> float:
    """Return the seconds of a step on sequences of so many positions."""
    known = min(length for length in times if length >= sequence)
    return times[known].scaled(sequence / known).seconds
