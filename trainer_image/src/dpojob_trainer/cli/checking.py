"""``dpojob check``: manifest, tokenizer, data, gate. The first problem ends it and decides the exit code."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpojob_api.input_spec import GateSpec
from dpojob_api.reasons import TrainerReason
from dpojob_api.spec import DPOSpec
from dpojob_api.trainer_config import TrainerConfig
from dpojob_api.uris import claim_folder, parse_uri
from dpojob_trainer.cli import manifest
from dpojob_trainer.errors import TrainerError, in_one_line
from dpojob_trainer.exit_codes import ExitCode, exit_code

if TYPE_CHECKING:
    from dpojob_trainer.data import DataReport, PreparedData

MANIFEST_INVALID = "ManifestInvalid"
UNEXPECTED = "Unexpected"


@dataclass(frozen=True)
class Outcome:
    """How a check ended; the report is there once the data has been tokenised, whatever the verdict."""

    code: ExitCode
    reason: str
    problems: list[str] = field(default_factory=list)
    report: "DataReport | None" = None
    gate: GateSpec | None = None
    dpo: DPOSpec | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form."""
        report = self.report.model_dump(mode="json", by_alias=True) if self.report else None
        return {
            "exitCode": int(self.code),
            "reason": self.reason,
            "problems": self.problems,
            "report": report,
        }


def check_file(file: Path, data_path: Path | None, model_path: Path | None) -> Outcome:
    """Check a manifest and its data; nothing is raised."""
    try:
        config = manifest.load(file)
        require_reachable(config, data_path, model_path)
        return examine(config, data_path, model_path)
    except manifest.ManifestError as error:
        return Outcome(ExitCode.USAGE, MANIFEST_INVALID, error.problems)
    except TrainerError as error:
        return Outcome(exit_code(error.reason), error.reason.value, [error.message])
    except Exception as error:
        return Outcome(ExitCode.FAILED, UNEXPECTED, [in_one_line(error)])


def require_reachable(config: TrainerConfig, data_path: Path | None, model_path: Path | None) -> None:
    """Make sure that what lies on a claim is there as a local copy, or mounted as in a pod.

    Raises:
        ManifestError: naming the option that is missing.
    """
    dataset = unreachable("dataset", "data", config.dataset.uri, data_path)
    if missing := dataset + unreachable("model", "model", config.model.uri, model_path):
        raise manifest.ManifestError(missing)


def unreachable(name: str, option: str, uri: str, given: Path | None) -> list[str]:
    """Return what is wrong with an input: that it lies on a claim that is not mounted, and has no local copy."""
    if given is not None or is_mounted(uri):
        return []
    return [f"spec.{name}.uri is {uri}, a volume of the cluster. Name a local copy with --{option} PATH."]


def is_mounted(uri: str) -> bool:
    """Whether a URI can be read from here, as far as its scheme tells."""
    parsed = parse_uri(uri)
    return parsed.scheme != "pvc" or Path(claim_folder(parsed.root)).is_dir()


def examine(config: TrainerConfig, data_path: Path | None, model_path: Path | None) -> Outcome:
    """Tokenise the data and judge it.

    Raises:
        TrainerError: before there is a report.
    """
    # A wrong manifest is told before the tokenizer's library, which takes seconds, is imported.
    from dpojob_trainer import data, sources

    with tempfile.TemporaryDirectory(prefix="dpojob-check-") as folder:
        workdir = Path(folder)
        tokenizer = model_path or sources.fetch_tokenizer(config.model, workdir)
        prepared = data.examine(config, tokenizer, workdir, data_path)
    code, reason, problems = verdict(prepared, config)
    return Outcome(code, reason, problems, prepared.report, config.dataset.gate, config.dpo)


def verdict(prepared: "PreparedData", config: TrainerConfig) -> tuple[ExitCode, str, list[str]]:
    """Return exit code, reason and problems of data that could be read; warnings do not refuse it."""
    from dpojob_trainer import data

    try:
        data.accept(prepared, config)
    except TrainerError as error:
        problems = (
            prepared.report.violations if error.reason is TrainerReason.DATA_INVALID else [error.message]
        )
        return ExitCode.REFUSED, error.reason.value, problems
    return ExitCode.OK, TrainerReason.SUCCEEDED.value, prepared.report.violations
