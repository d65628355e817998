"""What is checked on the head before a host does anything: output, model, data. No weights, no JAX."""

import logging
import shutil
from pathlib import Path

from dpojob_api.constants import OUTPUT_PAIRS
from dpojob_api.reasons import TrainerReason
from dpojob_api.result import TrainerResult
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import data, sources, store
from dpojob_trainer.errors import TrainerError

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
    prepared = data.prepare(config, model, workdir, store.pairs_of(out))
    log.info("pairs: %s", prepared.report.model_dump_json(by_alias=True))
    hand_over(prepared, out, workdir)
    return prepared.report


def hand_over(prepared: data.PreparedData, out: store.OutputStore, workdir: Path) -> None:
    """Put the tokenised pairs where the hosts find them, if the output is a folder that they share.

    A failure is only logged, as every host can tokenise.

    Raises:
        TrainerError: Fenced.
    """
    rows = prepared.rows
    if rows is None or rows.found or store.pairs_of(out) is None:
        return
    try:
        data.write_rows(rows, workdir / OUTPUT_PAIRS)
        out.upload_dir(workdir / OUTPUT_PAIRS, OUTPUT_PAIRS)
    except Exception as error:
        if isinstance(error, TrainerError) and error.reason is TrainerReason.FENCED:
            raise
        log.warning("the tokenised pairs are not handed over, every host tokenises: %s", error)
    finally:
        shutil.rmtree(workdir / OUTPUT_PAIRS, ignore_errors=True)


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
