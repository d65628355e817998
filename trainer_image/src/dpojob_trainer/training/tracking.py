"""Where metrics go beside metrics.jsonl, from host 0: TensorBoard's event files, and Weights & Biases if the job asks."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from dpojob_api.constants import OUTPUT_TENSORBOARD
from dpojob_api.reasons import TrainerReason
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.progress import Numbers
from dpojob_trainer.store import OutputStore

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where metrics go beside metrics.jsonl."""

    def log(self, kind: str, step: int, numbers: Numbers) -> None:
        """Log numbers under `kind`/name."""
        ...

    def weights(self, state: Any, step: int) -> None:
        """Log histograms of the weights when they are due; every process calls it."""
        ...


class Trackers:
    """Passes everything on to all of its trackers; to none on hosts other than 0 without W&B."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers

    def log(self, kind: str, step: int, numbers: Numbers) -> None:
        """Log numbers under `kind`/name."""
        for tracker in self._trackers:
            tracker.log(kind, step, numbers)

    def weights(self, state: Any, step: int) -> None:
        """Log histograms of the weights when they are due; every process calls it."""
        for tracker in self._trackers:
            tracker.weights(state, step)


class TensorBoardTracker:
    """One folder of event files per attempt, which TensorBoard shows as a run."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, kind: str, step: int, numbers: Numbers) -> None:
        """Log numbers under `kind`/name."""
        for name, value in numbers.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def weights(self, state: Any, step: int) -> None:
        """Do nothing: histograms are W&B's."""


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
def open_tracker(config: TrainerConfig, rank: int, out: OutputStore, workdir: Path) -> Iterator[Tracker]:
    """Open everything that the job's numbers go to, and finish it at the end.

    Raises:
        TrainerError: TrackingFailed.
    """
    trackers: list[Tracker] = []
    with ExitStack() as stack:
        if rank == 0:
            trackers.append(stack.enter_context(event_files(config.job.attempt, out, workdir)))
        if config.tracking.wandb is not None:
            trackers.append(stack.enter_context(wandb_run(config, rank)))
        yield Trackers(trackers)


@contextmanager
def event_files(attempt: int, out: OutputStore, workdir: Path) -> Iterator[TensorBoardTracker]:
    """Write event files to ``<output>/tensorboard/attempt-<n>``: at once to a mounted claim, at the end to gs://."""
    from tensorboardX import SummaryWriter

    path = f"{OUTPUT_TENSORBOARD}/attempt-{attempt}"
    folder = (out.folder or workdir) / path
    writer = SummaryWriter(str(folder), flush_secs=30)
    try:
        yield TensorBoardTracker(writer)
    finally:
        writer.close()
        if out.folder is None:
            upload(folder, path, out)


def upload(folder: Path, path: str, out: OutputStore) -> None:
    """Put event files beside the other results; they are a copy of metrics.jsonl, so a failure is only logged."""
    try:
        out.upload_dir(folder, path)
    except Exception as error:
        log.warning("%s could not be written: %s", path, error)


@contextmanager
def wandb_run(config: TrainerConfig, rank: int) -> Iterator[WandbTracker]:
    """Open the job's W&B run on host 0 and finish it with the run's own end.

    Raises:
        TrainerError: TrackingFailed.
    """
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
