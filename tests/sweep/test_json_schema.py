"""The JSON Schema: it takes every shipped file and refuses the shapes that the reader refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from gpt_opt.errors import SweepError
from gpt_opt.sweep.grid import load_grid, parse_grid
from gpt_opt.sweep.json_schema import schema
from gpt_opt.sweep.points import count, points

PARAMS = sorted((Path(__file__).parents[2] / "params").glob("*.json"))
TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "number": (int, float),
    "integer": int,
}
KEYWORDS = {
    "$schema", "$defs", "title", "description", "$ref", "type", "anyOf", "oneOf", "allOf", "not", "enum", "properties",
    "additionalProperties", "propertyNames", "required", "minProperties", "items", "prefixItems", "minItems",
    "maxItems", "minimum", "maximum", "exclusiveMinimum", "minLength", "pattern",
}  # fmt: skip


def listed(rule: str | list[str]) -> list[str]:
    return [rule] if isinstance(rule, str) else rule


def is_type(value: Any, name: str) -> bool:
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def fits(rule: Any, value: Any, root: dict[str, Any]) -> bool:
    """Validate the keywords that the schema uses; an unknown one is a mistake of the schema."""
    if isinstance(rule, bool):
        return rule
    assert set(rule) <= KEYWORDS, set(rule) - KEYWORDS
    checks = [
        "$ref" not in rule or fits(root["$defs"][rule["$ref"].removeprefix("#/$defs/")], value, root),
        "type" not in rule or any(is_type(value, t) for t in listed(rule["type"])),
        "anyOf" not in rule or any(fits(r, value, root) for r in rule["anyOf"]),
        "oneOf" not in rule or sum(fits(r, value, root) for r in rule["oneOf"]) == 1,
        "allOf" not in rule or all(fits(r, value, root) for r in rule["allOf"]),
        "not" not in rule or not fits(rule["not"], value, root),
        "enum" not in rule or value in rule["enum"],
    ]
    if is_type(value, "number"):
        checks += [value >= rule.get("minimum", value), value <= rule.get("maximum", value)]
        checks += ["exclusiveMinimum" not in rule or value > rule["exclusiveMinimum"]]
    if isinstance(value, str):
        checks += [len(value) >= rule.get("minLength", 0), re.search(rule.get("pattern", ""), value) is not None]
    return all(checks) and fits_members(rule, value, root)


def fits_members(rule: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    if isinstance(value, list):
        first = rule.get("prefixItems", [])
        return (
            rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value))
            and all(fits(r, v, root) for r, v in zip(first, value, strict=False))
            and all(fits(rule.get("items", True), v, root) for v in value[len(first) :])
        )
    if isinstance(value, dict):
        known = rule.get("properties", {})
        other = rule.get("additionalProperties", True)
        return (
            len(value) >= rule.get("minProperties", 0)
            and all(name in value for name in rule.get("required", []))
            and all(fits(known.get(name, other), v, root) for name, v in value.items())
            and all(name in known or fits(rule.get("propertyNames", True), name, root) for name in value)
        )
    return True


def valid(value: Any) -> bool:
    return fits(schema(), value, schema())


def test_there_are_five_files() -> None:
    assert len(PARAMS) >= 5
    assert "beta_sweep.json" in {path.name for path in PARAMS}


@pytest.mark.parametrize("path", PARAMS, ids=lambda p: p.name)
def test_shipped_files_are_valid_and_their_overrides_parse(path: Path) -> None:
    assert valid(json.loads(path.read_text()))
    grid = load_grid(path)
    found = [point for stage in grid.stages for point in points(stage.space)]
    assert len(found) == sum(count(stage.space) for stage in grid.stages) > 1
    assert grid.name == path.stem
    parser = OverridesParser.create()
    for point in found:
        parsed = parser.parse_overrides(point.overrides())
        assert [(o.key_or_group, o.value()) for o in parsed] == [(k.lstrip("+~"), v) for k, v in point.items]


def test_shipped_files_show_each_construct() -> None:
    words = set(re.findall(r'"([a-z_]+)":', "".join(path.read_text() for path in PARAMS)))
    sections = {"base", "grid", "zip", "random", "union", "exclude", "resources", "metric", "name"}
    assert sections | {"range", "linspace", "logspace", "uniform", "log_uniform", "int", "choice"} <= words


def test_number_of_points_of_the_shipped_files() -> None:
    spaces = {path.name: [stage.space for stage in load_grid(path).stages] for path in PARAMS}
    assert {name: sum(map(count, found)) for name, found in spaces.items()} == {
        "batch_sizes.json": 11,
        "beta_sweep.json": 3,
        "cooldowns.json": 5,
        "long_context.json": 3,
        "model_sizes.json": 6,
        "mup_transfer.json": 18,
        "optimizers.json": 15,
        "optimizers_pretrain.json": 64,
        "pipeline_pretrain_sft_dpo.json": 7,
        "random_search.json": 16,
        "smoothing_seeds.json": 6,
    }


GOOD: list[Any] = [
    {"a": 1},
    {"a": [None, [1], {"b": 1}], "group@pkg": "x", "~b": None, "$schema": "s"},
    {"grid": {"a": {"range": [0, 3]}}, "union": [{"b": [1]}, {"base": {}, "exclude": [], "zip": {"c": [1]}}]},
    {"base": {"a": {"b": [1]}, "+c": []}},
    {"$schema": "s", "name": "x", "resources": {"mem_gb": 0.5, "sbatch": []}},
    {"random": {"samples": 1, "seed": 0, "params": {"a": {"choice": [None]}, "b": {"int": [0, 1]}}}},
    {"stages": [{"name": "a"}], "base": {"a": 1}, "resources": {"time_min": 1}},
    {"stages": [{"name": "a", "from": "./runs/x"}, {"name": "b", "grid": {"a": 1}, "resources": {"time_min": 1}}]},
    {"stages": [{"name": "a"}, {"name": "b", "from": ["0123456789ab", "/x"]}, {"name": "c", "from": "a"}]},
    {"stages": [{"name": "a"}, {"name": "b", "from": {"step": [1, 2], "resume": True}}]},
    {"stages": [{"name": "a"}, {"name": "b", "from": {"stage": "a", "best": "eval/loss", "per": ["seed"]}}]},
]
BAD: list[Any] = [
    [],
    {},
    {"a": []},
    {"a b": 1},
    {"a": {"b": 1}},
    {"grid": {"a": [1]}, "b": [1]},
    {"grid": {}},
    {"zip": {"a": 1}},
    {"name": "a b"},
    {"union": []},
    {"union": [{}]},
    {"union": [{"base": {}, "name": "x"}]},
    {"exclude": [{}]},
    {"grid": {"a": {"range": [1]}}},
    {"grid": {"a": {"linspace": [1, 2, 1]}}},
    {"grid": {"a": {"logspace": [0, 2, 3]}}},
    {"grid": {"a": {"range": [0, 1], "linspace": [0, 1, 2]}}},
    {"random": {"samples": 0, "params": {"a": {"int": [0, 1]}}}},
    {"random": {"samples": 1, "params": {}}},
    {"random": {"samples": 1, "params": {"a": {"log_uniform": [0, 1]}}}},
    {"random": {"samples": 1, "params": {"a": {"normal": [0, 1]}}}},
    {"random": {"samples": 1, "params": {"a": {"choice": []}}}},
    {"metric": {"name": "x"}},
    {"metric": {"name": "x", "goal": "min"}},
    {"resources": {"gpus": 1}},
    {"resources": {"gpus_per_run": -1}},
    {"resources": {"sbatch": ["x"]}},
    {"resources": {"partition": ""}},
    {"stages": []},
    {"stages": [{"name": "dpo"}], "a": [1]},
    {"union": [{"stages": [1]}]},
    {"stages": [{"grid": {"a": 1}}]},
    {"stages": [{"name": "a", "stages": []}]},
    {"stages": [{"name": "a"}, {"name": "b", "from": {"step": 0}}]},
    {"stages": [{"name": "a"}, {"name": "b", "from": {"goal": "min", "best": "x"}}]},
]


@pytest.mark.parametrize("value", GOOD, ids=json.dumps)
def test_schema_and_reader_take_the_same_shapes(value: Any) -> None:
    assert valid(value)
    parse_grid(json.dumps(value))


@pytest.mark.parametrize("value", BAD, ids=json.dumps)
def test_schema_and_reader_refuse_the_same_shapes(value: Any) -> None:
    assert not valid(value)
    with pytest.raises(SweepError):
        parse_grid(json.dumps(value))


def test_every_field_is_described() -> None:
    rules = schema()["anyOf"][0]["properties"]
    assert all(rule["description"] for rule in rules.values())
    assert all(rule["description"] for rule in rules["resources"]["properties"].values())
    assert json.loads(json.dumps(schema())) == schema()
