"""Device mesh arithmetic: from the axes in the spec to their sizes on a slice.

Axis names and order are EasyDeL 0.3.0's (``infra/base_config.py``): dp, fsdp, ep, tp, sp.
"""

from math import prod

from pydantic import Field

from dpojob_api.base import ApiModel

AXES: tuple[str, ...] = ("dp", "fsdp", "ep", "tp", "sp")
# Those that divide a batch.
DATA_AXES = ("dp", "fsdp")


class ResolvedMesh(ApiModel):
    """Size of every mesh axis; their product is the number of devices."""

    dp: int = Field(description="dp is the size of the axis of replicated data parallelism.")
    fsdp: int = Field(description="fsdp is the size of the axis of sharded data parallelism.")
    ep: int = Field(description="ep is the size of the axis of expert parallelism.")
    tp: int = Field(description="tp is the size of the axis of tensor parallelism.")
    sp: int = Field(description="sp is the size of the axis of sequence parallelism.")

    def dims(self) -> tuple[int, int, int, int, int]:
        """Return the sizes in EasyDeL's axis order."""
        return (self.dp, self.fsdp, self.ep, self.tp, self.sp)

    @property
    def data_shards(self) -> int:
        """Number of shards the batch dimension is divided into (dp x fsdp)."""
        return self.dp * self.fsdp


def resolve_mesh(axes: dict[str, int], devices: int) -> ResolvedMesh:
    """Replace the one axis of size -1 by what is left of the devices.

    Raises:
        ValueError: two axes are -1, or the sizes do not multiply to the number of devices.
    """
    free = [name for name in AXES if axes[name] == -1]
    if len(free) > 1:
        raise ValueError(f"only one mesh axis may be -1, not {', '.join(free)}")
    fixed = prod(size for size in axes.values() if size != -1)
    if free:
        if devices % fixed:
            raise ValueError(f"mesh axes multiply to {fixed}, which does not divide {devices} chips")
        axes = axes | {free[0]: devices // fixed}
    elif fixed != devices:
        raise ValueError(f"mesh axes multiply to {fixed}, but there are {devices} chips")
    return ResolvedMesh(**axes)
