"""Compiles the pydantic models into the CustomResourceDefinition (structural schema, apiextensions.k8s.io/v1)."""

from collections.abc import Iterator
from typing import Any

from dpojob_api import constants
from dpojob_api.base import ApiModel
from dpojob_api.rules import ROOT_RULES, RULES, Rule, pattern_rule
from dpojob_api.spec import DPOJobSpec
from dpojob_api.status import DPOJobStatus

Schema = dict[str, Any]

DROPPED = ("title", "$defs", "propertyNames", "minProperties")
EXCLUSIVE_BOUNDS = (("exclusiveMinimum", "minimum", ">"), ("exclusiveMaximum", "maximum", "<"))
RULES_BY_NAME = {model.__name__: rules for model, rules in RULES.items()}

COLUMNS: tuple[tuple[str, str, str, int, str], ...] = (
    ("Status", "string", ".status.summary", 0, "How the job stands."),
    ("Step", "string", ".status.progress.steps", 0, "Optimizer steps done and in total."),
    ("Loss", "number", ".status.progress.loss", 0, "Newest training loss."),
    ("Acc", "number", ".status.progress.rewardAccuracy", 0, "Reward accuracy of the newest batch."),
    ("Margin", "number", ".status.progress.rewardMargin", 0, "Reward margin of the newest batch."),
    ("ETA", "string", ".status.progress.eta", 0, "Estimated time to the last step."),
    ("Attempt", "integer", ".status.attempt", 0, "Number of the newest attempt."),
    ("Age", "date", ".metadata.creationTimestamp", 0, "Time since creation."),
    ("Accelerator", "string", ".spec.accelerator.type", 1, "TPU slice."),
    ("MFU", "number", ".status.progress.mfu", 1, "Model FLOPs utilisation of the newest step."),
    ("Chip-Hours", "number", ".status.ledger.chipHours", 1, "Chips times hours for which a slice was held."),
    ("Goodput", "number", ".status.ledger.goodput", 1, "Share of the attempts' time that is training."),
    ("Output", "string", ".spec.output.uri", 1, "Where results go."),
)


def spec_schema() -> Schema:
    """Return the structural schema of ``spec``."""
    return compile_model(DPOJobSpec)


def compile_model(model: type[ApiModel]) -> Schema:
    """Return the structural schema of a model: references inlined, null variants and titles gone, rules attached."""
    root = model.model_json_schema(by_alias=True, mode="validation")
    definitions = root.get("$defs", {})
    return _with_rules(_structural(root, definitions), model.__name__)


def _structural(node: Schema, definitions: dict[str, Schema]) -> Schema:
    if "$ref" in node:
        return _referenced(node, definitions)
    if node.get("x-kubernetes-int-or-string"):
        return {key: value for key, value in node.items() if key not in DROPPED}
    if "anyOf" in node:
        return _without_null(node, definitions)
    schema = {key: value for key, value in node.items() if key not in DROPPED}
    _translate_numbers(schema)
    _translate_maps(schema)
    _translate_pattern(schema)
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    if "properties" in schema:
        schema["properties"] = {k: _structural(v, definitions) for k, v in schema["properties"].items()}
        schema.pop("additionalProperties", None)
    if isinstance(schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = _structural(schema["additionalProperties"], definitions)
    if "items" in schema:
        schema["items"] = _structural(schema["items"], definitions)
    return schema


def _referenced(node: Schema, definitions: dict[str, Schema]) -> Schema:
    name = node["$ref"].rsplit("/", 1)[1]
    target = _with_rules(_structural(definitions[name], definitions), name)
    overlay = {key: value for key, value in node.items() if key not in ("$ref", *DROPPED)}
    if "default" in overlay:
        overlay["default"] = _without_nulls(overlay["default"])
    return target | overlay


def _without_nulls(default: Any) -> Any:
    # The API server runs the CEL rules on a default before it fills in nested ones, so defaults are written out whole.
    if isinstance(default, dict):
        return {key: _without_nulls(value) for key, value in default.items() if value is not None}
    return default


def _without_null(node: Schema, definitions: dict[str, Schema]) -> Schema:
    variants = [v for v in node["anyOf"] if v.get("type") != "null"]
    if len(variants) != 1:
        raise ValueError(f"a structural schema has no unions: {node}")
    overlay = {
        k: v for k, v in node.items() if k not in ("anyOf", *DROPPED) and not (k == "default" and v is None)
    }
    return _structural(variants[0], definitions) | overlay


def _translate_numbers(schema: Schema) -> None:
    for exclusive, bound, sign in EXCLUSIVE_BOUNDS:
        if exclusive in schema:
            limit = schema[bound] = schema.pop(exclusive)
            if limit == int(limit):
                schema[exclusive] = True
            else:
                # The API server truncates the bound for a value written as an integer: 0 would not be below 0.5.
                message = f"must be {'below' if sign == '<' else 'above'} {limit}"
                schema["x-kubernetes-validations"] = [{"rule": f"self {sign} {limit}", "message": message}]
    if schema.get("type") == "integer":
        schema["format"] = "int64"


def _translate_pattern(schema: Schema) -> None:
    if "pattern" in schema:
        schema["x-kubernetes-validations"] = _entries((pattern_rule(schema.pop("pattern")),))


def _translate_maps(schema: Schema) -> None:
    patterns = schema.pop("patternProperties", None)
    if patterns:
        schema["additionalProperties"] = next(iter(patterns.values()))


def _with_rules(schema: Schema, name: str) -> Schema:
    rules = RULES_BY_NAME.get(name)
    return schema | {"x-kubernetes-validations": _entries(rules)} if rules else schema


def _entries(rules: tuple[Rule, ...]) -> list[dict[str, str]]:
    return [rule.to_wire() for rule in rules]


def _printer_columns() -> Iterator[Schema]:
    for name, kind, path, priority, description in COLUMNS:
        column = {"name": name, "type": kind, "jsonPath": path, "description": description}
        yield column | ({"priority": priority} if priority else {})


def _open_api() -> Schema:
    return {
        "type": "object",
        "description": "DPOJob turns a base model and preference data into a tuned, evaluated, exported model on a TPU slice.",
        "required": ["spec"],
        "x-kubernetes-validations": _entries(ROOT_RULES),
        "properties": {
            "apiVersion": {"type": "string", "description": "apiVersion is dpojob.io/v1alpha1."},
            "kind": {"type": "string", "description": "kind is DPOJob."},
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 253}}},
            "spec": spec_schema() | {"description": "spec is the desired run."},
            "status": compile_model(DPOJobStatus) | {"description": "status is the observed state."},
        },
    }


def custom_resource_definition() -> Schema:
    """Return the CRD object."""
    version = {
        "name": constants.VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": list(_printer_columns()),
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": _open_api()},
    }
    names = {
        "kind": constants.KIND,
        "listKind": f"{constants.KIND}List",
        "plural": constants.PLURAL,
        "singular": "dpojob",
        "shortNames": [constants.SHORT_NAME],
        "categories": ["all"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{constants.PLURAL}.{constants.GROUP}"},
        "spec": {"group": constants.GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }
