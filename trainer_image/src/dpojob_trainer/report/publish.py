"""Writes the report beside summary.json. A page that cannot be made is no reason to fail a run that has its model."""

import logging
from collections.abc import Mapping
from typing import Any

from dpojob_api.constants import OUTPUT_METRICS, OUTPUT_REPORT
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.report.card import CARD_FILE, model_card
from dpojob_trainer.report.history import parse_lines
from dpojob_trainer.report.lineage import versions
from dpojob_trainer.report.page import render
from dpojob_trainer.store import OutputStore

log = logging.getLogger(__name__)


def publish(config: TrainerConfig, summary: Mapping[str, Any], out: OutputStore) -> None:
    """Render the page from what the output folder holds and write it there; a failure is only logged."""
    try:
        out.write_text(OUTPUT_REPORT, render(config, summary, metrics_of(out)))
    except Exception as error:
        log.warning("%s could not be made: %s: %s", OUTPUT_REPORT, type(error).__name__, error)


def card_texts(config: TrainerConfig, origin: Mapping[str, str], out: OutputStore) -> dict[str, str]:
    """Return the model's card by its file name; nothing, and a line in the log, if it cannot be made."""
    try:
        out.flush()
        return {CARD_FILE: model_card(config, parse_lines(metrics_of(out)), origin, versions())}
    except Exception as error:
        log.warning("%s could not be made: %s: %s", CARD_FILE, type(error).__name__, error)
        return {}


def metrics_of(out: OutputStore) -> str:
    """Return the text of metrics.jsonl, of all attempts; empty if there is none."""
    try:
        return out.read_text(OUTPUT_METRICS)
    except FileNotFoundError:
        return ""
