"""A manifest file to a validated DPOJob, or to a list of what is wrong: the field, the problem, the fix."""

import json
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dpojob_api.crd import Schema, spec_schema
from dpojob_api.trainer_config import TrainerConfig, trainer_config
from dpojob_api.v1alpha1 import DPOJob

Location = tuple[int | str, ...]
METADATA = {"namespace": "default", "uid": "local"}
SUGGESTED = "did you mean"


class ManifestError(Exception):
    """What is wrong with a manifest, one sentence per problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Loader(yaml.SafeLoader):
    """Reads numbers as Kubernetes does: ``1e-6`` is one, which YAML 1.1 without a dot says is text."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load(path: Path) -> TrainerConfig:
    """Read, validate and resolve a manifest.

    Raises:
        ManifestError: it cannot be read, is no DPOJob, or does not fit the contract.
    """
    body = read_job(path)
    body["metadata"] = METADATA | (body.get("metadata") or {})
    try:
        # The API server does not turn text into numbers either, hence strict, and JSON, where enums are text.
        job = DPOJob.model_validate_json(json.dumps(body, default=str), strict=True)
    except ValidationError as error:
        raise ManifestError([problem_of(found) for found in error.errors()]) from error
    try:
        return trainer_config(job, attempt=1)
    except ValueError as error:
        raise ManifestError([f"spec.mesh and spec.accelerator: {error}"]) from error


def read_job(path: Path) -> dict[str, Any]:
    """Return the one DPOJob among the documents of a file.

    Raises:
        ManifestError: it is not YAML, or has no or several DPOJobs.
    """
    try:
        # yaml.load with a SafeLoader builds nothing but plain values.
        documents = list(yaml.load_all(path.read_text(), Loader))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ManifestError([f"{path} is not YAML: {' '.join(str(error).split())}"]) from error
    jobs = [found for found in documents if isinstance(found, dict) and found.get("kind") == "DPOJob"]
    if len(jobs) != 1:
        raise ManifestError([f"{path} has {len(jobs)} objects of kind DPOJob. Name a file with exactly one."])
    return jobs[0]


def problem_of(error: Any) -> str:
    """Say what is wrong with a field and what it is for."""
    location: Location = tuple(error["loc"])
    where = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        return f"{where}: there is no such field{suggestion(location)}"
    words = str(error["msg"]).removeprefix("Value error, ")
    found = "" if error["type"] == "missing" else f", found {json.dumps(error['input'], default=str)}"
    return " ".join(part for part in (f"{where}: {words}{found}.", description(location)) if part)


def suggestion(location: Location) -> str:
    """Name the field that was probably meant, or those that there are."""
    fields = list((schema_at(location[:-1]) or {}).get("properties", {}))
    close = get_close_matches(str(location[-1]), fields, n=1)
    if close:
        return f"; {SUGGESTED} {close[0]}?"
    return f"; remove it or use one of {', '.join(fields)}." if fields else "; remove it."


def description(location: Location) -> str:
    """Return what the CRD says about a field."""
    return str((schema_at(location) or {}).get("description", ""))


def schema_at(location: Location) -> Schema | None:
    """Return the CRD's schema of a field of spec, None if there is none."""
    if location[:1] != ("spec",):
        return None
    schema: Schema | None = spec_schema()
    for child in children(location[1:]):
        if schema is None:
            return None
        schema = schema.get("items") if child is None else schema.get("properties", {}).get(child)
    return schema


def children(location: Location) -> Iterator[str | None]:
    """Yield the names on the way, None for a place in a list."""
    for part in location:
        yield None if isinstance(part, int) else part
