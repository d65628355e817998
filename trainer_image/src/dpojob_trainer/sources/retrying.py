"""Retries of downloads: which failures pass by themselves, how long to wait, when to give up."""

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx
import tenacity

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

ATTEMPTS = 5
MAX_WAIT_SECONDS = 300.0
TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
BACKOFF = tenacity.wait_exponential(multiplier=1, min=1, max=60)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, outermost first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def response_of(error: BaseException) -> httpx.Response | None:
    """Return the HTTP response that an error or one of its causes carries."""
    found = (getattr(cause, "response", None) for cause in causes(error))
    return next((response for response in found if isinstance(response, httpx.Response)), None)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well succeed later: rate limits, server errors, broken connections."""
    response = response_of(error)
    if response is not None:
        return response.status_code in TRANSIENT_STATUS
    return any(isinstance(cause, httpx.TransportError) or is_half_download(cause) for cause in causes(error))


def is_half_download(error: BaseException) -> bool:
    """Whether huggingface_hub found a file of the wrong size after the download (an OSError without a code)."""
    return isinstance(error, OSError) and "Consistency check failed" in str(error)


def retry_after(error: BaseException) -> float | None:
    """Return the seconds that the server asked to wait (RFC 9110, Retry-After), None if it named no number."""
    response = response_of(error)
    value = response.headers.get("Retry-After", "") if response is not None else ""
    return float(value) if value.strip().isdigit() else None


def seconds_to_wait(state: tenacity.RetryCallState) -> float:
    """Return what the server asked for, at most five minutes; otherwise exponential back-off."""
    error = state.outcome.exception() if state.outcome else None
    asked = retry_after(error) if error else None
    return BACKOFF(state) if asked is None else min(asked, MAX_WAIT_SECONDS)


def with_retries(what: str, action: Callable[[], Result]) -> Result:
    """Run an idempotent download up to five times while its failures are transient; raise the last one."""

    def log(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        wait = state.next_action.sleep if state.next_action else 0.0
        logger.warning(
            "%s: try %d failed (%s); next in %.0f s", what, state.attempt_number, first_line(error), wait
        )

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_transient),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=seconds_to_wait,
        before_sleep=log,
        reraise=True,
    )
    return retrying(action)


def first_line(error: BaseException | None) -> str:
    """Return the first line of an error's text that says something, for a message in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
