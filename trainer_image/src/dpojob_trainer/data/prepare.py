"""Orders the steps from the spec's data set to token ids and checks that enough pairs are left."""

import hashlib
import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value, disable_progress_bars
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dpojob_api.input_spec import ColumnsSpec, DatasetSpec
from dpojob_api.reasons import TrainerReason
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.data import gate
from dpojob_trainer.data.files import load_split
from dpojob_trainer.data.handover import Tokenised, address_of, read
from dpojob_trainer.data.report import DataReport, Facts, report_of
from dpojob_trainer.data.rows import RowError, check_columns, read_pair
from dpojob_trainer.data.split import held_out
from dpojob_trainer.data.tokens import Lengths, Texts, encode_pairs, texts_of
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.sources import pinned
from dpojob_trainer.sources.retrying import first_line

logger = logging.getLogger(__name__)
# Rows that the tokenizer gets at once: enough for every core of a TPU host.
TOKENIZER_BATCH = 512
ID_COLUMNS = ["prompt_ids", "chosen_ids", "rejected_ids"]
FEATURES = Features(
    {name: List(Value("int32")) for name in ID_COLUMNS}
    | {name: Value("string") for name in ("kind", "roles")}
    | {name: Value("int32") for name in ("largest_id", "prompt_tokens", "chosen_tokens", "rejected_tokens")}
    | {name: Value("int64") for name in ("prompt_key", "pair_key", "row")}
)


@dataclass(frozen=True)
class PreparedData:
    """Tokenised pairs and the tokenizer they were made with.

    ``train`` and ``evaluation`` (None without evalSplit or evalFraction) have the columns ``prompt_ids``,
    ``chosen_ids`` and ``rejected_ids``: lists of int of at most maxPromptLength and maxCompletionLength, without padding.
    ``revision`` is the commit of an ``hf://`` data set; ``pairs_sha256`` is equal for equal pairs in equal order.
    ``rows`` is what may be handed over to others.
    """

    train: Dataset
    evaluation: Dataset | None
    tokenizer: PreTrainedTokenizerBase
    report: DataReport
    revision: str | None = None
    pairs_sha256: str = ""
    rows: Tokenised | None = None


def prepare(
    config: TrainerConfig, model_dir: Path, workdir: Path | None = None, shared: Path | None = None
) -> PreparedData:
    """Load, tokenise and split the data set and check it; equal on every host, in file order (shuffling is the trainer's).

    Args:
        config: the attempt's configuration; dataset, dpo lengths and globalBatchSize are read.
        model_dir: what ``sources.fetch_model`` returned; the tokenizer is read from it.
        workdir: where a gs:// data set is downloaded to and caches lie; a temporary folder if unset.
        shared: the folder where rows that were tokenised before may be; None to tokenise.

    Raises:
        TrainerError: what ``examine`` and ``accept`` raise.
    """
    if workdir is None:
        with tempfile.TemporaryDirectory(prefix="dpojob-data-") as folder:
            return prepare(config, model_dir, Path(folder), shared)
    prepared = examine(config, model_dir, workdir, shared=shared)
    logger.info("data: %s", prepared.report.model_dump_json(by_alias=True))
    accept(prepared, config)
    return prepared


def examine(
    config: TrainerConfig,
    model_dir: Path,
    workdir: Path,
    data_path: Path | None = None,
    shared: Path | None = None,
) -> PreparedData:
    """Load, tokenise and split the data set and report on it, without judging the report.

    Args:
        config: as for ``prepare``.
        model_dir: as for ``prepare``.
        workdir: as for ``prepare``.
        data_path: a local file or folder to read instead of dataset.uri.
        shared: as for ``prepare``.

    Raises:
        TrainerError: DatasetNotFound, DatasetInvalid, ColumnNotFound, DatasetEmpty (no rows), NoChatTemplate, ModelNotFound
            (no usable tokenizer), ModelUnsupported (ids beyond the embedding), CredentialsMissing, RateLimited or
            DownloadFailed.
    """
    disable_progress_bars()
    tokenizer = load_tokenizer(model_dir)
    lengths = Lengths(config.dpo.max_prompt_length, config.dpo.max_completion_length)
    spec = pinned(config.dataset, data_path)
    rows = tokenised(spec, lengths, tokenizer, model_dir, workdir, data_path, shared)
    check_vocabulary([rows.train, rows.evaluation], model_dir)
    facts = facts_of(rows.train, spec.split)
    eval_facts = None if rows.evaluation is None else facts_of(rows.evaluation, eval_split_of(spec))
    report = report_of(facts, eval_facts, lengths, spec.columns.model_dump(exclude_none=True))
    report = report.model_copy(update={"violations": gate.violations(report, spec.gate)})
    return PreparedData(
        usable(rows.train),
        None if rows.evaluation is None else usable(rows.evaluation),
        tokenizer,
        report,
        spec.revision,
        fingerprint([part for part in (facts, eval_facts) if part is not None]),
        rows,
    )


