"""The JSON Schema of a sweep file, made from the tables that the reader itself goes by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpt_opt.sweep.distributions import DISTRIBUTIONS, GENERATORS, MAX_VALUES, Entry
from gpt_opt.sweep.model import Metric, Resources, settings
from gpt_opt.sweep.overrides import KEY_PATTERN
from gpt_opt.sweep.space import MAX_SEED, RANDOM_FIELDS, SPACE_SECTIONS, STAGE_SECTIONS, TOP_SECTIONS
from gpt_opt.sweep.stages import FROM_FIELDS, FROM_FORMS, NAME_PATTERN

Schema = dict[str, Any]


def schema() -> Schema:
    """Returns the JSON Schema (draft 2020-12) of the sweep file.

    It knows the shape: sections, keys, types, forms of generators and distributions. What relates two sources (lengths
    in zip, a key given twice, what exclude matches) only the reader checks.
    """
    sections = {name for name in (*SPACE_SECTIONS, *TOP_SECTIONS) if name != "$schema"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gpt-opt sweep file",
        "description": "A sweep: parameters with their alternatives (short form), or the sections of the long form.",
        "type": "object",
        "minProperties": 1,
        "anyOf": [
            _long({**_space_sections(), **_top_sections()}),
            {**_short(sections), "properties": {"$schema": {"type": "string", "description": TOP_SECTIONS["$schema"]}}},
        ],
        "$defs": {
            "key": {"type": "string", "pattern": KEY_PATTERN, "description": "a key of the config, as Hydra writes it"},
            "base": _parameters({}, "key -> the value itself"),
            "generator": {"oneOf": [_choice_of(name, entry) for name, entry in GENERATORS.items()]},
            "distribution": {"oneOf": [_choice_of(name, entry) for name, entry in DISTRIBUTIONS.items()]},
            "list": {"type": "array", "minItems": 1, "description": "alternatives; a list-valued one is a list inside"},
            "alternatives": {
                "anyOf": [
                    {"$ref": "#/$defs/list"},
                    {"$ref": "#/$defs/generator"},
                    {"type": ["null", "boolean", "number", "string"]},
                ]
            },
            "space": {
                "type": "object",
                "minProperties": 1,
                "anyOf": [
                    _long(_space_sections()),
                    _short(sections | {"$schema"}),
                ],
            },
        },
    }


def _space_sections() -> Schema:
    alternatives = {"$ref": "#/$defs/alternatives"}
    lists = {"anyOf": [{"$ref": "#/$defs/list"}, {"$ref": "#/$defs/generator"}]}
    shapes: Schema = {
        "base": {"$ref": "#/$defs/base"},
        "grid": _parameters(alternatives, "", at_least=1),
        "zip": _parameters(lists, "", at_least=1),
        "random": _random(),
        "union": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/space"}},
        "exclude": {"type": "array", "items": _parameters(alternatives, "one partial match", at_least=1)},
    }
    return {name: {**shapes[name], "description": doc} for name, doc in SPACE_SECTIONS.items()}


def _top_sections() -> Schema:
    shapes: Schema = {
        "$schema": {"type": "string"},
        "name": {"type": "string", "pattern": NAME_PATTERN},
        "resources": _settings(Resources),
        "metric": _settings(Metric),
        "stages": {"type": "array", "minItems": 1, "items": _stage()},
    }
    return {name: {**shapes[name], "description": doc} for name, doc in TOP_SECTIONS.items()}


def _stage() -> Schema:
    name: Schema = {"type": "string", "pattern": NAME_PATTERN}
    text: Schema = {"type": "string", "minLength": 1}
    step: Schema = {"type": "integer", "minimum": 1}
    shapes: Schema = {
        "stage": name,
        "step": {"anyOf": [step, {"type": "array", "minItems": 1, "items": step}]},
        "best": text,
        "goal": {"enum": ["minimize", "maximize"]},
        "per": {"type": "array", "items": text},
        "resume": {"type": "boolean"},
    }
    start = _object({name: {**shapes[name], "description": doc} for name, doc in FROM_FIELDS.items()})
    given = {
        "anyOf": [{"type": "null"}, text, {"type": "array", "minItems": 1, "items": text}, start],
        "description": FROM_FORMS,
    }
    sections: Schema = {"name": name, "from": given, "resources": _settings(Resources)}
    own = {name: {**sections[name], "description": doc} for name, doc in STAGE_SECTIONS.items()}
    return {**_object({**own, **_space_sections()}), "required": ["name"]}


def _random() -> Schema:
    shapes: Schema = {
        "samples": {"type": "integer", "minimum": 1, "maximum": MAX_VALUES},
        "seed": {"type": "integer", "minimum": 0, "maximum": MAX_SEED},
        "params": _parameters({"$ref": "#/$defs/distribution"}, "", at_least=1),
    }
    fields = {name: {**shapes[name], "description": doc} for name, doc in RANDOM_FIELDS.items()}
    return {**_object(fields), "required": ["samples", "params"]}


def _settings(cls: type[Resources] | type[Metric]) -> Schema:
    fields = settings(cls)
    properties = {name: {**kind.schema, "description": doc} for name, (kind, doc, _) in fields.items()}
    return {**_object(properties), "required": [name for name, (_, _, required) in fields.items() if required]}


def _choice_of(name: str, entry: Entry[Any]) -> Schema:
    arguments = {**entry.schema, "description": f"{entry.form}: {entry.doc}"}
    return {**_object({name: arguments}), "required": [name]}


def _long(properties: Schema) -> Schema:
    return {**_object(properties), "anyOf": [{"required": [name]} for name in properties if name != "$schema"]}


def _object(properties: Mapping[str, Any]) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _parameters(value: Schema, doc: str, at_least: int = 0) -> Schema:
    shape: Schema = {"type": "object", "propertyNames": {"$ref": "#/$defs/key"}, "additionalProperties": value}
    return {**shape, "minProperties": at_least, "description": doc}


def _short(reserved: set[str]) -> Schema:
    names = {"allOf": [{"$ref": "#/$defs/key"}, {"not": {"enum": sorted(reserved)}}]}
    return {"type": "object", "propertyNames": names, "additionalProperties": {"$ref": "#/$defs/alternatives"}}
