"""Models and data sets from the Hugging Face Hub, through its own clients.

A revision is resolved to a commit first and everything after that names the commit: a branch that moves during the
download cannot mix two versions, and no client falls back to what an earlier run left in its cache.
"""

import errno
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from datasets import Dataset, load_dataset
from datasets.exceptions import DataFilesNotFoundError, DatasetGenerationError
from huggingface_hub import HfApi, get_token, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from dpojob_api.reasons import TrainerReason
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.sources.layout import MODEL_FILES, layout_problem
from dpojob_trainer.sources.retrying import causes, first_line, response_of, with_retries

logger = logging.getLogger(__name__)
PUBLIC_FILES = ("README.md", ".gitattributes")
RepoType = Literal["model", "dataset"]
NOT_FOUND: dict[RepoType, TrainerReason] = {
    "model": TrainerReason.MODEL_NOT_FOUND,
    "dataset": TrainerReason.DATASET_NOT_FOUND,
}
# The words of `datasets` for a split without rows.
NO_ROWS = "corresponds to no data"
BAD_TOKEN = "Invalid credentials"
TOKEN_HOW = "a Secret with a Hugging Face access token and spec.credentials.huggingFace naming it"


def endpoint() -> str | None:
    """Return HF_ENDPOINT, None for the client's default."""
    return os.environ.get("HF_ENDPOINT") or None


def download_model(
    name: str, revision: str | None, workdir: Path, patterns: Sequence[str] = MODEL_FILES
) -> Path:
    """Download config, tokenizer and safetensors of ``org/name`` (or what ``patterns`` name) and return the commit's folder."""
    with translated("model", name, revision):
        commit, files = resolve("model", name, revision)
        if problem := layout_problem(file for file in files if "/" not in file):
            raise TrainerError(TrainerReason.MODEL_NOT_FOUND, f"hf://{name} {problem}")
        folder = with_retries(
            f"download of {name}",
            lambda: snapshot_download(
                name,
                revision=commit,
                allow_patterns=list(patterns),
                ignore_patterns=["*/*"],
                cache_dir=workdir / "hub",
                endpoint=endpoint(),
            ),
        )
    logger.info("hf://%s is at %s, commit %s", name, folder, commit)
    return Path(folder)


def load_split(name: str, revision: str | None, split: str, workdir: Path) -> Dataset:
    """Read one split of the data set ``org/name`` through ``datasets``; Parquet, JSON and the like, never a script."""
    with translated("dataset", name, revision):
        commit, files = resolve("dataset", name, revision)
        check_access(name, commit, files)
        # The hf:// form is never taken for a local folder of the same name.
        rows = with_retries(
            f"download of data set {name}",
            lambda: load_dataset(
                f"hf://datasets/{name}", revision=commit, split=split, cache_dir=str(workdir / "datasets")
            ),
        )
    logger.info("hf://%s, commit %s, split %s: %d rows", name, commit, split, len(rows))
    return rows


def dataset_commit(name: str, revision: str | None) -> str:
    """Return the commit behind a data set's revision."""
    with translated("dataset", name, revision):
        return resolve("dataset", name, revision)[0]


def resolve(repo_type: RepoType, name: str, revision: str | None) -> tuple[str, list[str]]:
    """Return the commit behind a revision and the files at the top of the repository."""
    info = with_retries(
        f"look-up of {name}",
        lambda: HfApi(endpoint=endpoint()).repo_info(name, repo_type=repo_type, revision=revision),
    )
    return str(info.sha), [sibling.rfilename for sibling in info.siblings or []]


def check_access(name: str, commit: str, files: list[str]) -> None:
    """Ask for a data file's metadata: ``datasets`` loses the Hub's answer for a gated repository on the way."""
    if data := [file for file in files if file not in PUBLIC_FILES]:
        url = hf_hub_url(name, data[0], repo_type="dataset", revision=commit, endpoint=endpoint())
        with_retries(
            f"look-up of {data[0]}", lambda: HfApi(endpoint=endpoint()).get_hf_file_metadata(url=url)
        )


@contextmanager
def translated(repo_type: RepoType, name: str, revision: str | None) -> Iterator[None]:
    """Turn the clients' errors into a documented reason with the fix in the message."""
    try:
        yield
    except TrainerError:
        raise
    except Exception as error:
        raise explain(error, repo_type, name, revision) from error


def explain(error: Exception, repo_type: RepoType, name: str, revision: str | None) -> TrainerError:
    """Find what an error of the Hub's clients means for the user."""
    chain = list(causes(error))
    known = (
        explain_access(chain, name)
        or explain_missing(chain, repo_type, name, revision)
        or explain_status(error, name)
        or explain_disk(chain, name)
    )
    if known is None and repo_type == "dataset":
        known = explain_data(chain, name)
    return known or TrainerError(
        TrainerReason.DOWNLOAD_FAILED,
        f"hf://{name} could not be downloaded: {first_line(chain[-1])}. Check the network and that the Hub is reachable "
        "from the cluster, then create the DPOJob again.",
    )


