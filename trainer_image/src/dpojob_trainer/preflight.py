"""What the driver checks on the head before a host does anything: output, model, data. No weights, no JAX."""

import logging
from pathlib import Path

from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import data, sources, store

log = logging.getLogger(__name__)


def check(config: TrainerConfig, workdir: Path) -> None:
    """Check what needs no chip; the first problem ends the run.

    Raises:
        TrainerError: OutputUnwritable, OutputInUse, or any reason of model and data.
    """
    out = store.open_store(config.output.uri)
    out.check_writable()
    out.claim(config.job.uid, config.job.name)
    workdir.mkdir(parents=True, exist_ok=True)
    model = sources.fetch_model(config.model, workdir)
    prepared = data.prepare(config, model, workdir)
    log.info("pairs: %s", prepared.report.model_dump_json(by_alias=True))
