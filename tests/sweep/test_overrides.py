"""Override strings, held against Hydra's own parser and against hydra.compose."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType, ValueType
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from gpt_opt.errors import SweepError
from gpt_opt.sweep.json_file import Json
from gpt_opt.sweep.overrides import MAX_BYTES, MAX_DEPTH, describe, target, to_override
from tests.helpers.examples import examples

PARSER = OverridesParser.create()
TRICKY = "\\'\"${}[](),=:#~!&;|<> \t\n\r%@?*`^.+-_/0e1aN\x01\x7f\x85é😀\ufeff\U0010ffff"
WORDS = [
    *["true", "False", "null", "NULL", "1", "1e3", "-1", "0x1", "1_000", "nan", "-inf", "Infinity", "", " ", "a b"],
    *["#x", "$(touch X)", "`x`", "${foo}", "\\${foo}", "${", "$${a}", "${oc.env:HOME}", "a\\", "\\", "\\\\'"],
    *['"', "'", "a,b", "k=v", "[1]", "{a:1}", "choice(1,2)", "range(1,3)", "a/b.c", "../x", "~", "%", "*", "??", "😀"],
]

texts = st.one_of(
    st.sampled_from(WORDS),
    st.text(st.sampled_from(TRICKY), max_size=12),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
).filter(lambda text: text != "???")
key_texts = st.one_of(
    st.sampled_from(
        ["a b", ":", "a=b", "${x}", "\\", " ", "\t", "a.b", "[0]", "01", "1a", "truely", "?", "-", "a,b", "{"]
    ),
    st.text(st.sampled_from("abtrue_/\\-+.$%*@?|()[]{}:=, \t019"), min_size=1, max_size=8),
)


def _sayable(key: str) -> bool:
    try:
        to_override("k", {key: 0})
    except SweepError:
        return False
    return True


numbers = st.one_of(
    st.integers(), st.integers(-(10**60), 10**60), st.floats(allow_nan=False, allow_infinity=False), st.just(-0.0)
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(key_texts.filter(_sayable), inner, max_size=4)
    ),
    max_leaves=8,
)


def identical(a: object, b: object) -> bool:
    """Compare with types and the last bit of floats: 1, 1.0, True and -0.0 differ."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(identical, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, float) and isinstance(b, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    return a == b


