"""One host of the slice: environment, `jax.distributed`, the run, the outcome.

Nothing here imports JAX before :func:`run_host` has set the environment it reads.
"""

import importlib.util
import logging
import os
import traceback
from dataclasses import dataclass
from pathlib import Path

from dpojob_api.result import TrainerResult
from dpojob_api.slice_spec import Platform
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import stopping
from dpojob_trainer.channel import Address, Payload, Sender

log = logging.getLogger(__name__)

SCRATCH_VARIABLE = "DPOJOB_SCRATCH"

# Importing EasyDeL on a busy host takes minutes; the hosts wait for the slowest.
INITIALIZATION_SECONDS = 1800
# Ray notices a lost host within seconds. JAX's own detector only backs it up and must outlast a long compilation.
HEARTBEAT_SECONDS = 300
# XLA on CPU takes and returns gigabytes of buffers in every step: with glibc, which gives them back to the kernel each
# time, page faults cost a third of it. The hosts keep them for longer than a step, in huge pages.
JEMALLOC = (
    "background_thread:true,dirty_decay_ms:60000,muzzy_decay_ms:0,oversize_threshold:0,narenas:1,thp:always"
)


@dataclass(frozen=True)
class HostTask:
    """What one host is told.

    Attributes:
        config: the trainer's configuration as JSON.
        rank: number of the process, slice by slice in the order of TPU_WORKER_ID.
        addresses: every host's address by rank.
        port: the port on host 0 where the processes meet.
        driver: where to tell events and the outcome.
    """

    config: str
    rank: int
    addresses: tuple[str, ...]
    port: int
    driver: Address


def on_cpu(config: TrainerConfig, hosts: int) -> TrainerConfig:
    """Return the configuration with all chips of the plan as CPU devices of `hosts` processes; the mesh stays as it is."""
    plan = config.plan.model_copy(
        update={"slices": 1, "hosts": hosts, "chips_per_host": config.plan.chips // hosts}
    )
    return config.model_copy(update={"plan": plan, "platform": Platform.CPU})


def environment(config: TrainerConfig) -> dict[str, str]:
    """Return the variables that a host's process starts with: what JAX computes on and where libraries keep files.

    On platform cpu each chip is one virtual device, and gloo carries the collectives.
    """
    common = {"HF_HOME": os.environ.get("HF_HOME", "/tmp/huggingface"), "USE_TORCH": "0"}
    if config.platform is Platform.TPU:
        return common | {"JAX_PLATFORMS": "tpu,cpu"} | libtpu_arguments(config)
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags = [flag for flag in flags if not flag.startswith("--xla_force_host_platform_device_count")]
    flags.append(f"--xla_force_host_platform_device_count={config.plan.chips_per_host}")
    return common | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join(flags),
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }


def libtpu_arguments(config: TrainerConfig) -> dict[str, str]:
    """Return `runtime.xlaFlags` as libtpu reads them when it is loaded; what `runtime.env` says comes last and wins."""
    if not config.xla_flags:
        return {}
    flags = [f"--{name}={value}" for name, value in sorted(config.xla_flags.items())]
    given = [word for word in os.environ.get("LIBTPU_INIT_ARGS", "").split() if word not in flags]
    return {"LIBTPU_INIT_ARGS": " ".join(flags + given)}


def launch_environment(config: TrainerConfig) -> dict[str, str]:
    """Return :func:`environment` and what counts only if it is set before the process starts.

    On platform cpu that is jemalloc, which Ray's package brings.
    """
    common = environment(config)
    if config.platform is Platform.TPU:
        return common
    ray = importlib.util.find_spec("ray")
    if ray is None or ray.origin is None:
        return common
    library = Path(ray.origin).parent / "core" / "libjemalloc.so"
    return common | {"LD_PRELOAD": str(library), "MALLOC_CONF": JEMALLOC} if library.exists() else common


def prepare_environment(config: TrainerConfig, task: HostTask) -> None:
    """Set what must be there before JAX is imported.

    GKE's webhook sets the slice's host names; without it they are the hosts' addresses. On platform cpu the slice's
    variables are removed, since JAX would look for its chips.
    """
    os.environ.update(environment(config))
    if config.platform is Platform.CPU:
        for name in [name for name in os.environ if name.startswith(("TPU_", "MEGASCALE_"))]:
            del os.environ[name]
        return
    number, worker = divmod(task.rank, config.plan.hosts_per_slice)
    first = number * config.plan.hosts_per_slice
    own = task.addresses[first : first + config.plan.hosts_per_slice]
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", ",".join(own))
    os.environ.setdefault("TPU_WORKER_ID", str(worker))
    os.environ.update(between_slices(config, task.addresses[0], number))


def between_slices(config: TrainerConfig, coordinator: str, number: int) -> dict[str, str]:
    """Return libtpu's variables for the network between slices, none for a single slice.

    They replace those of GKE's webhook, which knows a host's name only within one worker group.

    Args:
        coordinator: address of host 0 of slice 0.
        number: which slice this host is in.
    """
    if config.plan.slices == 1:
        return {}
    from ray.util.tpu import get_tpu_coordinator_env_vars

    found: dict[str, str] = get_tpu_coordinator_env_vars(coordinator, config.plan.slices, number)
    return found


def run_host(task: HostTask) -> bool:
    """Run one host to its end and tell the driver its outcome; return whether it ended well.

    Nothing is raised: a failure is told as a documented reason, its traceback goes to this host's log.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    # Orbax tells every step of every save through absl.
    logging.getLogger("absl").setLevel(logging.WARNING)
    with stopping.announced(stopping.HOST):
        sender = Sender(task.driver, task.rank)
        outcome = outcome_of(task, sender)
        sender.send(outcome)
        sender.close()
    return not isinstance(outcome, TrainerResult)


def outcome_of(task: HostTask, sender: Sender) -> Payload:
    """Run; return this host's report, or why it failed."""
    config = TrainerConfig.model_validate_json(task.config)
    try:
        prepare_environment(config, task)
        join_slice(task)
        # After the environment is set: this imports EasyDeL.
        from dpojob_trainer.training import run as training

        place = training.Place(task.rank, task.addresses[task.rank], workdir(config, task.rank))
        report = training.run(config, place, sender.send)
        leave_slice(task)
        return report
    except BaseException as error:
        log.error("host %d failed\n%s", task.rank, traceback.format_exc())
        from dpojob_trainer.training import failures

        return failures.explain(error, config).result()


def join_slice(task: HostTask) -> None:
    """Import EasyDeL's prerequisites and meet the other hosts; one host alone needs nobody."""
    from dpojob_trainer import easydel_compat

    easydel_compat.prepare()
    if len(task.addresses) == 1:
        return
    import jax

    # JAX would take SIGTERM for itself; `training.preemption` needs it.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        f"{task.addresses[0]}:{task.port}",
        num_processes=len(task.addresses),
        process_id=task.rank,
        initialization_timeout=INITIALIZATION_SECONDS,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )


def leave_slice(task: HostTask) -> None:
    """Part from the other hosts once all are done: JAX aborts a process whose peer goes without a word."""
    if len(task.addresses) > 1:
        import jax

        jax.distributed.shutdown()


def scratch() -> Path:
    """Return the folder for what is of no use after the run."""
    return Path(os.environ.get(SCRATCH_VARIABLE, "/tmp/dpojob"))


def workdir(config: TrainerConfig, rank: int) -> Path:
    """Return a folder of this process's own for downloads and caches."""
    folder = scratch() / f"{config.job.name}-a{config.job.attempt}" / f"host-{rank}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
