"""What is checked on the head before a host does anything: output, model, data. No weights, no JAX."""

import logging
from pathlib import Path

from dpojob_api.reasons import TrainerReason
from dpojob_api.result import TrainerResult
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import data, sources, store

log = logging.getLogger(__name__)


def check(config: TrainerConfig, workdir: Path) -> data.DataReport:
    """Check what needs no chip; the first problem ends the run. Return the report on the pairs.

    Raises:
        TrainerError: OutputUnwritable, OutputInUse, Fenced, or any reason of model and data.
    """
    out = store.output_of(config)
    out.check_writable()
    out.claim(config.job.uid, config.job.name)
    out.take_over()
    workdir.mkdir(parents=True, exist_ok=True)
    model = sources.fetch_model(config.model, workdir)
    prepared = data.prepare(config, model, workdir)
    log.info("pairs: %s", prepared.report.model_dump_json(by_alias=True))
    return prepared.report


def check_data(config: TrainerConfig, workdir: Path) -> TrainerResult:
    """Print the report on the pairs as a line of JSON, judge it, and claim the output of a job whose data is accepted.

    Weights are not fetched.

    Raises:
        TrainerError: any reason of model and data, OutputUnwritable or OutputInUse.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    prepared = data.examine(config, sources.fetch_tokenizer(config.model, workdir), workdir)
    print(prepared.report.model_dump_json(by_alias=True), flush=True)
    data.accept(prepared, config)
    out = store.output_of(config)
    out.check_writable()
    out.claim(config.job.uid, config.job.name)
    message = f"{prepared.report.train_pairs} pairs can be trained on"
    pairs = {kind: int(count) for kind, count in prepared.report.by_kind().items()}
    return TrainerResult(reason=TrainerReason.SUCCEEDED, message=message, pairs=pairs)
