"""The devices of a slice that is not there, as libtpu's ahead-of-time compiler describes them."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any
from unittest import mock

from packaging.requirements import Requirement

from dpojob_api.accelerator import ChipSpec, chips
from dpojob_api.constants import USABLE_BYTES_VARIABLE
from dpojob_api.reasons import TrainerReason
from dpojob_api.slice_spec import Platform
from dpojob_api.status import PlanStatus
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import host
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.plan.fixes import LARGEST_GROWTH

# libtpu would otherwise ask the metadata server which TPU this is, and let only one process compile.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# Chips of one host along the axes of the topology.
HOST_BOUNDS = {1: (1, 1, 1), 4: (2, 2, 1), 8: (2, 4, 1)}
# A v4 chip's two TensorCores are one JAX device.
CHIP_CONFIGS = {"v4": "megacore"}


def prepare() -> None:
    """Set what libtpu, JAX and the attention kernels read when they are loaded; before anything imports JAX."""
    # Blocks that EasyDeL has chosen on this machine at another time are not those of a fresh pod.
    os.environ.setdefault("EJKERNEL_PERSISTENT_CACHE_DIR", tempfile.mkdtemp(prefix="dpojob-kernels-"))
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def prepare_cpu(config: TrainerConfig) -> None:
    """Let this process have a CPU device for every chip of the largest slice that is tried; before anything imports JAX."""
    largest = config.plan.model_copy(update={"chips": config.plan.chips * LARGEST_GROWTH})
    os.environ.update(host.environment(host.on_cpu(config.model_copy(update={"plan": largest}), hosts=1)))


def chip_of(config: TrainerConfig) -> ChipSpec:
    """Return what one device of a job has; on platform cpu a variable may say how much memory that is.

    Raises:
        TrainerError: ConfigInvalid if the variable is no number.
    """
    chip = chips()[config.generation]
    given = os.environ.get(USABLE_BYTES_VARIABLE, "") if config.platform is Platform.CPU else ""
    if given and not given.isdecimal():
        raise TrainerError(TrainerReason.CONFIG_INVALID, f"{USABLE_BYTES_VARIABLE} is no number: {given!r}")
    return chip.model_copy(update={"usable_hbm_gib": int(given) / 2**30}) if given else chip


def devices_of(plan: PlanStatus, generation: str, platform: Platform = Platform.TPU) -> list[Any]:
    """Return the devices of all slices, in JAX's order; on platform cpu this process's own.

    Raises:
        TrainerError: ConfigInvalid when libtpu is not the one that JAX asks for, does not know the slice, or would make
            more devices than chips of it.
    """
    if platform is Platform.CPU:
        import jax

        return list(jax.devices("cpu")[: plan.chips])
    require_libtpu()
    from jax.experimental import topologies

    name = f"{generation}:{plan.topology}"
    options: dict[str, Any] = {"chips_per_host_bounds": HOST_BOUNDS[plan.chips_per_host]}
    if generation in CHIP_CONFIGS:
        options["chip_config_name"] = CHIP_CONFIGS[generation]
    if plan.slices > 1:
        options["num_slices"] = plan.slices
    try:
        devices = list(topologies.get_topology_desc(topology_name=name, platform="tpu", **options).devices)
    except Exception as error:
        raise _refused(f"libtpu cannot describe {name}: {' '.join(str(error).split())[:300]}") from error
    if len(devices) != plan.chips:
        raise _refused(f"libtpu makes {len(devices)} devices of the {plan.chips} chips of {name}")
    return devices


def require_libtpu() -> None:
    """Raise unless libtpu is there in the version that JAX names: another one compiles other programs.

    Raises:
        TrainerError: ConfigInvalid.
    """
    wanted = next(
        found for found in map(Requirement, requires("jax") or []) if found.name.lower() == "libtpu"
    )
    found = version_of("libtpu")
    if found and wanted.specifier.contains(found):
        return
    problem = (
        f"libtpu {found} is not the version that JAX asks for ({wanted.specifier})"
        if found
        else "libtpu is not installed, which compiles for TPU"
    )
    raise TrainerError(
        TrainerReason.CONFIG_INVALID, f"{problem}: pip install 'jax[tpu]=={version_of('jax')}'"
    )


def version_of(package: str) -> str:
    """Return a package's version, empty if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@contextmanager
def seen(devices: list[Any]) -> Iterator[None]:
    """Let EasyDeL see these devices, as on host 0 of the slice; JAX itself goes on to compute on the CPU."""
    from eformer.escale.mesh import creation

    here = [device for device in devices if device.process_index == 0]
    answers: dict[str, Any] = {
        "devices": lambda *_: devices,
        "local_devices": lambda *_, **__: here,
        "device_count": lambda *_: len(devices),
        "local_device_count": lambda *_: len(here),
        "process_count": lambda *_: len({device.process_index for device in devices}),
        "default_backend": lambda: devices[0].platform,
    }
    # eformer keeps meshes by their sizes alone.
    creation._cached_mesh_impl.cache_clear()
    try:
        with mock.patch.multiple("jax", **answers):
            yield
    finally:
        creation._cached_mesh_impl.cache_clear()


def _refused(problem: str) -> TrainerError:
    return TrainerError(
        TrainerReason.CONFIG_INVALID,
        f"spec.accelerator: {problem}. Use one of the other types of docs/reference/accelerators.md to plan",
    )
