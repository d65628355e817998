"""Brings the base model and the data files to this host: from the Hub, from GCS, or from a mounted claim.

Every failure ends in a :class:`TrainerError` with a documented reason and the fix; no code of a repository is run.
"""

from pathlib import Path

from dpojob_api.spec import DatasetSpec, ModelSpec


def fetch_model(spec: ModelSpec, workdir: Path) -> Path:
    """Return a local folder with the base model: config, tokenizer and safetensors.

    ``pvc://`` is the mounted folder itself; ``hf://`` and ``gs://`` are downloaded below ``workdir``. HF_TOKEN and
    HF_ENDPOINT come from the environment.

    Raises:
        TrainerError: ModelNotFound, ModelUnsupported, AccessDenied, RateLimited or DownloadFailed.
    """
    raise NotImplementedError


def fetch_dataset_files(spec: DatasetSpec, workdir: Path) -> Path:
    """Return the local file or folder behind a ``pvc://`` or ``gs://`` data set.

    Raises:
        TrainerError: DatasetNotFound, AccessDenied or DownloadFailed.
        ValueError: an ``hf://`` data set, which ``data.load_split`` reads through ``datasets``.
    """
    raise NotImplementedError