def tokenised(
    spec: DatasetSpec,
    lengths: Lengths,
    tokenizer: PreTrainedTokenizerBase,
    model_dir: Path,
    workdir: Path,
    data_path: Path | None,
    shared: Path | None,
) -> Tokenised:
    """Return the rows as token ids: from `shared` if they are there, else from the data set."""
    address = "" if shared is None else address_of(spec, lengths, model_dir, workdir)
    if shared is not None and (found := read(shared, address)) is not None:
        logger.info("data: the tokenised pairs are those in %s", shared)
        return found
    train, evaluation = load_rows(spec, workdir, data_path)
    return Tokenised(
        tokenize_rows(train, spec.columns, tokenizer, lengths, spec.split),
        None
        if evaluation is None
        else tokenize_rows(evaluation, spec.columns, tokenizer, lengths, eval_split_of(spec)),
        address,
    )


def eval_split_of(spec: DatasetSpec) -> str:
    """Return the split that the held-out rows are of."""
    return spec.eval_split or spec.split


def accept(data: PreparedData, config: TrainerConfig) -> None:
    """Make sure that the data can be trained on and keeps the bounds of dataset.gate, which may only warn.

    Raises:
        TrainerError: DatasetEmpty, DatasetTooSmall or DataInvalid.
    """
    check_size(data, config)
    gate.enforce(data.report, config.dataset.gate)
    for violation in data.report.violations:
        logger.warning("%s", violation)


def load_tokenizer(model_dir: Path) -> PreTrainedTokenizerBase:
    """Load the model's tokenizer; a missing pad token becomes the EOS token.

    Raises:
        TrainerError: ModelNotFound if there is none, or if it has no EOS token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model_dir, use_fast=True, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        raise TrainerError(
            TrainerReason.MODEL_NOT_FOUND,
            f"the model's tokenizer cannot be loaded: {first_line(error)}. Save it again beside config.json (tokenizer.json "
            "and tokenizer_config.json); tokenizers with code of their own are not run.",
        ) from error
    if tokenizer.eos_token_id is None:
        raise TrainerError(
            TrainerReason.MODEL_NOT_FOUND,
            "the model's tokenizer has no EOS token, so completions cannot end. Set eos_token in tokenizer_config.json.",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_rows(
    spec: DatasetSpec, workdir: Path, data_path: Path | None = None
) -> tuple[Dataset, Dataset | None]:
    """Return the training rows and the rows that are held out, numbered by a column ``__row`` as in their files."""
    rows = numbered(load_split(spec, spec.split, workdir, data_path))
    if spec.eval_split is not None:
        return rows, numbered(load_split(spec, spec.eval_split, workdir, data_path))
    out = held_out(len(rows), spec.eval_fraction, spec.seed)
    if not out:
        return rows, None
    kept = sorted(set(range(len(rows))) - set(out))
    return rows.select(kept), rows.select(out)


def numbered(rows: Dataset) -> Dataset:
    """Add the row numbers that messages to the user name, counting from 1."""
    return rows.add_column("__row", list(range(1, len(rows) + 1)))


def tokenize_rows(
    rows: Dataset, columns: ColumnsSpec, tokenizer: PreTrainedTokenizerBase, lengths: Lengths, split: str
) -> Dataset:
    """Tokenise every row; which ones cannot be used is still in the result's ``kind``."""
    check_columns([name for name in rows.column_names if name != "__row"], columns)

    def text(row: dict[str, Any]) -> Texts:
        try:
            return texts_of(tokenizer, read_pair(row, columns))
        except RowError as error:
            raise TrainerError(
                TrainerReason.DATASET_INVALID,
                f"row {row['__row']} of split {split!r}: {error}. Correct or remove the row.",
            ) from error

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        texts = [text(dict(zip(batch, values, strict=True))) for values in zip(*batch.values(), strict=True)]
        encoded = zip(encode_pairs(tokenizer, texts, lengths), batch["__row"], strict=True)
        pairs = [{**pair.row(), "row": number} for pair, number in encoded]
        return {name: [pair[name] for pair in pairs] for name in FEATURES}

    # The fingerprint would otherwise hash the tokenizer, and a cache would be written that nothing reads again.
    return rows.map(
        tokenize,
        batched=True,
        batch_size=TOKENIZER_BATCH,
        remove_columns=rows.column_names,
        features=FEATURES,
        load_from_cache_file=False,
        keep_in_memory=True,
        new_fingerprint=f"dpojob-{split}",
    )


