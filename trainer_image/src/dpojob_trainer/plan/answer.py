"""The answer of a plan: what a terminal shows and machines read."""

from typing import Any

from pydantic import Field

from dpojob_api.base import ApiModel
from dpojob_api.status import PlanStatus


class StageAnswer(ApiModel):
    """The largest moment of a stage."""

    name: str = Field(description="name is the stage.")
    device_bytes: int = Field(description="deviceBytes is needed on one chip.")
    host_bytes: int | None = Field(
        description="hostBytes is needed in a host's RAM beside the process itself."
    )
    compiled: bool = Field(description="compiled tells the compiler's numbers from modelled ones.")


class TimeAnswer(ApiModel):
    """Seconds and what follows; a model."""

    step_seconds: float = Field(
        description="stepSeconds is one optimizer step, on average over an epoch's lengths."
    )
    floor_seconds: float = Field(
        description="floorSeconds is all arithmetic of the longest batch at the chips' peak."
    )
    compute_seconds: float = Field(description="computeSeconds is instructions and custom kernels.")
    waiting_seconds: float = Field(description="waitingSeconds is collectives that nothing runs beside.")
    hidden_seconds: float = Field(description="hiddenSeconds is collectives beside the instructions.")
    utilisation: float = Field(description="utilisation is the MFU on tokens without padding.")
    tokens_per_step: float = Field(description="tokensPerStep is without padding.")
    steps: int | None = Field(description="steps of the whole job, if they can be known.")
    hours: float | None = Field(description="hours of all steps.")
    chip_hours: float | None = Field(description="chipHours of all steps.")
    cost: float | None = Field(description="cost of the chip-hours.")


class FixAnswer(ApiModel):
    """A changed job."""

    changes: dict[str, str | int] = Field(description="changes is the new value by field of the manifest.")
    fits: bool = Field(description="fits tells whether it does.")
    needed_bytes: int = Field(description="neededBytes is needed on one chip.")
    at_least: bool = Field(description="atLeast is set when the compiler gave up, so more may be needed.")
    guessed: bool = Field(
        description="guessed is set when a rough count was so far beyond the chip that nothing was compiled."
    )
    step_seconds: float | None = Field(
        description="stepSeconds is the estimate for batches of the longest length."
    )


class TrialAnswer(ApiModel):
    """A configuration of a search for a faster job."""

    axis: str = Field(description="axis is what was changed last.")
    changes: dict[str, str | int] = Field(
        description="changes is all changes so far, by field of the manifest."
    )
    fits: bool = Field(description="fits tells whether it does.")
    needed_bytes: int = Field(description="neededBytes is needed on one chip.")
    step_seconds: float | None = Field(description="stepSeconds is one optimizer step on average.")
    utilisation: float | None = Field(description="utilisation is the MFU on tokens without padding.")
    kept: bool = Field(description="kept tells whether it was faster than all before.")


class TuneAnswer(ApiModel):
    """A search for a faster job."""

    trials: list[TrialAnswer] = Field(description="trials is what was compiled, in order.")
    changes: dict[str, str | int] = Field(description="changes is those of the fastest job that fits.")
    patch: dict[str, Any] = Field(description="patch is the changes as a JSON merge patch of the manifest.")


class Answer(ApiModel):
    """What a job needs and whether it fits."""

    job: str = Field(description="job is the DPOJob's name.")
    plan: PlanStatus = Field(description="plan is the slice and the mesh.")
    parameters: int = Field(description="parameters of the policy.")
    layers: int = Field(description="layers of the model.")
    compiled_layers: list[int] = Field(description="compiledLayers is with how many layers it was compiled.")
    sequence: int = Field(description="sequence is the longest static length in tokens.")
    lengths: dict[int, int] = Field(description="lengths is the batches of an epoch by static length.")
    usable_bytes: int = Field(description="usableBytes is what programs and arrays can take on one chip.")
    needed_bytes: int = Field(description="neededBytes is needed on one chip in the largest stage.")
    at_least: bool = Field(description="atLeast is set when the compiler gave up, so more may be needed.")
    guessed: bool = Field(
        description="guessed is set when a rough count was so far beyond the chip that nothing was compiled."
    )
    fits: bool = Field(description="fits tells whether the job does.")
    tight: bool = Field(
        description="tight tells that what is left or lacks is less than the error allowed for."
    )
    stage: str = Field(description="stage is the largest one.")
    ends_in: str | None = Field(
        description="endsIn is the first stage that does not fit, where the run would end."
    )
    bytes: dict[str, int] = Field(
        description="bytes of the step on one chip by kind; empty if it was not compiled."
    )
    stages: list[StageAnswer] = Field(description="stages of the run.")
    time: TimeAnswer | None = Field(description="time is the estimate; null if the step was not compiled.")
    fix: FixAnswer | None = Field(description="fix is the first change that makes it fit.")
    tried: list[FixAnswer] = Field(description="tried is every change that was compiled.")
    fingerprint: str | None = Field(
        description="fingerprint is of the whole model's lowered step; null of a job that only its cuts say does not fit."
    )
    remarks: list[str] = Field(description="remarks say what is measured and what is modelled.")
    seconds: float = Field(description="seconds that planning took.")
    tuning: TuneAnswer | None = Field(
        description="tuning is the search for a faster job, if it was asked for."
    )
