"""The whole run in this process, without Ray or a slice: for developing and for tests.

Every chip of the plan becomes a virtual CPU device of this one process.
"""

import logging
import os
import traceback
from pathlib import Path

from dpojob_api.result import TrainerResult
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import driver, easydel_compat, host, preflight
from dpojob_trainer.board import Board
from dpojob_trainer.errors import TrainerError

log = logging.getLogger(__name__)


def run_local(path: Path) -> TrainerResult:
    """Run one attempt here and return how it ended; nothing is raised.

    It must be called before JAX is imported.
    """
    try:
        config = host.on_cpu(driver.read_config(path), hosts=1)
    except TrainerError as error:
        return error.result()
    try:
        return train(config)
    except BaseException as error:
        log.debug("%s", traceback.format_exc())
        from dpojob_trainer.training import failures

        return failures.explain(error, config).result()


def train(config: TrainerConfig) -> TrainerResult:
    """Check, train and conclude.

    Raises:
        TrainerError: any documented reason.
    """
    os.environ.update(host.environment(config))
    easydel_compat.prepare()
    workdir = host.workdir(config, 0)
    preflight.check(config, workdir)
    from dpojob_trainer.training import run as training

    board = Board()
    report = training.run(config, training.Place(0, "localhost", workdir), board.update)
    return driver.conclude(config, [report], board, record_seconds=0)
