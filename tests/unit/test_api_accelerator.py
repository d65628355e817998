"""The accelerator table: consistent rows, and the naming rule that admission counts chips by."""

import pytest

from dpojob_api import accelerator
from dpojob_api.accelerator import SliceShape, chips_of, find_shape, shapes, topologies


def by_name(shape: SliceShape) -> str:
    return f"{shape.accelerator_type} {shape.topology} {shape.machine_type}"


@pytest.mark.parametrize("shape", shapes(), ids=by_name)
def test_hosts_times_chips_per_host_are_the_chips_of_the_topology(shape: SliceShape) -> None:
    assert shape.hosts * shape.chips_per_host == shape.chips == chips_of(shape.topology)


@pytest.mark.parametrize("shape", shapes(), ids=by_name)
def test_number_in_the_name_counts_cores_or_chips(shape: SliceShape) -> None:
    prefix, number = shape.accelerator_type.split("-")
    per_chip = 1 if prefix in accelerator.CHIP_COUNTING_PREFIXES else 2
    assert shape.chips * per_chip == int(number)


@pytest.mark.parametrize("kind", accelerator.accelerator_types())
def test_every_topology_of_a_type_has_the_same_chips(kind: str) -> None:
    assert len({chips_of(topology) for topology in topologies(kind)}) == 1


def test_table_has_the_generations() -> None:
    assert {shape.generation for shape in shapes()} == {"v4", "v5e", "v5p", "v6e", "tpu7x"}
    assert accelerator.chips().keys() == {shape.generation for shape in shapes()}


def test_rows_are_unique() -> None:
    assert len({(s.accelerator_type, s.topology, s.machine_type) for s in shapes()}) == len(shapes())


def test_v4_64_is_eight_hosts_of_four_chips() -> None:
    assert find_shape("v4-64").to_wire() == {
        "acceleratorType": "v4-64",
        "generation": "v4",
        "gkeAccelerator": "tpu-v4-podslice",
        "machineType": "ct4p-hightpu-4t",
        "topology": "2x4x4",
        "chips": 32,
        "chipsPerHost": 4,
        "hosts": 8,
    }


def test_first_row_of_a_type_is_its_default_topology() -> None:
    assert find_shape("v4-512").topology == "4x8x8"
    assert find_shape("v4-512", "4x4x16").hosts == 64


def test_unknown_type_is_named() -> None:
    with pytest.raises(ValueError, match="unknown accelerator type 'v4-65'"):
        find_shape("v4-65")


def test_wrong_topology_is_answered_with_the_right_ones() -> None:
    with pytest.raises(ValueError, match="v4-64 has no topology '2x2x4'; it has 2x4x4"):
        find_shape("v4-64", "2x2x4")
