"""``dpojob.io/v1alpha1 DPOJob``: the object as the API server returns it."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from dpojob_api.accelerator import SliceShape, find_shape
from dpojob_api.mesh import ResolvedMesh, resolve_mesh
from dpojob_api.spec import DPOJobSpec, MeshSpec
from dpojob_api.status import DPOJobStatus, PlanStatus


class ObjectMeta(BaseModel):
    """The part of an object's metadata that is read here; the rest is ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    name: str
    namespace: str
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class DPOJob(BaseModel):
    """A DPOJob that admission has let through."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    api_version: Literal["dpojob.io/v1alpha1"] = "dpojob.io/v1alpha1"
    kind: Literal["DPOJob"] = "DPOJob"
    metadata: ObjectMeta
    spec: DPOJobSpec
    status: DPOJobStatus = DPOJobStatus()

    @classmethod
    def from_wire(cls, body: dict[str, Any]) -> "DPOJob":
        """Read the API server's JSON.

        Raises:
            pydantic.ValidationError: the object does not fit this version of the contract.
        """
        return cls.model_validate(body)


def mesh_axes(mesh: MeshSpec) -> dict[str, int]:
    """Return the axes of the spec by name."""
    return {"dp": mesh.dp, "fsdp": mesh.fsdp, "ep": mesh.ep, "tp": mesh.tp, "sp": mesh.sp}


def shape_of(spec: DPOJobSpec) -> SliceShape:
    """Return the shape of each slice that the spec asks for."""
    return find_shape(spec.accelerator.type, spec.accelerator.topology)


def chips_of(spec: DPOJobSpec) -> int:
    """Return the number of chips of all slices."""
    return shape_of(spec).chips * spec.accelerator.slices


def hosts_of(spec: DPOJobSpec) -> int:
    """Return the number of hosts of all slices."""
    return shape_of(spec).hosts * spec.accelerator.slices


def plan_of(spec: DPOJobSpec) -> PlanStatus:
    """Resolve accelerator and mesh.

    Raises:
        ValueError: admission rules were bypassed and the two do not fit.
    """
    shape = shape_of(spec)
    mesh: ResolvedMesh = resolve_mesh(mesh_axes(spec.mesh), chips_of(spec))
    return PlanStatus(
        accelerator_type=shape.accelerator_type,
        topology=shape.topology,
        slices=spec.accelerator.slices,
        chips=chips_of(spec),
        hosts=hosts_of(spec),
        chips_per_host=shape.chips_per_host,
        mesh=mesh,
    )
