"""What goes in: ``spec.model`` and ``spec.dataset``, with the bounds that the data must keep. See ``spec``."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from dpojob_api.base import ApiModel
from dpojob_api.uris import INPUT_PATTERN

REVISION_PATTERN = r"^[A-Za-z0-9][\w./-]*$"
SPLIT_PATTERN = r"^[\w.-]+$"

InputUri = Annotated[str, StringConstraints(pattern=INPUT_PATTERN, max_length=1024)]
Column = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Revision = Annotated[str, StringConstraints(pattern=REVISION_PATTERN, max_length=256)]
Split = Annotated[str, StringConstraints(pattern=SPLIT_PATTERN, max_length=128)]


class OnViolation(StrEnum):
    """What happens when the data does not keep a bound of the gate."""

    FAIL = "Fail"
    WARN = "Warn"


class ModelSpec(ApiModel):
    """The base model: the policy starts from it and the reference model stays it."""

    uri: InputUri = Field(
        description="uri is the base model in Hugging Face layout: hf://org/name, gs://bucket/path or pvc://claim/path. "
        "No remote code is run."
    )
    revision: Revision | None = Field(
        default=None,
        description="revision is the branch, tag or commit of an hf:// model; its default branch if unset.",
    )


class ColumnsSpec(ApiModel):
    """Names of the data set's columns."""

    prompt: Column | None = Field(
        default=None,
        description="prompt is the column with the prompt (text or messages). If unset, the prompt is the common "
        "beginning of chosen and rejected.",
    )
    chosen: Column = Field(
        default="chosen", description="chosen is the column with the preferred answer or conversation."
    )
    rejected: Column = Field(
        default="rejected",
        description="rejected is the column with the answer or conversation that is not preferred.",
    )


class GateSpec(ApiModel):
    """Bounds that the tokenised pairs must keep; checked on the CPU before anything is compiled."""

    preflight: bool = Field(
        default=False,
        description="preflight examines the data in a pod without chips before a slice is asked for; refused data then costs "
        "none.",
    )

    on_violation: OnViolation = Field(
        default=OnViolation.FAIL,
        description="onViolation is Fail, which ends the job as DataInvalid, or Warn, which only writes the violation to "
        "the driver's log and to summary.json.",
    )
    min_pairs: int = Field(
        default=1,
        ge=1,
        le=1000000000,
        description="minPairs is the smallest number of pairs that must be left to train on.",
    )
    max_dropped_fraction: float = Field(
        default=0.1,
        ge=0.0,
        le=1.0,
        description="maxDroppedFraction is the largest share of rows that may be dropped because a completion is empty or "
        "both are equal in the tokens kept.",
    )
    max_truncated_fraction: float = Field(
        default=0.5,
        ge=0.0,
        le=1.0,
        description="maxTruncatedFraction is the largest share of pairs whose prompt or a completion may lose tokens to "
        "dpo.maxPromptLength or dpo.maxCompletionLength.",
    )
    max_duplicate_fraction: float = Field(
        default=0.5,
        ge=0.0,
        le=1.0,
        description="maxDuplicateFraction is the largest share of training pairs that may repeat an earlier one.",
    )
    max_overlap: float = Field(
        default=0.1,
        ge=0.0,
        le=1.0,
        description="maxOverlap is the largest share of evaluation pairs that may also be trained on.",
    )


class DatasetSpec(ApiModel):
    """The preference data."""

    uri: InputUri = Field(
        description="uri is the data set: hf://org/name, or a JSON, JSON Lines or Parquet file (or a folder of them) "
        "under gs://bucket/path or pvc://claim/path."
    )
    revision: Revision | None = Field(
        default=None,
        description="revision is the branch, tag or commit of an hf:// data set; its default branch if unset.",
    )
    split: Split = Field(default="train", description="split is the split that is trained on.")
    eval_split: Split | None = Field(
        default=None, description="evalSplit is the split that is evaluated on. It excludes evalFraction."
    )
    eval_fraction: float = Field(
        default=0.0,
        ge=0.0,
        le=0.5,
        description="evalFraction is the share of split's rows that is held out for evaluation; 0 holds out nothing.",
    )
    seed: int = Field(
        default=0, ge=0, le=2147483647, description="seed decides which rows evalFraction holds out."
    )
    columns: ColumnsSpec = Field(
        default=ColumnsSpec(),
        description="columns maps the data set's columns. Beside them a column chat_template_kwargs is passed to the chat template "
        "and a column tools is refused.",
    )
    gate: GateSpec = Field(
        default=GateSpec(), description="gate is what the data must be like before training starts."
    )

    @property
    def evaluates(self) -> bool:
        """Whether there are pairs to evaluate on."""
        return self.eval_split is not None or self.eval_fraction > 0
