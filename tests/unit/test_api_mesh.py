"""Mesh arithmetic."""

import pytest

from dpojob_api.mesh import AXES, ResolvedMesh, resolve_mesh

ONES = dict.fromkeys(AXES, 1)


@pytest.mark.parametrize(
    ("axes", "dims"),
    [
        ({"fsdp": -1}, (1, 32, 1, 1, 1)),
        ({"sp": -1}, (1, 1, 1, 1, 32)),
        ({"dp": 2, "fsdp": -1, "tp": 4}, (2, 4, 1, 4, 1)),
        ({"dp": 2, "fsdp": 4, "ep": 2, "tp": 2}, (2, 4, 2, 2, 1)),
        ({"fsdp": 32, "tp": -1}, (1, 32, 1, 1, 1)),
    ],
)
def test_free_axis_takes_the_rest_of_32_chips(axes: dict[str, int], dims: tuple[int, ...]) -> None:
    mesh = resolve_mesh(ONES | axes, 32)
    assert mesh.dims() == dims
    assert mesh.data_shards == dims[0] * dims[1]


def test_one_device_is_a_mesh() -> None:
    assert resolve_mesh(ONES, 1) == ResolvedMesh(dp=1, fsdp=1, ep=1, tp=1, sp=1)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"dp": -1, "fsdp": -1}, "only one mesh axis may be -1, not dp, fsdp"),
        ({"fsdp": 16}, "mesh axes multiply to 16, but there are 32 chips"),
        ({"fsdp": -1, "tp": 3}, "mesh axes multiply to 3, which does not divide 32 chips"),
    ],
)
def test_mesh_that_does_not_fit_is_explained(axes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_mesh(ONES | axes, 32)


def test_axes_are_not_changed_in_place() -> None:
    axes = ONES | {"fsdp": -1}
    resolve_mesh(axes, 8)
    assert axes["fsdp"] == -1
