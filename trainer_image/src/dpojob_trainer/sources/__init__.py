"""Brings the base model and the data files to this host: from the Hub, from GCS, or from a mounted claim.

Every failure ends in a :class:`TrainerError` with a documented reason and the fix; no code of a repository is run.
"""

from collections.abc import Sequence
from pathlib import Path

from dpojob_api.input_spec import DatasetSpec, ModelSpec
from dpojob_api.reasons import TrainerReason
from dpojob_api.uris import local_path, parse_uri
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.sources import gcs, hub
from dpojob_trainer.sources.layout import MODEL_FILES, TOKENIZER_FILES, layout_problem, names_in


def fetch_model(spec: ModelSpec, workdir: Path) -> Path:
    """Return a local folder with the base model: config, tokenizer and safetensors.

    ``pvc://`` is the mounted folder itself; ``hf://`` and ``gs://`` are downloaded below ``workdir``. HF_TOKEN and
    HF_ENDPOINT come from the environment. The layout is checked before weights are downloaded.

    Raises:
        TrainerError: ModelNotFound, CredentialsMissing, RateLimited or DownloadFailed.
    """
    return fetch_files(spec, workdir, MODEL_FILES)


def fetch_tokenizer(spec: ModelSpec, workdir: Path) -> Path:
    """Return a local folder with the base model's config and tokenizer; the layout is checked, weights stay where they are.

    Raises:
        TrainerError: ModelNotFound, CredentialsMissing, RateLimited or DownloadFailed.
    """
    return fetch_files(spec, workdir / "tokenizer", TOKENIZER_FILES)


def fetch_files(spec: ModelSpec, workdir: Path, patterns: Sequence[str]) -> Path:
    """Download the files of a model that ``patterns`` name; a claim is there already."""
    uri = parse_uri(spec.uri)
    if uri.scheme == "hf":
        return hub.download_model(uri.root, spec.revision, workdir, patterns)
    if uri.scheme == "gs":
        return gcs.download_model(spec.uri, workdir, patterns)
    folder = Path(local_path(spec.uri))
    if not folder.is_dir():
        raise TrainerError(TrainerReason.MODEL_NOT_FOUND, f"{spec.uri} is not a folder; {mount_hint(folder)}")
    if problem := layout_problem(names_in(folder)):
        raise TrainerError(TrainerReason.MODEL_NOT_FOUND, f"{spec.uri} {problem}")
    return folder


def pinned(spec: DatasetSpec, data_path: Path | None = None) -> DatasetSpec:
    """Return the spec with the commit of an ``hf://`` data set as its revision, so that all its splits are of one commit.

    Raises:
        TrainerError: DatasetNotFound, CredentialsMissing, RateLimited or DownloadFailed.
    """
    uri = parse_uri(spec.uri)
    if uri.scheme != "hf" or data_path is not None:
        return spec
    return spec.model_copy(update={"revision": hub.dataset_commit(uri.root, spec.revision)})


def fetch_dataset_files(spec: DatasetSpec, workdir: Path) -> Path:
    """Return the local file or folder behind a ``pvc://`` or ``gs://`` data set.

    Raises:
        TrainerError: DatasetNotFound, CredentialsMissing, RateLimited or DownloadFailed.
        ValueError: an ``hf://`` data set, which ``hub.load_split`` reads.
    """
    uri = parse_uri(spec.uri)
    if uri.scheme == "hf":
        raise ValueError(f"{spec.uri!r} is read by hub.load_split")
    if uri.scheme == "gs":
        return gcs.download_dataset(spec.uri, workdir)
    path = Path(local_path(spec.uri))
    if not path.exists():
        raise TrainerError(TrainerReason.DATASET_NOT_FOUND, f"{spec.uri} does not exist; {mount_hint(path)}")
    return path


def mount_hint(path: Path) -> str:
    """Say what is there instead: the nearest folder above ``path`` that exists, with some of its names."""
    parent = next((above for above in path.parents if above.is_dir()), Path("/"))
    names = sorted(entry.name for entry in parent.iterdir())
    listing = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return f"the volume has {parent} with {listing or 'nothing'} in it. Correct the path or copy the files there."
