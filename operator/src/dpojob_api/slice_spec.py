"""The part of ``DPOJob.spec`` about machines: the TPU slice, Secrets and pods."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema

from dpojob_api.accelerator import accelerator_types
from dpojob_api.base import ApiModel
from dpojob_api.constants import MAX_SLICES

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
SECRET_KEY_PATTERN = r"^[-._a-zA-Z0-9]+$"
ENV_NAME_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
LABEL_VALUE_PATTERN = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
LABEL_KEY_PATTERN = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
TOPOLOGY_PATTERN = r"^[0-9]+(x[0-9]+){1,2}$"
# A reference as container runtimes read it: [host[:port]/]path[:tag][@digest], the path in lower case.
IMAGE_PATTERN = (
    r"^([a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?(:[0-9]+)?/)?"
    r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$"
)
RESOURCE_NAME_PATTERN = (
    r"^(cpu|memory|ephemeral-storage|hugepages-[0-9]+[KMG]i|[a-z0-9][a-z0-9.-]*/[A-Za-z0-9_.-]+)$"
)

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=253)]
SecretKey = Annotated[str, StringConstraints(pattern=SECRET_KEY_PATTERN, max_length=253)]
EnvName = Annotated[str, StringConstraints(pattern=ENV_NAME_PATTERN, max_length=128)]
LabelValue = Annotated[str, StringConstraints(pattern=LABEL_VALUE_PATTERN, max_length=63)]
LabelKey = Annotated[str, StringConstraints(pattern=LABEL_KEY_PATTERN, max_length=316)]
ResourceName = Annotated[str, StringConstraints(pattern=RESOURCE_NAME_PATTERN, max_length=128)]
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
QUANTITY_RULE = {
    "rule": f"type(self) == int ? self >= 0 : self.matches(r'{QUANTITY_PATTERN}')",
    "message": "must be a quantity such as 500m, 4 or 16Gi",
}
XLA_FLAGS = (
    "xla_enable_async_all_gather",
    "xla_jf_spmd_threshold_for_windowed_einsum_mib",
    "xla_tpu_data_parallel_opt_different_sized_ops",
    "xla_tpu_enable_async_collective_fusion",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather",
    "xla_tpu_enable_async_collective_fusion_multiple_steps",
    "xla_tpu_enable_data_parallel_all_reduce_opt",
    "xla_tpu_enable_latency_hiding_scheduler",
    "xla_tpu_overlap_compute_collective_tc",
    "xla_tpu_scoped_vmem_limit_kib",
)
DEFAULT_XLA_FLAGS = {
    # Weights are gathered beside the products before: libtpu's own choice on every generation but v4.
    "xla_enable_async_all_gather": "true",
    # Without it the compiler turns products of weights that are divided over n chips into loops of n narrow ones.
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000",
}
XLA_FLAG_PATTERN = f"^({'|'.join(XLA_FLAGS)})$"
XlaFlag = Annotated[str, StringConstraints(pattern=XLA_FLAG_PATTERN)]
XLA_VALUE_PATTERN = "^(true|false|[0-9]{1,9})$"
XlaValue = Annotated[str, StringConstraints(pattern=XLA_VALUE_PATTERN, max_length=9)]
Quantity = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int) else value),
    StringConstraints(pattern=QUANTITY_PATTERN, max_length=32),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 32,
            "x-kubernetes-int-or-string": True,
            "x-kubernetes-validations": [QUANTITY_RULE],
        }
    ),
]


class CapacityType(StrEnum):
    """How GKE obtains the slice."""

    ON_DEMAND = "OnDemand"
    SPOT = "Spot"
    RESERVATION = "Reservation"
    FLEX_START = "FlexStart"


class CapacitySpec(ApiModel):
    """How the slice is obtained."""

    type: CapacityType = Field(default=CapacityType.ON_DEMAND, description="type is the provisioning model.")
    reservation: Name | None = Field(
        default=None, description="reservation is the name of the reservation; only with type Reservation."
    )


class AcceleratorSpec(ApiModel):
    """The TPU slice, or several slices of one shape."""

    type: Annotated[str, StringConstraints(max_length=32)] = Field(
        description="type is the Cloud TPU accelerator type, e.g. v4-64 (64 TensorCores = 32 chips = 8 hosts of 4).",
        json_schema_extra={"enum": list(accelerator_types())},
    )
    topology: Annotated[str, StringConstraints(pattern=TOPOLOGY_PATTERN, max_length=16)] | None = Field(
        default=None,
        description="topology is the shape of the slice, e.g. 2x4x4; the type's usual one if unset.",
    )
    slices: int = Field(
        default=1,
        ge=1,
        le=MAX_SLICES,
        description="slices is the number of slices of this type that train together over the data center's network; "
        "mesh.dp or mesh.fsdp must be a multiple of it.",
    )
    capacity: CapacitySpec = Field(
        default=CapacitySpec(), description="capacity is how the slice is obtained."
    )


class SecretKeyRef(ApiModel):
    """A key of a Secret in the DPOJob's namespace."""

    name: Name = Field(description="name is the Secret.")
    key: SecretKey = Field(description="key is the key in the Secret.")