def explain_access(chain: list[BaseException], name: str) -> TrainerError | None:
    """Recognise gated, disabled and private repositories and tokens that are not valid."""
    response = response_of(chain[0])
    status = status_of(chain)
    if has(chain, GatedRepoError):
        message = f"hf://{name} is gated. " + gated_fix(name)
    elif has(chain, DisabledRepoError):
        message = f"hf://{name} was disabled on the Hub. Use another repository."
    elif status == 401 and response is not None and BAD_TOKEN in response.headers.get("X-Error-Message", ""):
        message = (
            f"the Hub does not accept the access token for hf://{name}. Put a valid token into the Secret."
        )
    elif status == 403:
        message = f"the access token may not read hf://{name}. Give it read permission for this repository."
    else:
        return None
    return TrainerError(TrainerReason.CREDENTIALS_MISSING, message)


def gated_fix(name: str) -> str:
    """Say what lets a user into a gated repository, which depends on whether a token was sent."""
    if get_token() is None:
        return f"Accept its terms on the Hub, then create {TOKEN_HOW}."
    return f"The access token's account has not been granted access to {name}: accept the terms on the Hub with that account and wait for the grant."


def explain_missing(
    chain: list[BaseException], repo_type: RepoType, name: str, revision: str | None
) -> TrainerError | None:
    """Recognise repositories and revisions that do not exist."""
    if has(chain, RevisionNotFoundError):
        message = f"hf://{name} has no revision {revision!r}. Name a branch, tag or commit that exists, or leave revision out."
    elif has(chain, RepositoryNotFoundError) or status_of(chain) == 401:
        private = (
            f"if it is private, create {TOKEN_HOW}"
            if get_token() is None
            else "if it is private, use a token that may read it"
        )
        message = f"hf://{name} does not exist as a {repo_type} on the Hub, or is private. Correct the name; {private}."
    else:
        return None
    return TrainerError(NOT_FOUND[repo_type], message)


def explain_status(error: Exception, name: str) -> TrainerError | None:
    """Recognise answers that no retry has mended."""
    response = response_of(error)
    if response is None:
        return None
    if response.status_code == 429:
        return TrainerError(
            TrainerReason.RATE_LIMITED,
            f"the Hub refused hf://{name} with 429 (too many requests) after all retries. Wait some minutes and create the "
            f"DPOJob again; {TOKEN_HOW} raises the limit, and a gs:// or pvc:// copy avoids it.",
        )
    if response.status_code >= 500:
        return TrainerError(
            TrainerReason.DOWNLOAD_FAILED,
            f"the Hub answered {response.status_code} for hf://{name} after all retries. Create the DPOJob again later.",
        )
    return None


def explain_disk(chain: list[BaseException], name: str) -> TrainerError | None:
    """Recognise a full disk."""
    if not any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in chain):
        return None
    return TrainerError(
        TrainerReason.DOWNLOAD_FAILED,
        f"no space is left on the pod's disk for hf://{name}. Raise ephemeral-storage in spec.runtime or use a pvc:// copy.",
    )


def explain_data(chain: list[BaseException], name: str) -> TrainerError | None:
    """Recognise what ``datasets`` says about splits, configurations, scripts and unreadable files."""
    text = str(chain[0])
    if "Unknown split" in text:
        return TrainerError(
            TrainerReason.DATASET_NOT_FOUND,
            f"hf://{name}: {first_line(chain[0])} Correct dataset.split or evalSplit, or use evalFraction.",
        )
    if "Config name is missing" in text:
        names = re.search(r"\[.*?\]", text)
        return TrainerError(
            TrainerReason.DATASET_INVALID,
            f"hf://{name} has several configurations {names[0] if names else ''} and no default. Copy the files of one "
            "of them to a gs:// or pvc:// folder.",
        )
    if "scripts are no longer supported" in text:
        return TrainerError(
            TrainerReason.DATASET_INVALID,
            f"hf://{name} is made by a Python script, which is not run. Convert it to Parquet or JSON Lines.",
        )
    if has(chain, DataFilesNotFoundError) or type(chain[0]).__name__ == "EmptyDatasetError":
        return TrainerError(
            TrainerReason.DATASET_NOT_FOUND,
            f"hf://{name} has no Parquet or JSON files. Upload the data there.",
        )
    if NO_ROWS in text:
        return TrainerError(
            TrainerReason.DATASET_EMPTY, f"hf://{name} has no rows in this split. Put pairs into it."
        )
    if has(chain, DatasetGenerationError):
        return TrainerError(
            TrainerReason.DATASET_INVALID,
            f"hf://{name} cannot be read: {first_line(chain[-1])}. Correct its files.",
        )
    return None


def status_of(chain: list[BaseException]) -> int:
    """Return the HTTP status that ended a request, 0 if there was no answer."""
    response = response_of(chain[0])
    return response.status_code if response is not None else 0


def has(chain: list[BaseException], kind: type[BaseException]) -> bool:
    """Whether an error of the chain is of that kind."""
    return any(isinstance(cause, kind) for cause in chain)
