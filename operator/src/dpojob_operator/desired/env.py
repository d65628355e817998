"""Environment variables of the Ray containers."""

from typing import Any

from dpojob_api.constants import IMAGE_VARIABLE
from dpojob_api.slice_spec import EnvVarSpec, Platform, SecretKeyRef
from dpojob_api.v1alpha1 import DPOJob, shape_of

Env = dict[str, Any]

# A slice's hosts import JAX for tens of seconds on every core. Ray's defaults take a host that is merely busy for dead.
RAY_PATIENCE: dict[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "300",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_health_check_failure_threshold": "10",
    # Ray counts cached file pages as used memory and ends the trainer at 95 %; the kernel drops them first.
    "RAY_memory_monitor_refresh_ms": "0",
}
# eformer waits seven days for a slice by default while Ray reports the job as running.
EFORMER_PATIENCE: dict[str, str] = {"EFORMER_SCALE_ADD_TIMEOUT_S": "900"}

# The root file system is read-only; what libraries write beside their data goes to the emptyDir at /tmp.
WRITABLE_HOME: dict[str, str] = {"HOME": "/tmp/home", "HF_HOME": "/tmp/huggingface"}


def plain(values: dict[str, str]) -> list[Env]:
    """Return variables with values."""
    return [{"name": name, "value": value} for name, value in values.items()]


def from_secret(name: str, ref: SecretKeyRef) -> Env:
    """Return a variable whose value stays in a Secret."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": ref.name, "key": ref.key}}}


def from_label(name: str, label: str) -> Env:
    """Return a variable with the value of a label of the pod (downward API)."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{label}']"}}}


def credentials(job: DPOJob) -> list[Env]:
    """Return the tokens of ``spec.credentials``."""
    refs = {
        "HF_TOKEN": job.spec.credentials.hugging_face,
        "WANDB_API_KEY": job.spec.credentials.wandb,
    }
    return [from_secret(name, ref) for name, ref in refs.items() if ref is not None]


def user_variable(variable: EnvVarSpec) -> Env:
    """Return a variable of ``runtime.env``."""
    if variable.secret_key_ref is not None:
        return from_secret(variable.name, variable.secret_key_ref)
    return {"name": variable.name, "value": variable.value or ""}


def slice_identity(job: DPOJob) -> list[Env]:
    """Return what makes Ray see hosts as one slice, without GKE's TPU webhook.

    Ray reads these four (``ray/_private/accelerators/tpu.py``). KubeRay labels the pods of a multi-host group with
    their host index and the name of the slice; a single-host slice has neither label.
    """
    shape = shape_of(job.spec)
    if shape.hosts > 1:
        identity = [
            from_label("TPU_WORKER_ID", "ray.io/replica-host-index"),
            from_label("TPU_NAME", "ray.io/worker-group-replica-name"),
        ]
    else:
        name: Env = {"name": "TPU_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
        identity = [{"name": "TPU_WORKER_ID", "value": "0"}, name]
    return [
        *identity,
        {"name": "TPU_ACCELERATOR_TYPE", "value": shape.accelerator_type},
        {"name": "TPU_TOPOLOGY", "value": shape.topology},
    ]


def slice_number(job: DPOJob, number: int) -> list[Env]:
    """Return which of several slices a host is in, nothing where there is one.

    libtpu reads these. The rest of its multi-slice settings is the address of a host, which only the launcher knows.
    """
    slices = job.spec.accelerator.slices
    if slices == 1:
        return []
    return plain({"MEGASCALE_NUM_SLICES": str(slices), "MEGASCALE_SLICE_ID": str(number)})


def merged(*groups: list[Env]) -> list[Env]:
    """Join groups of variables; of equal names the last group's wins and keeps the first one's place."""
    by_name = {variable["name"]: variable for group in groups for variable in group}
    return list(by_name.values())


def head_env(job: DPOJob, image: str) -> list[Env]:
    """Return the head's variables; the driver computes nothing, so its JAX never looks for a TPU."""
    return merged(every_pod("cpu", image), credentials(job), user_env(job))


def host_env(job: DPOJob, image: str, number: int = 0) -> list[Env]:
    """Return the variables of a host in the slice of a number."""
    platforms = "cpu" if job.spec.runtime.platform is Platform.CPU else "tpu,cpu"
    own = slice_identity(job) + slice_number(job, number)
    return merged(every_pod(platforms, image), own, credentials(job), user_env(job))


def every_pod(platforms: str, image: str) -> list[Env]:
    """Return what head and hosts have alike."""
    own = {"JAX_PLATFORMS": platforms, IMAGE_VARIABLE: image}
    return plain(RAY_PATIENCE | EFORMER_PATIENCE | WRITABLE_HOME | own)


def user_env(job: DPOJob) -> list[Env]:
    """Return the variables of ``runtime.env``."""
    return [user_variable(variable) for variable in job.spec.runtime.env or []]