def check_vocabulary(parts: list[Dataset | None], model_dir: Path) -> None:
    """Refuse ids that the embedding does not have: JAX would clamp them without a word."""
    if not (model_dir / "config.json").is_file():
        return
    config = json.loads((model_dir / "config.json").read_text())
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    if size is None:
        return
    largest = max((max(part["largest_id"], default=-1) for part in parts if part is not None), default=-1)
    if largest >= size:
        raise TrainerError(
            TrainerReason.MODEL_UNSUPPORTED,
            f"the tokenizer gives id {largest} and the model's vocabulary has {size} entries; tokenizer and model do not "
            "belong together. Put the model's own tokenizer into its folder or resize its embedding.",
        )


def facts_of(part: Dataset, split: str) -> Facts:
    """Return what the report needs of tokenised rows."""
    numbers = {
        name: np.asarray(part[column], dtype=np.int64)
        for name, column in (
            ("row", "row"),
            ("prompt", "prompt_tokens"),
            ("chosen", "chosen_tokens"),
            ("rejected", "rejected_tokens"),
            ("prompt_key", "prompt_key"),
            ("pair_key", "pair_key"),
        )
    }
    return Facts(split=split, kind=list(part["kind"]), roles=list(part["roles"]), **numbers)


def fingerprint(parts: list[Facts]) -> str:
    """Return the SHA-256 over the keys of the usable pairs, training pairs first."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.kept().pair_key.tobytes())
    return digest.hexdigest()


def usable(part: Dataset) -> Dataset:
    """Return the pairs that can be learnt from, ids only."""
    kept = [index for index, kind in enumerate(part["kind"]) if kind == "kept"]
    return part.select(kept).select_columns(ID_COLUMNS)


def check_size(data: PreparedData, config: TrainerConfig) -> None:
    """Make sure that a step can be filled and that there is something to evaluate on.

    Raises:
        TrainerError: DatasetEmpty or DatasetTooSmall, with the numbers.
    """
    report, batch = data.report, config.training.global_batch_size
    counts = (
        f"of {report.rows} rows, {report.dropped_empty} have an empty side, {report.dropped_equal} have equal sides and "
        f"{report.eval_pairs} are held out"
    )
    if report.train_pairs == 0 or (data.evaluation is not None and report.eval_pairs == 0):
        what = "train on" if report.train_pairs == 0 else "evaluate on"
        raise TrainerError(
            TrainerReason.DATASET_EMPTY,
            f"no pair is left to {what}: {counts}. Add pairs or raise dpo.maxCompletionLength.",
        )
    if report.train_pairs < batch:
        raise TrainerError(
            TrainerReason.DATASET_TOO_SMALL,
            f"{report.train_pairs} pairs are left to train on and one step takes {batch}: {counts}. Add pairs, or lower "
            f"training.globalBatchSize to {report.train_pairs} or less.",
        )