def escaped(value: Json) -> Any:
    """Return what Hydra must hand to OmegaConf: strings with each `${` escaped."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + "\\${", value)
    if isinstance(value, list):
        return [escaped(item) for item in value]
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    return value


def parsed(key: str, value: Json) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # ANTLR warns of ambiguities
        return PARSER.parse_override(to_override(key, value))


@settings(max_examples=examples(400), suppress_health_check=[HealthCheck.too_slow])
@given(values)
@example("\\\\'")
@example(["\\", ","])
@example({"a b": {"${x}": ["\\${x}"]}})
@example([1e-05, 1e22, -0.0, 5e-324, 1.7976931348623157e308, 10**400])
def test_hydras_parser_gives_the_value_back(value: Json) -> None:
    override = parsed("a.b", value)
    assert override.value_type == ValueType.ELEMENT
    assert (override.type, override.key_or_group) == (OverrideType.CHANGE, "a.b")
    assert identical(override.value(), escaped(value))


@settings(max_examples=examples(300))
@given(texts)
def test_hydras_parser_gives_any_string_back(text: str) -> None:
    assert identical(parsed("k", text).value(), escaped(text))
    assert identical(parsed("k", [text, text]).value(), escaped([text, text]))
    if "${" not in text:
        assert parsed("k", text).value() == text


@pytest.fixture(scope="module")
def config_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("conf")
    (path / "config.yaml").write_text("v: null\nold: 1\nfoo: bar\n")
    with initialize_config_dir(str(path), version_base="1.3"):
        yield path


@settings(max_examples=examples(30), suppress_health_check=[HealthCheck.too_slow])
@given(items=st.lists(values, min_size=1, max_size=6))
@example(items=["${foo}", "\\${foo}", "${oc.env:HOME}", "$${", "${", ["${foo}"], {"a": "${foo}"}])
def test_composed_config_holds_the_value(config_dir: Path, items: list[Json]) -> None:
    overrides = [to_override(f"+k{i}", value) for i, value in enumerate(items)]
    config = compose("config", overrides=[*overrides, to_override("v", items[0])])
    container: Any = OmegaConf.to_container(config, resolve=True)
    assert identical(container["v"], items[0])
    for i, value in enumerate(items):
        assert identical(container[f"k{i}"], value)


def test_nesting_up_to_the_limit_composes(config_dir: Path) -> None:
    value: Json = 1
    for depth in range(MAX_DEPTH):
        value = [value] if depth % 2 else {"k": value}
    config = compose("config", overrides=[to_override("v", value)])
    assert OmegaConf.to_container(config)["v"] == value  # type: ignore[index, call-overload]
    with pytest.raises(SweepError, match="nested at most 64 deep"):
        to_override("v", [value])


def test_delete_and_add_keys_compose(config_dir: Path) -> None:
    config = compose("config", overrides=[to_override("~old", None), to_override("~foo", "bar"), to_override("++v", 3)])
    assert config == {"v": 3}


@pytest.mark.parametrize(
    ("key", "value", "override"),
    [
        ("loss.beta", 0.1, "loss.beta=0.1"),
        ("optimizer", "adamw", "optimizer=adamw"),
        ("data.dataset.path", "data/pairs.jsonl", "data.dataset.path=data/pairs.jsonl"),
        ("model@teacher", "tiny-gpt2", "model@teacher=tiny-gpt2"),
        ("hydra/launcher", "local", "hydra/launcher=local"),
        ("a.0.b", None, "a.0.b=null"),
        ("a", True, "a=true"),
        ("a", "true", "a='true'"),
        ("a", "it's", 'a="it\'s"'),
        ("a", [0.9, 0.95], "a=[0.9,0.95]"),
        ("a", {"b c": "x y"}, "a={b\\ c:'x y'}"),
        ("~lora", None, "~lora"),
        ("~lora", "small", "~lora=small"),
        ("+a", "${b}", "+a='\\${b}'"),
    ],
)
def test_text_of_the_override(key: str, value: Json, override: str) -> None:
    assert to_override(key, value) == override


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("???", "OmegaConf reads it as"),
        (["a", {"b": "???"}], "OmegaConf reads it as"),
        ("a\0b", "NUL"),
        ("a\ud800", r"lone surrogate \\ud800"),
        (float("nan"), "must be finite, but got nan"),
        (float("-inf"), "must be finite, but got -inf"),
        ([10**4400], "4300 digits"),
        ({"true": 1}, 'object key "true" as a number, boolean or null'),
        ({"1": 1}, "as a number"),
        ({"-1.5e3": 1}, "as a number"),
        ({"1_0": 1}, "as a number"),
        ({"+inf": 1}, "as a number"),
        ({"": 1}, "no way to write the object key"),
        ({"it's": 1}, "no way to write the object key"),
        ({"é": 1}, "no way to write the object key"),
        ({1: 1}, "must be strings"),
        ((1, 2), "must be JSON, but got tuple"),
        ("x" * MAX_BYTES, f"at most {MAX_BYTES} bytes, but this one has {MAX_BYTES + 4}"),
        ("é" * (MAX_BYTES // 2), "at most"),
    ],
)
def test_what_cannot_be_said_is_an_error(value: Any, message: str) -> None:
    with pytest.raises(SweepError, match=message) as caught:
        to_override("a.b", value)
    assert caught.value.problems[0].where == "a.b"
    assert caught.value.problems[0].fix


def test_the_longest_override_is_one_argument() -> None:
    assert len(to_override("k", "x" * (MAX_BYTES - 2))) == MAX_BYTES


@settings(max_examples=examples(300))
@given(st.text(st.sampled_from("trueNULinfa01_.eE+-"), min_size=1, max_size=6))
def test_object_keys_are_refused_only_when_hydra_reads_them_as_something_else(key: str) -> None:
    read: Any = PARSER.parse_override(f"k={{{key}:0}}").value()
    assert _sayable(key) == (read == {key: 0} and all(isinstance(k, str) for k in read))


@pytest.mark.parametrize(
    "key", ["", "a b", "a=b", "a..b", ".a", "a.", "1", "a/b.c", "a.01", "-a", "+~a", "a@", "a\n", "é"]
)
def test_keys_that_hydra_cannot_parse_are_errors(key: str) -> None:
    with pytest.raises(SweepError, match="a key must be one that Hydra can parse"):
        to_override(key, 1)


@settings(max_examples=examples(300))
@given(st.text(st.sampled_from("ab0.1_-$/@+~"), min_size=1, max_size=7))
def test_keys_are_accepted_exactly_when_hydra_takes_them(key: str) -> None:
    try:
        override = PARSER.parse_override(f"{key}=1")
        taken = override.key_or_group != "" and override.package != ""
    except Exception:
        taken = False
    try:
        to_override(key, 1)
        ours = True
    except SweepError:
        ours = False
    assert ours == taken


def test_target_and_describe() -> None:
    assert [target(key) for key in ("a.b", "+a.b", "++a.b", "~a.b")] == ["a.b"] * 4
    assert describe([("loss.beta", 0.1), ("o", "adamw"), ("b", [1, None])]) == "loss.beta=0.1, o=adamw, b=[1, null]"
    assert json.loads(describe([("x", {"é": True})]).partition("=")[2]) == {"é": True}
