"""Rows of one split: from the Hub, or from JSON, JSON Lines and Parquet files in a folder."""

import re
from pathlib import Path

from datasets import Dataset, load_dataset

from dpojob_api.input_spec import DatasetSpec
from dpojob_api.reasons import TrainerReason
from dpojob_api.uris import parse_uri
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.sources import fetch_dataset_files
from dpojob_trainer.sources.hub import NO_ROWS
from dpojob_trainer.sources.hub import load_split as load_hub_split
from dpojob_trainer.sources.retrying import causes, first_line

FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}
USUAL_SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval", "evaluation")


def load_split(spec: DatasetSpec, split: str, workdir: Path, data_path: Path | None = None) -> Dataset:
    """Return the rows of a split in the order of the files (sorted by path) and of the rows in them.

    Args:
        spec: where the data set is.
        split: which split of it.
        workdir: where downloads and caches lie.
        data_path: a local file or folder to read instead.

    Raises:
        TrainerError: DatasetNotFound, DatasetInvalid, DatasetEmpty, CredentialsMissing, RateLimited or
            DownloadFailed.
    """
    if data_path is not None:
        return read_files(str(data_path), files_of_split(str(data_path), data_path, split), workdir)
    uri = parse_uri(spec.uri)
    if uri.scheme == "hf":
        return load_hub_split(uri.root, spec.revision, split, workdir)
    path = fetch_dataset_files(spec, workdir)
    return read_files(spec.uri, files_of_split(spec.uri, path, split), workdir)


def files_of_split(uri: str, path: Path, split: str) -> list[Path]:
    """Choose a split's files.

    Files belong to a split if their name or a folder on the way is the split's name, or begins with it and ``-``, ``_``
    or ``.`` (``train.jsonl``, ``train-00000-of-00002.parquet``, ``train/0.json``). If no file is named like a split,
    all of them are ``train``.
    """
    files = data_files(uri, path)
    base = path if path.is_dir() else path.parent
    named = [file for file in files if belongs(file.relative_to(base), split)]
    if named:
        return named
    others = [file for file in files if any(belongs(file.relative_to(base), usual) for usual in USUAL_SPLITS)]
    if split == "train" and not others:
        return files
    names = ", ".join(str(file.relative_to(base)) for file in files[:10])
    raise TrainerError(
        TrainerReason.DATASET_NOT_FOUND,
        f"{uri} has no files of split {split!r}, only {names}. Name files like the split (e.g. {split}.jsonl), correct "
        "dataset.split, or use dataset.evalFraction instead of evalSplit.",
    )


def data_files(uri: str, path: Path) -> list[Path]:
    """Return the data files at or below a path, sorted; hidden ones do not count."""
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    base = path.parent if path.is_file() else path
    files = [
        file
        for file in found
        if file.suffix in FORMATS and file.is_file() and not hidden(file.relative_to(base))
    ]
    if not files:
        raise TrainerError(
            TrainerReason.DATASET_NOT_FOUND,
            f"{uri} has no data file. Put .json, .jsonl or .parquet files there.",
        )
    return files


def hidden(file: Path) -> bool:
    """Whether a name on the way begins with a dot."""
    return any(part.startswith(".") for part in file.parts)


def belongs(file: Path, split: str) -> bool:
    """Whether a file is named like a split, or lies in a folder that is."""
    pattern = re.compile(rf"{re.escape(split)}([-_.].*)?")
    return any(pattern.fullmatch(part) for part in file.parts)


def read_files(uri: str, files: list[Path], workdir: Path) -> Dataset:
    """Read files of one format into rows."""
    formats = {FORMATS[file.suffix] for file in files}
    if len(formats) > 1:
        raise TrainerError(
            TrainerReason.DATASET_INVALID,
            f"{uri} mixes JSON and Parquet files. Keep one format, or name the files like their splits.",
        )
    if all(file.stat().st_size == 0 for file in files):
        raise TrainerError(
            TrainerReason.DATASET_EMPTY, f"{uri}: {files[0].name} is empty. Put pairs into it."
        )
    try:
        return load_dataset(
            formats.pop(),
            data_files=[str(file) for file in files],
            split="train",
            cache_dir=str(workdir / "datasets"),
        )
    except Exception as error:
        raise unreadable(uri, files, error) from error


def unreadable(uri: str, files: list[Path], error: Exception) -> TrainerError:
    """Say which data could not be read and what the reader's words were."""
    chain = list(causes(error))
    words = first_line(chain[-1])
    if NO_ROWS in str(error):
        return TrainerError(TrainerReason.DATASET_EMPTY, f"{uri} has no rows. Put pairs into it.")
    names = ", ".join(file.name for file in files[:5])
    return TrainerError(
        TrainerReason.DATASET_INVALID,
        f"{uri} ({names}) cannot be read: {words}. JSON is a list of objects, JSON Lines one object per line; all rows have "
        "the same columns with the same types.",
    )
