"""The compiler from models to the CRD, and what every model owes the CRD."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from dpojob_api.base import ApiModel
from dpojob_api.constants import MAX_ATTEMPT, MAX_NAME, MAX_RAYJOB_NAME
from dpojob_api.crd import compile_model, custom_resource_definition, spec_schema
from dpojob_api.rules import PATTERN_MESSAGES, ROOT_RULES, RULES, field_names, immutable, pattern_rule
from dpojob_api.spec import MUTABLE, DPOJobSpec

ROOT = Path(__file__).resolve().parents[2]


class Inner(ApiModel):
    size: int = Field(default=1, ge=1, lt=10, description="size is a number.")
    note: str | None = Field(default=None, max_length=8, description="note is text.")


class Outer(ApiModel):
    kind: Literal["one"] = Field(default="one", description="kind is one.")
    inner_part: Inner = Field(default=Inner(), description="innerPart is an object.")
    labels: dict[str, str] | None = Field(default=None, max_length=2, description="labels is a map.")
    parts: list[Inner] = Field(default=[], max_length=3, description="parts is a list.")
    share: float = Field(default=0.0, ge=0.0, lt=0.5, description="share is a fraction.")


INNER = {
    "type": "object",
    "properties": {
        "size": {
            "type": "integer",
            "format": "int64",
            "default": 1,
            "minimum": 1,
            "maximum": 10,
            "exclusiveMaximum": True,
            "description": "size is a number.",
        },
        "note": {"type": "string", "maxLength": 8, "description": "note is text."},
    },
}


def test_model_becomes_a_structural_schema() -> None:
    assert compile_model(Outer) == {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": ["one"], "default": "one", "description": "kind is one."},
            "innerPart": INNER | {"description": "innerPart is an object.", "default": {"size": 1}},
            "labels": {
                "type": "object",
                "maxProperties": 2,
                "additionalProperties": {"type": "string"},
                "description": "labels is a map.",
            },
            "parts": {
                "type": "array",
                "maxItems": 3,
                "default": [],
                "items": INNER,
                "description": "parts is a list.",
            },
            "share": {
                "type": "number",
                "default": 0.0,
                "minimum": 0.0,
                "maximum": 0.5,
                "x-kubernetes-validations": [{"rule": "self < 0.5", "message": "must be below 0.5"}],
                "description": "share is a fraction.",
            },
        },
    }


def test_union_is_refused() -> None:
    class Either(ApiModel):
        value: int | str = Field(description="value is one of two.")

    with pytest.raises(ValueError, match="a structural schema has no unions"):
        compile_model(Either)


def test_pattern_without_a_message_is_refused() -> None:
    with pytest.raises(KeyError):
        pattern_rule("^[a-z]$")


def nodes(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key, suffix in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], path + suffix)


SPEC_NODES = dict(nodes(spec_schema(), "spec"))
FIELDS = {
    path: node for path, node in SPEC_NODES.items() if not path.endswith(("[]", "{}")) and path != "spec"
}


@pytest.mark.parametrize("path", FIELDS)
def test_description_starts_with_the_name(path: str) -> None:
    assert re.match(rf"{path.rsplit('.', 1)[1]} ", FIELDS[path]["description"] + " ")


@pytest.mark.parametrize("path", SPEC_NODES)
def test_everything_in_the_spec_is_bounded(path: str) -> None:
    node = SPEC_NODES[path]
    bounds = {
        "integer": {"minimum", "maximum"},
        "number": {"minimum", "maximum"},
        "string": {"maxLength"},
        "array": {"maxItems"},
        "boolean": set[str](),
        "object": {"maxProperties"} if "additionalProperties" in node else set(),
    }
    if "enum" not in node and "type" in node:
        assert bounds[node["type"]] <= node.keys()


@pytest.mark.parametrize("path", SPEC_NODES)
def test_nothing_is_left_that_a_structural_schema_forbids(path: str) -> None:
    node = SPEC_NODES[path]
    forbidden = {"$ref", "title", "$defs", "const", "patternProperties", "propertyNames", "oneOf", "pattern"}
    assert not forbidden & node.keys()
    assert "anyOf" not in node or node["x-kubernetes-int-or-string"]


def test_every_other_field_of_the_spec_is_immutable() -> None:
    rules = {rule["rule"] for rule in SPEC_NODES["spec"]["x-kubernetes-validations"]}
    fixed = {name for name in field_names(DPOJobSpec) if immutable(name).rule in rules}
    assert set(field_names(DPOJobSpec)) - fixed == MUTABLE


def test_messages_are_one_short_sentence() -> None:
    messages = [rule.message for rules in (ROOT_RULES, *RULES.values()) for rule in rules]
    for message in [*messages, *PATTERN_MESSAGES.values()]:
        assert 10 < len(message) < 200
        # The reference adds the full stop.
        assert not message.endswith(".")


def test_rules_hold_no_line_breaks() -> None:
    # The API server quotes the rule instead of the message if the rule spans lines.
    assert all("\n" not in rule.rule for rules in RULES.values() for rule in rules)


def test_longest_name_leaves_room_for_the_last_attempt() -> None:
    assert MAX_NAME + len(f"-a{MAX_ATTEMPT}") == MAX_RAYJOB_NAME


def test_definition_has_one_stored_version_with_status() -> None:
    (version,) = custom_resource_definition()["spec"]["versions"]
    assert version["served"] and version["storage"]
    assert version["subresources"] == {"status": {}}


def test_generated_files_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "hack/generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
