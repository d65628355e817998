"""docs/parity.md is what was measured, and nothing that the contract offers was left out."""

import json

from tests.parity import cases, page

from dpojob_api.spec import LossType

RESULTS = json.loads(page.RESULTS.read_text())
HELD = json.loads(page.ACCURACY.read_text()) if page.ACCURACY.exists() else None


def test_the_page_has_the_committed_figures() -> None:
    assert page.OUT.read_text() == page.page(RESULTS, HELD)


def test_every_case_is_as_close_as_promised() -> None:
    assert RESULTS["steps"] >= 50
    for name, outcome in RESULTS["cases"].items():
        assert set(outcome["deviations"]) == set(cases.METRICS)
        assert max(outcome["deviations"].values()) <= cases.TOLERANCE, name


def test_every_loss_was_compared_on_both_architectures() -> None:
    compared = {
        (case.family, case.dpo.get("lossType")) for case in cases.CASES if case.name in RESULTS["cases"]
    }
    assert {(family, loss.value) for family in cases.FAMILIES for loss in LossType} <= compared


def test_the_section_on_accuracy_counts_pairs() -> None:
    side = {"accuracy": 0.55, "margin": 0.0123456, "loss": 0.6871234}
    held = {"pairs": 240, "held_out": 60, "file": "pairs.json", "dpojob": side, "trl": side}
    setting = {"batch": 4, "prompt": 96, "completion": 64, "learning_rate": 2e-5}
    found = page.accuracy_section(held | setting)
    assert "| `dpojob run` | 0.5500 (33 of 60) | 0.012346 | 0.687123 |" in found
    assert "one epoch of 60 steps of 4" in found