class CredentialsSpec(ApiModel):
    """Secrets that the trainer reads as environment variables. gs:// uses the service account's identity."""

    hugging_face: SecretKeyRef | None = Field(
        default=None, description="huggingFace is the access token for gated or private hf:// repositories."
    )
    wandb: SecretKeyRef | None = Field(default=None, description="wandb is the Weights & Biases API key.")


class EnvVarSpec(ApiModel):
    """An environment variable: a plain value, or a key of a Secret."""

    name: EnvName = Field(description="name is the variable.")
    value: Annotated[str, StringConstraints(max_length=4096)] | None = Field(
        default=None, description="value is the plain value."
    )
    secret_key_ref: SecretKeyRef | None = Field(
        default=None, description="secretKeyRef takes the value from a Secret."
    )


class TolerationSpec(ApiModel):
    """A toleration of the head pod."""

    key: LabelKey | None = Field(default=None, description="key is the taint's key; all keys if unset.")
    operator: Literal["Exists", "Equal"] = Field(default="Exists", description="operator is Exists or Equal.")
    value: LabelValue | None = Field(default=None, description="value is the taint's value; only with Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="effect is the taint's effect; all effects if unset."
    )


class ResourcesSpec(ApiModel):
    """Requests and limits; google.com/tpu is added to the hosts by the operator."""

    requests: dict[ResourceName, Quantity] | None = Field(
        default=None, max_length=16, description="requests is what the scheduler reserves."
    )
    limits: dict[ResourceName, Quantity] | None = Field(
        default=None, max_length=16, description="limits is the most it may use."
    )


class HeadSpec(ApiModel):
    """The Ray head pod; it runs the driver and needs no TPU."""

    resources: ResourcesSpec = Field(
        default=ResourcesSpec(), description="resources is the head container's."
    )
    node_selector: dict[LabelKey, LabelValue] | None = Field(
        default=None, max_length=16, description="nodeSelector picks the head's node, on a CPU node pool."
    )
    tolerations: list[TolerationSpec] | None = Field(
        default=None, max_length=16, description="tolerations lets the head onto tainted CPU nodes."
    )


class HostSpec(ApiModel):
    """The pods on the TPU hosts."""

    resources: ResourcesSpec = Field(
        default=ResourcesSpec(), description="resources is each host container's, beside its chips."
    )


class Launcher(StrEnum):
    """How the driver starts one JAX process per host."""

    SLICE = "slice"
    EFORMER = "eformer"


class Platform(StrEnum):
    """What JAX computes on."""

    TPU = "tpu"
    CPU = "cpu"


class RuntimeSpec(ApiModel):
    """How the pods run."""

    image: Annotated[str, StringConstraints(pattern=IMAGE_PATTERN, max_length=512)] | None = Field(
        default=None,
        description="image is the trainer image; the one that the operator was installed with if unset.",
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="imagePullPolicy is Always, IfNotPresent or Never."
    )
    image_pull_secrets: list[Name] | None = Field(
        default=None, max_length=8, description="imagePullSecrets names Secrets for a private image registry."
    )
    launcher: Launcher = Field(
        default=Launcher.SLICE,
        description="launcher is slice (Ray's SlicePlacementGroup, one actor per host) or eformer (EasyDeL's executor).",
    )
    platform: Platform = Field(
        default=Platform.TPU,
        description="platform is tpu, or cpu: each host then computes on one virtual CPU device per chip, for trying a job out.",
    )
    service_account_name: Name | None = Field(
        default=None,
        description="serviceAccountName is the pods' service account (with Workload Identity for gs://); default if unset.",
    )
    env: list[EnvVarSpec] | None = Field(
        default=None,
        max_length=64,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        description="env is added to every Ray container.",
    )
    xla_flags: dict[XlaFlag, XlaValue] | None = Field(
        default=None,
        max_length=len(XLA_FLAGS),
        description="xlaFlags is options of the TPU compiler, without --, that change speed and memory but no number that is "
        f"trained: {', '.join(XLA_FLAGS)}. They join LIBTPU_INIT_ARGS on the hosts; `dpojob plan --tune` finds them. "
        f"{', '.join(f'{name} is {value}' for name, value in DEFAULT_XLA_FLAGS.items())} if unset, so that weights are gathered "
        "before they are multiplied, beside what is multiplied meanwhile.",
    )
    head: HeadSpec = Field(default=HeadSpec(), description="head is the Ray head pod.")
    host: HostSpec = Field(default=HostSpec(), description="host is the pods on the TPU hosts.")
    startup_deadline_seconds: int = Field(
        default=1800,
        ge=60,
        le=604800,
        description="startupDeadlineSeconds is how long an attempt may wait for its pods, capacity included.",
    )
