"""URIs of models, data sets and outputs."""

import re

import pytest

from dpojob_api.constants import CLAIMS_VARIABLE
from dpojob_api.uris import (
    INPUT_PATTERN,
    OUTPUT_PATTERN,
    Uri,
    local_path,
    parse_uri,
    pvc_claim,
    pvc_mount,
)


@pytest.mark.parametrize(
    ("uri", "parsed"),
    [
        ("hf://Qwen/Qwen3-14B", Uri("hf", "Qwen/Qwen3-14B", "")),
        ("gs://bucket", Uri("gs", "bucket", "")),
        ("gs://bucket/a/b/", Uri("gs", "bucket", "a/b")),
        ("pvc://claim/a/b.jsonl", Uri("pvc", "claim", "a/b.jsonl")),
        ("pvc://claim", Uri("pvc", "claim", "")),
    ],
)
def test_uri_is_split(uri: str, parsed: Uri) -> None:
    assert parse_uri(uri) == parsed
    assert re.fullmatch(INPUT_PATTERN, uri)


@pytest.mark.parametrize("uri", ["s3://b/a", "Qwen/Qwen3-14B", "", "http://a/b", "pvc:/claim"])
def test_other_schemes_are_refused_with_the_known_ones(uri: str) -> None:
    with pytest.raises(ValueError, match=r"use hf://org/name, gs://bucket/path or pvc://claim/path"):
        parse_uri(uri)
    assert not re.fullmatch(INPUT_PATTERN, uri)


@pytest.mark.parametrize(
    ("uri", "is_output"),
    [("hf://a/b", False), ("gs://bucket/a", True), ("pvc://claim/a", True), ("gs://bucket/a b", False)],
)
def test_outputs_are_buckets_and_claims(uri: str, is_output: bool) -> None:
    assert bool(re.fullmatch(OUTPUT_PATTERN, uri)) == is_output


@pytest.mark.parametrize(
    "uri", ["hf://gpt2", "hf://a/b/c", "hf://a/b c", "gs://B/a", "gs://b", "pvc://-a/b", "pvc:///a"]
)
def test_malformed_uris_do_not_match(uri: str) -> None:
    assert not re.fullmatch(INPUT_PATTERN, uri)


def test_claim_is_mounted_where_the_trainer_looks() -> None:
    assert pvc_claim("pvc://claim/a/b") == "claim"
    assert pvc_claim("gs://bucket/a") is None
    assert pvc_mount("claim") == "/mnt/dpojob/claim"
    assert local_path("pvc://claim/a/b/") == "/mnt/dpojob/claim/a/b"
    assert local_path("pvc://claim") == "/mnt/dpojob/claim"


def test_a_folder_may_stand_for_a_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CLAIMS_VARIABLE, '{"claim": "/home/me/data"}')
    assert local_path("pvc://claim/a/b") == "/home/me/data/a/b"
    assert local_path("pvc://other/a") == "/mnt/dpojob/other/a"
    assert pvc_mount("claim") == "/mnt/dpojob/claim"


def test_only_claims_have_a_local_path() -> None:
    with pytest.raises(ValueError, match="is not a pvc:// URI"):
        local_path("gs://bucket/a")
