"""Orders the steps from the spec's data set to token ids and checks that enough pairs are left."""

import json
import logging
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value, disable_progress_bars
from pydantic import Field
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dpojob_api.base import ApiModel
from dpojob_api.reasons import TrainerReason
from dpojob_api.spec import ColumnsSpec, DatasetSpec
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.data.files import load_split
from dpojob_trainer.data.rows import RowError, check_columns, read_pair
from dpojob_trainer.data.split import held_out
from dpojob_trainer.data.tokens import Lengths, Texts, encode_pairs, texts_of
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.sources.retrying import first_line

logger = logging.getLogger(__name__)
# Rows that the tokenizer gets at once: enough for every core of a TPU host.
TOKENIZER_BATCH = 512
ID_COLUMNS = ["prompt_ids", "chosen_ids", "rejected_ids"]
FEATURES = Features(
    {name: List(Value("int32")) for name in ID_COLUMNS}
    | {"kind": Value("string")}
    | {name: Value("int32") for name in ("largest_id", "truncated_prompts", "truncated_completions")}
)


class DataReport(ApiModel):
    """What became of the rows: counts of rows and pairs."""

    rows: int = Field(description="rows is the number of rows read, training and evaluation together.")
    dropped_empty: int = Field(description="droppedEmpty is the pairs with a side without text.")
    dropped_equal: int = Field(
        description="droppedEqual is the pairs whose two sides do not differ in the tokens kept."
    )
    truncated_prompts: int = Field(description="truncatedPrompts is the prompts that lost their beginning.")
    truncated_completions: int = Field(
        description="truncatedCompletions is the completions that lost their end."
    )
    train_pairs: int = Field(description="trainPairs is the pairs that are trained on.")
    eval_pairs: int = Field(description="evalPairs is the pairs that are held out.")


@dataclass(frozen=True)
class PreparedData:
    """Tokenised pairs and the tokenizer they were made with.

    ``train`` and ``evaluation`` (None without evalSplit or evalFraction) have the columns ``prompt_ids``,
    ``chosen_ids`` and ``rejected_ids``: lists of int of at most maxPromptLength and maxCompletionLength, without padding.
    """

    train: Dataset
    evaluation: Dataset | None
    tokenizer: PreTrainedTokenizerBase
    report: DataReport


def prepare(config: TrainerConfig, model_dir: Path, workdir: Path | None = None) -> PreparedData:
    """Load, tokenise and split the data set; equal on every host, in file order (shuffling is the trainer's).

    Args:
        config: the attempt's configuration; dataset, dpo lengths and globalBatchSize are read.
        model_dir: what ``sources.fetch_model`` returned; the tokenizer is read from it.
        workdir: where a gs:// data set is downloaded to and caches lie; a temporary folder if unset.

    Raises:
        TrainerError: DatasetNotFound, DatasetInvalid, ColumnNotFound, DatasetEmpty, DatasetTooSmall, NoChatTemplate,
            ModelNotFound (no usable tokenizer), ModelUnsupported (ids beyond the embedding), AccessDenied, RateLimited
            or DownloadFailed.
    """
    if workdir is None:
        with tempfile.TemporaryDirectory(prefix="dpojob-data-") as folder:
            return prepare(config, model_dir, Path(folder))
    disable_progress_bars()
    tokenizer = load_tokenizer(model_dir)
    lengths = Lengths(config.dpo.max_prompt_length, config.dpo.max_completion_length)
    train_rows, eval_rows = load_rows(config.dataset, workdir)
    columns = config.dataset.columns
    train = tokenize_rows(train_rows, columns, tokenizer, lengths, config.dataset.split)
    evaluation = (
        tokenize_rows(
            eval_rows, columns, tokenizer, lengths, config.dataset.eval_split or config.dataset.split
        )
        if eval_rows is not None
        else None
    )
    check_vocabulary([train, evaluation], model_dir)
    prepared = assemble(train, evaluation, tokenizer)
    check_size(prepared, config)
    logger.info("data: %s", prepared.report.model_dump_json(by_alias=True))
    return prepared


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


def load_rows(spec: DatasetSpec, workdir: Path) -> tuple[Dataset, Dataset | None]:
    """Return the training rows and the rows that are held out, numbered by a column ``__row`` as in their files."""
    rows = numbered(load_split(spec, spec.split, workdir))
    if spec.eval_split is not None:
        return rows, numbered(load_split(spec, spec.eval_split, workdir))
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
        pairs = [pair.row() for pair in encode_pairs(tokenizer, texts, lengths)]
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


def assemble(train: Dataset, evaluation: Dataset | None, tokenizer: PreTrainedTokenizerBase) -> PreparedData:
    """Drop the pairs that cannot be used and count them."""
    parts = [train] if evaluation is None else [train, evaluation]
    kinds = Counter(kind for part in parts for kind in part["kind"])
    kept_train, kept_evaluation = usable(train), None if evaluation is None else usable(evaluation)
    report = DataReport(
        rows=kinds.total(),
        dropped_empty=kinds["empty"],
        dropped_equal=kinds["equal"],
        truncated_prompts=sum(sum(part["truncated_prompts"]) for part in parts),
        truncated_completions=sum(sum(part["truncated_completions"]) for part in parts),
        train_pairs=len(kept_train),
        eval_pairs=0 if kept_evaluation is None else len(kept_evaluation),
    )
    return PreparedData(kept_train, kept_evaluation, tokenizer, report)


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
