"""Tokenised pairs in the output store: the driver makes them, its hosts and the job's later attempts map them into memory.

There is one set per output, and beside it the address of its content: a digest of all that the token ids depend on.
Whoever finds another address, or cannot read what is there, tokenises.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from datasets import Dataset, load_from_disk

from dpojob_api.input_spec import DatasetSpec
from dpojob_api.uris import parse_uri
from dpojob_trainer.data.files import data_files
from dpojob_trainer.data.tokens import Lengths
from dpojob_trainer.sources import fetch_dataset_files
from dpojob_trainer.sources.layout import TOKENIZER_FILES

logger = logging.getLogger(__name__)

# Part of every address; a change of the columns or of the rules in tokens.py and rows.py needs another one.
FORM = 1
LIBRARIES = ("datasets", "tokenizers", "transformers")
ADDRESS = "address.json"
TRAIN, EVALUATION = "train", "evaluation"


@dataclass(frozen=True)
class Tokenised:
    """All rows of a data set as token ids, unusable ones included.

    Attributes:
        train: the training rows with the columns of `prepare.FEATURES`.
        evaluation: the held-out rows, None without any.
        address: of the content, empty where nothing is handed over.
        found: whether they were read from the output.
    """

    train: Dataset
    evaluation: Dataset | None
    address: str = ""
    found: bool = False


def address_of(spec: DatasetSpec, lengths: Lengths, model_dir: Path, workdir: Path) -> str:
    """Return the digest of all that the ids depend on: data, tokenizer, template, lengths, split, and the libraries.

    Args:
        spec: the data set, with the commit of an ``hf://`` one as its revision. The files of others are read.
        lengths: tokens kept.
        model_dir: where tokenizer and template are.
        workdir: where a gs:// data set is downloaded to.

    Raises:
        TrainerError: any reason of a data set that cannot be read.
    """
    told = spec.model_dump(mode="json", exclude={"gate"})
    parts = {"spec": told, "lengths": [lengths.prompt, lengths.completion], "form": FORM}
    parts |= {"libraries": {name: version(name) for name in LIBRARIES}}
    parts |= {"tokenizer": digests(file for name in TOKENIZER_FILES for file in model_dir.glob(name))}
    if parse_uri(spec.uri).scheme != "hf":
        parts |= {"files": digests(data_files(spec.uri, fetch_dataset_files(spec, workdir)))}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def digests(files: Iterable[Path]) -> list[list[str]]:
    """Return the name and the SHA-256 of each file, by name."""
    return sorted([file.name, digest(file)] for file in files)


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def read(folder: Path, address: str) -> Tokenised | None:
    """Return the rows that were handed over; None if there are none, others, or some that cannot be read."""
    try:
        if json.loads((folder / ADDRESS).read_text())["address"] != address:
            return None
        parts = [folder / name for name in (TRAIN, EVALUATION)]
        train, evaluation = (load_from_disk(str(part)) if part.is_dir() else None for part in parts)
    except FileNotFoundError:
        return None
    except Exception as error:
        logger.warning("the tokenised pairs in %s cannot be read and are made again: %s", folder, error)
        return None
    return None if train is None else Tokenised(train, evaluation, address, found=True)


def write(rows: Tokenised, folder: Path) -> None:
    """Write the rows into a new folder, in the form that :func:`read` takes."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, part in ((TRAIN, rows.train), (EVALUATION, rows.evaluation)):
        if part is not None:
            part.save_to_disk(str(folder / name))
    (folder / ADDRESS).write_text(json.dumps({"address": rows.address}))
