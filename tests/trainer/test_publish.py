"""The report reaches the output store."""

import logging
from typing import Any

import pytest
from google.cloud.storage import Blob
from tests.trainer.gcs import Gcs
from tests.trainer.manifests import config

from dpojob_trainer import store
from dpojob_trainer.report import publish

SUMMARY: dict[str, Any] = {"step": 1, "totalSteps": 1, "seconds": {"train": 2.0}}


def test_a_browser_shows_the_report_from_gcs(gcs: Gcs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google Cloud Storage hands out an object with the type it was written with."""
    gcs.buckets["out"] = {"run/metrics.jsonl": b'{"step": 1, "loss": 0.5}\n'}
    types: dict[str, str] = {}
    upload = Blob.upload_from_string

    def typed(self: Any, text: str, content_type: str) -> None:
        types[self.name] = content_type
        upload(self, text, content_type=content_type)

    monkeypatch.setattr(Blob, "upload_from_string", typed)
    publish(config(), SUMMARY, store.open_store("gs://out/run"))
    assert types == {"run/report.html": "text/html"}
    assert b"training ends at 0.5" in gcs.buckets["out"]["run/report.html"]


def test_a_page_that_cannot_be_made_ends_no_run(gcs: Gcs, caplog: pytest.LogCaptureFixture) -> None:
    gcs.buckets["out"] = {}
    with caplog.at_level(logging.WARNING):
        publish(config(), {}, store.open_store("gs://out/run"))
    assert "report.html could not be made" in caplog.text
    assert gcs.buckets["out"] == {}
