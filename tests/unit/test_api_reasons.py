"""Every condition and reason is a CamelCase word with a sentence, and is in the reference."""

import re
from pathlib import Path

import pytest

from dpojob_api.failure_class import CLASS_OF
from dpojob_api.reasons import ConditionType, Documented, OperatorReason, TrainerReason

REFERENCE = (Path(__file__).resolve().parents[2] / "docs/reference/conditions.md").read_text()
WORDS: list[Documented] = [*ConditionType, *OperatorReason, *TrainerReason]


@pytest.mark.parametrize("word", WORDS, ids=str)
def test_word_is_documented(word: Documented) -> None:
    assert re.fullmatch(r"([A-Z][a-z]+|RayJob|KubeRay|HBM)+", word.value)
    assert re.fullmatch(r"[A-Za-z].+\.", word.doc)
    assert f"| `{word.value}` |" in REFERENCE


@pytest.mark.parametrize(
    "value",
    [
        "DataInvalid",
        "ModelNotFound",
        "CredentialsMissing",
        "ReferenceMismatch",
        "NonFiniteLoss",
        "HBMExhausted",
        "RestoreFailed",
        "OutputUnwritable",
        "Preempted",
        "Fenced",
        "Internal",
    ],
)
def test_reasons_of_the_contract(value: str) -> None:
    assert TrainerReason(value).doc


def test_reference_names_the_class_of_every_end() -> None:
    rows = {line.split("`")[1]: line for line in REFERENCE.splitlines() if line.startswith("| `")}
    for reason, kind in CLASS_OF.items():
        assert rows[reason].endswith(f"| {kind.value} |")


def test_words_stay_strings() -> None:
    assert f"{TrainerReason.SUCCEEDED}" == "Succeeded"
    assert TrainerReason("HostLost") is TrainerReason.HOST_LOST


def test_reasons_that_both_sides_give_mean_the_same() -> None:
    assert {word.value for word in OperatorReason} & {word.value for word in TrainerReason} == {"HostLost"}
