"""``dpojob plan``: manifest, model, lengths, then the plan. The first problem ends it and decides the exit code."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dpojob_api.reasons import TrainerReason
from dpojob_api.slice_spec import Platform
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.cli import manifest
from dpojob_trainer.cli.checking import MANIFEST_INVALID, UNEXPECTED, unreachable
from dpojob_trainer.errors import TrainerError, in_one_line

if TYPE_CHECKING:
    from dpojob_trainer.data.lengths import PairLengths
    from dpojob_trainer.plan.answer import Answer

COMPILE_FAILED = "CompileFailed"
DOES_NOT_FIT = "DoesNotFit"
# XLA's own words go on for pages.
MAX_WORDS = 400
USAGE_REASONS = (TrainerReason.CONFIG_INVALID, TrainerReason.MODEL_UNSUPPORTED, TrainerReason.MODEL_NOT_FOUND)


class PlanExit(IntEnum):
    """What ``dpojob plan`` ends with."""

    FITS = 0
    FAILED = 1
    USAGE = 2
    NOT_COMPILED = 3
    DOES_NOT_FIT = 4


@dataclass(frozen=True)
class Options:
    """What the command line says beside the manifest.

    Attributes:
        model: a folder with config.json, instead of model.uri.
        data: a file or folder, instead of dataset.uri, whose pairs give the lengths.
        lengths: a JSON file with tokens per pair.
        price: of a chip-hour.
        minutes: how long changes are tried.
        tune: whether to search for a faster job.
        patch: where the fastest one is written as a merge patch.
    """

    model: Path | None
    data: Path | None
    lengths: Path | None
    price: float | None
    minutes: float
    tune: bool = False
    patch: Path | None = None


@dataclass(frozen=True)
class Planned:
    """How planning ended."""

    code: PlanExit
    reason: str
    problem: str | None = None
    answer: "Answer | None" = None


def plan_file(file: Path, options: Options, tell: Callable[[str], None]) -> Planned:
    """Plan the job of a manifest; nothing is raised."""
    try:
        answer = planned(manifest.load(file), options, tell)
    except manifest.ManifestError as error:
        return Planned(PlanExit.USAGE, MANIFEST_INVALID, "; ".join(error.problems))
    except TrainerError as error:
        code = PlanExit.USAGE if error.reason in USAGE_REASONS else PlanExit.FAILED
        return Planned(code, error.reason.value, error.message)
    except Exception as error:
        return unexpected(error)
    if options.patch is not None and answer.tuning is not None:
        write_patch(options.patch, answer.tuning.patch)
    if answer.fits:
        return Planned(PlanExit.FITS, TrainerReason.SUCCEEDED.value, answer=answer)
    return Planned(PlanExit.DOES_NOT_FIT, DOES_NOT_FIT, answer=answer)


def write_patch(file: Path, patch: dict[str, Any]) -> None:
    """Write a merge patch as YAML, as `kubectl patch --type merge --patch-file` reads it."""
    file.write_text(yaml.safe_dump(patch, sort_keys=False), encoding="utf-8")


def unexpected(error: Exception) -> Planned:
    """Tell the compiler's failures from all others."""
    words = in_one_line(error, MAX_WORDS)
    if type(error).__name__ == "JaxRuntimeError":
        return Planned(PlanExit.NOT_COMPILED, COMPILE_FAILED, words)
    return Planned(PlanExit.FAILED, UNEXPECTED, words)


def planned(config: TrainerConfig, options: Options, tell: Callable[[str], None]) -> "Answer":
    """Fetch what is needed of the model, find the lengths, and plan.

    Raises:
        ManifestError: a file of the command line is missing or wrong.
        TrainerError: as `plan.planning.plan`, or the model or the data cannot be had.
    """
    # A wrong manifest is told before libraries that take seconds are imported.
    from dpojob_trainer.plan import topology

    topology.prepare()
    from dpojob_trainer import easydel_compat, sources

    easydel_compat.prepare()
    config = on_tpu(config)
    with tempfile.TemporaryDirectory(prefix="dpojob-plan-") as folder:
        workdir = Path(folder)
        require_model(config, options.model)
        model = options.model or sources.fetch_tokenizer(config.model, workdir)
        lengths = lengths_of_pairs(config, options, model, workdir)
        from dpojob_trainer.plan import planning

        request = planning.Request(config, model, lengths, options.price, options.minutes * 60, options.tune)
        return planning.plan(request, tell)


def on_tpu(config: TrainerConfig) -> TrainerConfig:
    """Return the job as it would run on its slice, whatever `runtime.platform` says."""
    return config.model_copy(update={"platform": Platform.TPU})


def require_model(config: TrainerConfig, given: Path | None) -> None:
    """Make sure that a model on a claim is there as a local copy, or mounted as in a pod.

    Raises:
        ManifestError: it is not, or the folder has no config.json.
    """
    missing = unreachable("model", "model", config.model.uri, given)
    if given is not None and not (given / "config.json").is_file():
        missing = [f"--model {given}: the folder has no config.json."]
    if missing:
        raise manifest.ManifestError(missing)


def lengths_of_pairs(
    config: TrainerConfig, options: Options, model: Path, workdir: Path
) -> "PairLengths | None":
    """Return the tokens of all pairs as the command line gives them; None if it does not.

    Raises:
        ManifestError: the file of lengths is wrong.
        TrainerError: the data cannot be read or tokenised.
    """
    if options.lengths is not None:
        from dpojob_trainer.plan.lengths import read_lengths

        try:
            return read_lengths(options.lengths, config)
        except (OSError, ValueError) as error:
            raise manifest.ManifestError([f"--lengths {options.lengths}: {error}."]) from error
    if options.data is None:
        return None
    from dpojob_trainer import data
    from dpojob_trainer.data.lengths import lengths_of

    return lengths_of(data.examine(config, model, workdir, options.data).train)
