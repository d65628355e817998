"""Orders the steps from the spec's data set to token ids and checks that enough pairs are left."""

from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dpojob_api.base import ApiModel
from dpojob_api.trainer_config import TrainerConfig


class DataReport(ApiModel):
    """What became of the rows: counts of rows and pairs."""

    rows: int = Field(description="rows is the number of rows read, training and evaluation together.")
    dropped_empty: int = Field(description="droppedEmpty is the pairs with a side without a token.")
    dropped_equal: int = Field(description="droppedEqual is the pairs whose two sides do not differ.")
    truncated_prompts: int = Field(
        description="truncatedPrompts is the pairs whose prompt lost its beginning."
    )
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
            ModelNotFound (no tokenizer), AccessDenied, RateLimited or DownloadFailed.
    """
    raise NotImplementedError
