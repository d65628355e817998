"""Weights & Biases, on host 0 and only if the job asks for it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from dpojob_api.reasons import TrainerReason
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.progress import Numbers

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where metrics go beside metrics.jsonl."""

    def log(self, kind: str, step: int, numbers: Numbers) -> None:
        """Log numbers under `kind`/name."""
        ...

    def weights(self, state: Any, step: int) -> None:
        """Log histograms of the weights when they are due; every process calls it."""
        ...


class NoTracker:
    """Tracks nothing."""

    def log(self, kind: str, step: int, numbers: Numbers) -> None:
        """Do nothing."""

    def weights(self, state: Any, step: int) -> None:
        """Do nothing."""


class WandbTracker:
    """One W&B run per attempt; on hosts other than 0 it only takes part in the histograms' collectives."""

    def __init__(self, run: Any | None, histogram_steps: int | None) -> None:
        self._run = run
        self._histogram_steps = histogram_steps

    def log(self, kind: str, step: int, numbers: Numbers) -> None:
        """Log numbers under `kind`/name."""
        if self._run is not None:
            self._run.log({f"{kind}/{name}": value for name, value in numbers.items()}, step=step)

    def weights(self, state: Any, step: int) -> None:
        """Log a histogram of every parameter each `histogram_steps` steps."""
        if not self._histogram_steps or step % self._histogram_steps:
            return
        import jax
        import wandb
        from easydel.trainers.metrics import compute_weight_stats

        found = jax.device_get(compute_weight_stats(state.graphstate, ".*"))
        if self._run is None:
            return
        histograms = {
            f"weights/{name}": wandb.Histogram(np_histogram=(value.bin_counts, value.bin_edges))
            for name, value in found.items()
            if hasattr(value, "bin_counts")
        }
        self._run.log(histograms, step=step)


@contextmanager
def open_tracker(config: TrainerConfig, rank: int) -> Iterator[Tracker]:
    """Open the job's W&B run, or nothing if the job has none, and finish it at the end.

    Raises:
        TrainerError: TrackingFailed.
    """
    if config.tracking.wandb is None:
        yield NoTracker()
        return
    run = _start(config) if rank == 0 else None
    code = 1
    try:
        yield WandbTracker(run, config.tracking.weight_histogram_steps)
        code = 0
    finally:
        if run is not None:
            run.finish(exit_code=code)


def _start(config: TrainerConfig) -> Any:
    import wandb

    wanted = config.tracking.wandb
    assert wanted is not None
    job = config.job
    try:
        return wandb.init(
            project=wanted.project,
            entity=wanted.entity,
            name=f"{job.name}-{job.attempt}",
            group=f"{job.namespace}/{job.name}",
            config=config.model_dump(mode="json", by_alias=True),
            settings=wandb.Settings(init_timeout=120),
        )
    except Exception as error:
        raise TrainerError(
            TrainerReason.TRACKING_FAILED,
            f"W&B did not start ({_first_line(error)}): check credentials.wandb, tracking.wandb and the way to the "
            "internet, or leave tracking.wandb out",
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
