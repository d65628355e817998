"""Models and data sets from Google Cloud Storage, through google-cloud-storage, which checks sums and retries."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock
from google.cloud.storage import transfer_manager

from dpojob_api.reasons import TrainerReason
from dpojob_api.uris import parse_uri
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.sources.layout import MODEL_FILES, layout_problem
from dpojob_trainer.store.client import (
    GCS_ERRORS,
    IDENTITY_FIX,
    bucket_of,
    is_denied,
    is_missing,
    is_rate_limited,
    words_of,
)

DATA_SUFFIXES = (".json", ".jsonl", ".parquet")


def download_model(uri: str, workdir: Path, patterns: Sequence[str] = MODEL_FILES) -> Path:
    """Download the model under a ``gs://`` prefix, or its files that ``patterns`` name, and return its folder."""
    with translated(uri, TrainerReason.MODEL_NOT_FOUND):
        bucket, prefix = open_prefix(uri)
        names = [name for name in names_below(bucket, prefix) if "/" not in name]
        if not names:
            raise missing(uri, TrainerReason.MODEL_NOT_FOUND)
        if problem := layout_problem(names):
            raise TrainerError(TrainerReason.MODEL_NOT_FOUND, f"{uri} {problem}")
        wanted = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
        return download(bucket, prefix, wanted, target_of(uri, workdir))


def download_dataset(uri: str, workdir: Path) -> Path:
    """Download the data file, or the data files under a prefix, and return the local file or folder."""
    with translated(uri, TrainerReason.DATASET_NOT_FOUND):
        bucket, prefix = open_prefix(uri)
        target = target_of(uri, workdir)
        if prefix.endswith(DATA_SUFFIXES) and bucket.blob(prefix).exists():
            folder, _, name = prefix.rpartition("/")
            return download(bucket, folder, [name], target) / name
        names = [name for name in names_below(bucket, prefix) if name.endswith(DATA_SUFFIXES)]
        if not names:
            raise missing(uri, TrainerReason.DATASET_NOT_FOUND)
        return download(bucket, prefix, names, target)


def open_prefix(uri: str) -> tuple[Any, str]:
    """Return the bucket and the prefix without slashes at its ends."""
    parsed = parse_uri(uri)
    return bucket_of(parsed.root), parsed.path


def names_below(bucket: Any, prefix: str) -> list[str]:
    """Return the objects under a prefix, sorted, relative to it."""
    start = f"{prefix}/" if prefix else ""
    names = (blob.name[len(start) :] for blob in bucket.list_blobs(prefix=start or None))
    return sorted(name for name in names if name and not name.endswith("/"))


def target_of(uri: str, workdir: Path) -> Path:
    """Return the local folder of a URI."""
    return workdir / "gcs" / sha256(uri.encode()).hexdigest()[:16]


def download(bucket: Any, prefix: str, names: list[str], target: Path) -> Path:
    """Download objects into a folder that other processes of this host see only when it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.exists():
            fill(target, lambda partial: download_into(bucket, prefix, names, partial))
    return target


def fill(target: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a folder beside the target and rename it."""
    partial = target.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    write(partial)
    partial.rename(target)


def download_into(bucket: Any, prefix: str, names: list[str], folder: Path) -> None:
    """Download objects in parallel, checksums verified."""
    transfer_manager.download_many_to_path(
        bucket,
        names,
        destination_directory=str(folder),
        blob_name_prefix=f"{prefix}/" if prefix else "",
        worker_type=transfer_manager.THREAD,
        raise_exception=True,
    )


@contextmanager
def translated(uri: str, not_found: TrainerReason) -> Iterator[None]:
    """Turn the client's errors into a documented reason with the fix in the message."""
    try:
        yield
    except GCS_ERRORS as error:
        raise explain(error, uri, not_found) from error
    except OSError as error:
        raise TrainerError(
            TrainerReason.DOWNLOAD_FAILED,
            f"{uri} could not be written to the pod's disk: {error.strerror or error}. Raise ephemeral-storage in spec.runtime.",
        ) from error


def explain(error: Exception, uri: str, not_found: TrainerReason) -> TrainerError:
    """Find what an error of the client means for the user."""
    words = words_of(error)
    if is_missing(error):
        return TrainerError(not_found, f"{uri} does not exist: {words}. Correct the bucket or the path.")
    if is_denied(error):
        fix = f"{IDENTITY_FIX} roles/storage.objectViewer on the bucket."
        return TrainerError(TrainerReason.CREDENTIALS_MISSING, f"{uri} may not be read: {words}. {fix}")
    if is_rate_limited(error):
        return TrainerError(
            TrainerReason.RATE_LIMITED, f"GCS refused {uri} with 429: {words}. Try again later."
        )
    return TrainerError(
        TrainerReason.DOWNLOAD_FAILED,
        f"{uri} could not be downloaded: {words}. Check the network, then create the DPOJob again.",
    )


def missing(uri: str, reason: TrainerReason) -> TrainerError:
    """Return the error for a prefix without objects."""
    return TrainerError(reason, f"there is nothing under {uri}. Correct the path or copy the files there.")
