"""Cloud TPU slice shapes: accelerator type -> chips, hosts, topology and GKE node labels.

Rows come from ``data/tpu_table.csv`` (xpk's system characteristics, checked against KubeRay's TPU samples). The first
row of a type is its default topology. ``v4``, ``v5p`` and ``tpu7x`` types count TensorCores, two per chip;
``v5litepod`` and ``v6e`` types count chips.

``data/tpu_chips.csv`` has what one JAX device of a generation can do: peaks and bandwidths from Google's pages on each
generation (``docs.cloud.google.com/tpu/docs``), usable HBM from libtpu 0.0.37's own refusals, which is what the compiler
leaves of the chip's memory.
"""

import csv
from functools import cache
from importlib.resources import files
from math import prod

from dpojob_api.base import ApiModel

# DWS flex-start documentation: "TPU v3 and v4 are not supported".
NO_FLEX_START: tuple[str, ...] = ("v4",)
CHIP_COUNTING_PREFIXES: tuple[str, ...] = ("v5litepod", "v6e")


class SliceShape(ApiModel):
    """One row of the table: a slice that GKE can provision as a node pool."""

    accelerator_type: str
    generation: str
    gke_accelerator: str
    machine_type: str
    topology: str
    chips: int
    chips_per_host: int
    hosts: int


class ChipSpec(ApiModel):
    """What one JAX device of a generation has."""

    generation: str
    devices_per_chip: int
    peak_bf16_tflops: float
    usable_hbm_gib: float
    ici_gb_per_second: float
    clock_mhz: float

    @property
    def usable_hbm_bytes(self) -> int:
        """Bytes that programs and arrays can take."""
        return int(self.usable_hbm_gib * 2**30)

    @property
    def peak_flops(self) -> float:
        """FLOP/s of the device in bfloat16."""
        return self.peak_bf16_tflops * 1e12


@cache
def chips() -> dict[str, ChipSpec]:
    """Return every generation's device."""
    rows = csv.DictReader(_table("tpu_chips.csv"))
    return {row["generation"]: ChipSpec.model_validate(row) for row in rows}


def _table(name: str) -> list[str]:
    return (files("dpojob_api") / "data" / name).read_text(encoding="utf-8").splitlines()


@cache
def shapes() -> tuple[SliceShape, ...]:
    """Return every known slice shape in table order."""
    rows = csv.DictReader(_table("tpu_table.csv"))
    return tuple(SliceShape.model_validate(row) for row in rows)


def accelerator_types() -> tuple[str, ...]:
    """Return every accelerator type once, in table order."""
    return tuple(dict.fromkeys(shape.accelerator_type for shape in shapes()))


def topologies(accelerator_type: str) -> tuple[str, ...]:
    """Return the topologies of a type, the default first."""
    return tuple(dict.fromkeys(s.topology for s in shapes() if s.accelerator_type == accelerator_type))


def find_shape(accelerator_type: str, topology: str | None = None) -> SliceShape:
    """Return the slice shape of a type, by default its first topology.

    Raises:
        ValueError: the type is not in the table, or it has no such topology.
    """
    known = [s for s in shapes() if s.accelerator_type == accelerator_type]
    if not known:
        raise ValueError(f"unknown accelerator type {accelerator_type!r}")
    if topology is None:
        return known[0]
    for shape in known:
        if shape.topology == topology:
            return shape
    raise ValueError(
        f"{accelerator_type} has no topology {topology!r}; it has {', '.join(topologies(accelerator_type))}"
    )


def chips_of(topology: str) -> int:
    """Return the number of chips of a topology such as ``2x4x4``."""
    return prod(int(side) for side in topology.split("x"))
