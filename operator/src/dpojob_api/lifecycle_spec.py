"""What a user may change while a job lives: retries, suspension, limits. ``spec.MUTABLE`` lists these fields."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from dpojob_api.base import ApiModel
from dpojob_api.failure_class import FailureClass

MAX_RETRIES = 98
"""One less than the attempts that a job's name has room for."""


def retries(default: int) -> Any:
    """Return the field ``maxRetries``."""
    return Field(
        default=default,
        ge=0,
        le=MAX_RETRIES,
        description="maxRetries is how often attempts that end in this class are followed by another one.",
    )


def first_backoff(default: int) -> Any:
    """Return the field ``backoffSeconds``."""
    return Field(
        default=default,
        ge=0,
        le=86400,
        description="backoffSeconds is the wait before the first retry; it doubles while attempts make no progress.",
    )


def longest_backoff(default: int) -> Any:
    """Return the field ``maxBackoffSeconds``."""
    return Field(
        default=default,
        ge=0,
        le=604800,
        description="maxBackoffSeconds bounds the wait. It is shortened by up to half, at random, to spread retries.",
    )


class RetrySpec(ApiModel):
    """Budget and delay of one class; never retried by default."""

    max_retries: int = retries(0)
    backoff_seconds: int = first_backoff(30)
    max_backoff_seconds: int = longest_backoff(600)


class PreemptedRetrySpec(RetrySpec):
    """Preemption costs nothing but time: many retries, soon."""

    max_retries: int = retries(50)
    backoff_seconds: int = first_backoff(10)
    max_backoff_seconds: int = longest_backoff(300)


class InfrastructureRetrySpec(RetrySpec):
    """Some retries: a host that fails again and again needs a look."""

    max_retries: int = retries(8)
    backoff_seconds: int = first_backoff(15)


class CapacityRetrySpec(RetrySpec):
    """Waits for a slice, half an hour at longest between two tries."""

    max_retries: int = retries(40)
    backoff_seconds: int = first_backoff(60)
    max_backoff_seconds: int = longest_backoff(1800)


class ApplicationRetrySpec(RetrySpec):
    """Few retries, and only from a newer checkpoint."""

    max_retries: int = retries(3)


class RetryPolicySpec(ApiModel):
    """When an attempt that ended without a result is followed by another one, by class of its end."""

    preempted: PreemptedRetrySpec = Field(
        default=PreemptedRetrySpec(), description="preempted is for slices that were taken away."
    )
    infrastructure: InfrastructureRetrySpec = Field(
        default=InfrastructureRetrySpec(), description="infrastructure is for lost hosts, heads and services."
    )
    capacity: CapacityRetrySpec = Field(
        default=CapacityRetrySpec(), description="capacity is for slices that could not be had in time."
    )
    application: ApplicationRetrySpec = Field(
        default=ApplicationRetrySpec(),
        description="application is for failures of the run itself; only from a newer checkpoint.",
    )
    configuration: RetrySpec = Field(
        default=RetrySpec(), description="configuration is for what only a change can put right."
    )
    fenced: RetrySpec = Field(
        default=RetrySpec(), description="fenced is for attempts that a newer one replaced."
    )

    def of(self, kind: FailureClass) -> RetrySpec:
        """Return budget and delay of a class."""
        found: RetrySpec = getattr(self, kind.field)
        return found


class BudgetSpec(ApiModel):
    """What the job may use."""

    chip_hours: float | None = Field(
        default=None,
        gt=0.0,
        le=1e9,
        description="chipHours is how many hours of a chip all attempts may use together, from the first host that has a "
        "node to the end. The job is stopped before it uses more; its checkpoints are kept. No limit if unset.",
    )


class ProgressSpec(ApiModel):
    """When a run that says nothing counts as lost."""

    stall_seconds: int | None = Field(
        default=None,
        ge=30,
        le=604800,
        description="stallSeconds ends an attempt whose step and phase have not changed for so long; the phases compiling "
        "and reference do not count. Take more than the longest of load, evaluation, checkpoint and export. Off if unset.",
    )


class PlanEnforcement(StrEnum):
    """What a plan may do to a job."""

    OFF = "Off"
    WARN = "Warn"
    REQUIRE = "Require"


class PlanSpec(ApiModel):
    """The plan that is made before the first attempt: does the job fit its slice, and how long does it take?"""

    enforce: PlanEnforcement = Field(
        default=PlanEnforcement.WARN,
        description='enforce is Warn (condition FitsHBM tells), Require (a job that is not known to fit waits) or "Off" (no '
        "plan; the quotes keep YAML from reading false).",
    )
    timeout_seconds: int = Field(
        default=600,
        ge=60,
        le=86400,
        description="timeoutSeconds is how long the plan's pod may run. A plan that takes longer says nothing (Unknown).",
    )
