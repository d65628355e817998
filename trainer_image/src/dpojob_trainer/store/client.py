"""The GCS client and what its errors mean; shared by downloads and by the output store."""

from typing import Any

from google.api_core.exceptions import (
    Forbidden,
    GoogleAPICallError,
    NotFound,
    RetryError,
    TooManyRequests,
    Unauthorized,
)
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption
from requests.exceptions import RequestException

GCS_ERRORS = (GoogleAPICallError, RetryError, GoogleAuthError, RequestException, DataCorruption)
IDENTITY_FIX = (
    "On GKE bind a Google service account (Workload Identity) to the Kubernetes service account that "
    "spec.runtime.serviceAccountName names and grant it"
)


def bucket_of(name: str) -> Any:
    """Return a handle of a bucket without a request; credentials come from the environment (Workload Identity on GKE).

    STORAGE_EMULATOR_HOST switches to an emulator without credentials.

    Raises:
        DefaultCredentialsError: there are none.
    """
    return storage.Client().bucket(name)


def is_denied(error: Exception) -> bool:
    """Whether GCS refused the identity, or there is none."""
    return isinstance(error, Forbidden | Unauthorized | DefaultCredentialsError)


def is_missing(error: Exception) -> bool:
    """Whether the bucket or object does not exist."""
    return isinstance(error, NotFound)


def is_rate_limited(error: Exception) -> bool:
    """Whether GCS refused with 429 until its client gave up."""
    cause = error.cause if isinstance(error, RetryError) else error
    return isinstance(cause, TooManyRequests)


def words_of(error: Exception) -> str:
    """Return the service's own words in one line."""
    text = getattr(error, "message", None) or str(error)
    return " ".join(str(text).split())[:300]
