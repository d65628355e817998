"""``dpojob run``: a job on this machine, through the driver that runs it on a slice.

Ray is embedded, chips are virtual CPU devices, claims are folders; the configuration is otherwise the job's own.
"""

import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dpojob_api.constants import CLAIMS_VARIABLE, OUTPUT_METRICS
from dpojob_api.result import TrainerResult
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import driver, host, store
from dpojob_trainer.board import Board
from dpojob_trainer.launchers import Launcher
from dpojob_trainer.progress import Emit

LOCAL_CACHE = "~/.cache/huggingface"


@dataclass(frozen=True)
class Machine:
    """How a job runs on this machine.

    Attributes:
        folders: the folder that stands for each claim.
        hosts: processes that share the slice's chips.
        verbose: repeat what the hosts log.
        metrics_port: port of the Prometheus endpoint, None for none.
    """

    folders: dict[str, Path]
    hosts: int
    verbose: bool
    metrics_port: int | None


def run(config: TrainerConfig, machine: Machine, tell: Emit) -> TrainerResult:
    """Run a job to its end; return how it ended.

    Args:
        tell: called with every event of the run.

    Raises:
        KeyboardInterrupt: the processes of the run have been ended.
    """

    def attempt() -> TrainerResult:
        placed = on_machine(config, machine.hosts)
        board = Board(tell)
        if machine.metrics_port is not None:
            board.serve(machine.metrics_port)
        reports = driver.train(placed, board, lambda wanted: embed(wanted, machine))
        return driver.conclude(placed, reports, board, record_seconds=0)

    with environment(machine.folders):
        try:
            return driver.result_of(attempt)
        finally:
            import ray

            ray.shutdown()


def on_machine(config: TrainerConfig, hosts: int) -> TrainerConfig:
    """Return the configuration of the next attempt here: the slice's chips as CPU devices, the mesh as it is.

    The uid follows from the specification, so that the same file goes on where it stopped, and a changed one is refused
    the folder.
    """
    digest = hashlib.sha256(config.to_json().encode()).hexdigest()
    job = config.job.model_copy(
        update={
            "uid": f"local-{digest[:16]}",
            "attempt": last_attempt(config.output.uri) + 1,
            "start": secrets.token_hex(8),
        }
    )
    return host.on_cpu(config, hosts).model_copy(update={"job": job})


def last_attempt(uri: str) -> int:
    """Return the number of the attempt that last wrote metrics to an output folder; 0 if none has."""
    try:
        lines = store.open_store(uri).read_text(OUTPUT_METRICS).splitlines()
    except FileNotFoundError:
        return 0
    for line in reversed(lines):
        # A run that was killed may have left half a line.
        with suppress(ValueError, KeyError):
            return int(json.loads(line)["attempt"])
    return 0


def embed(config: TrainerConfig, machine: Machine) -> Launcher:
    """Start a Ray for the hosts and return the launcher for this machine."""
    from dpojob_trainer.launchers.machine import MachineLauncher, embed_ray

    embed_ray(config.plan.hosts, verbose=machine.verbose)
    return MachineLauncher()


@contextmanager
def environment(folders: dict[str, Path]) -> Iterator[None]:
    """Set what the driver and, through Ray, the hosts read; remove the scratch folder at the end."""
    with tempfile.TemporaryDirectory(prefix="dpojob-run-", ignore_cleanup_errors=True) as scratch:
        os.environ[CLAIMS_VARIABLE] = json.dumps({claim: str(path) for claim, path in folders.items()})
        os.environ[host.SCRATCH_VARIABLE] = scratch
        # The head of a slice computes nothing either.
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # Ray asks for this choice at every start; no task here has an accelerator.
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
        os.environ.setdefault("HF_HOME", str(Path(LOCAL_CACHE).expanduser()))
        yield
