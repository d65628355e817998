"""The folders of this machine that stand for a job's claims."""

from collections.abc import Iterator
from pathlib import Path

from dpojob_api.trainer_config import TrainerConfig
from dpojob_api.uris import pvc_claim
from dpojob_trainer.cli.manifest import ManifestError


def folders(config: TrainerConfig, store: Path, given: list[str]) -> dict[str, Path]:
    """Return the folder of every claim; the output's is made if it is not there.

    Args:
        store: has a folder for each claim that is not given.
        given: ``CLAIM=FOLDER``.

    Raises:
        ManifestError: an option that names no claim of the job, or a folder that is not there.
    """
    named = dict(pair(option) for option in given)
    output = pvc_claim(config.output.uri)
    claims = {claim for claim in (*inputs(config).values(), output) if claim is not None}
    if unknown := sorted(named.keys() - claims):
        known = ", ".join(sorted(claims)) or "none"
        raise ManifestError([f"--pvc {unknown[0]}: the job's claims are {known}."])
    found = {claim: named.get(claim, store / claim).resolve() for claim in sorted(claims)}
    if output is not None:
        make(found[output])
    if missing := list(missing_inputs(config, found)):
        raise ManifestError(missing)
    return found


def make(folder: Path) -> None:
    """Make the output's folder.

    Raises:
        ManifestError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ManifestError(
            [f"{folder} cannot be made: {error.strerror}. Name another with --store or --pvc."]
        ) from error


def pair(option: str) -> tuple[str, Path]:
    """Split ``CLAIM=FOLDER``.

    Raises:
        ManifestError: it has another form.
    """
    claim, separator, folder = option.partition("=")
    if not claim or not separator or not folder:
        raise ManifestError([f"--pvc {option}: write CLAIM=FOLDER."])
    return claim, Path(folder).expanduser()


def inputs(config: TrainerConfig) -> dict[str, str | None]:
    """Return the claims of what is read, by the field that names them."""
    return {
        "spec.model.uri": pvc_claim(config.model.uri),
        "spec.dataset.uri": pvc_claim(config.dataset.uri),
    }


def missing_inputs(config: TrainerConfig, found: dict[str, Path]) -> Iterator[str]:
    """Yield a sentence per field whose claim has no folder here."""
    for field, claim in inputs(config).items():
        if claim is not None and not found[claim].is_dir():
            yield (
                f"{field} is on the claim {claim}, a volume of the cluster, and {found[claim]} is no folder. Name a local "
                f"copy with --pvc {claim}=FOLDER, or with --store the folder that has one named {claim}."
            )
