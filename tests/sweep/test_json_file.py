"""Strict JSON: the same values as json.loads, positions, and every mistake with its line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_opt.errors import SweepError
from gpt_opt.sweep.json_file import MAX_DEPTH, Json, parse_json, read_json, shown
from gpt_opt.sweep.json_file import Path as JsonPath
from tests.helpers.examples import examples

documents = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=examples(200))
@given(documents, st.sampled_from([None, 1]), st.booleans())
def test_values_are_those_of_json_and_stand_where_it_says(value: Json, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    document = parse_json(text)
    assert repr(document.value) == repr(json.loads(text))
    assert not document.problems
    lines = text.split("\n")
    for path, item in _places(value):
        line, column = document.position(path)
        found, _ = json.JSONDecoder().raw_decode("\n".join([lines[line - 1][column - 1 :], *lines[line:]]))
        assert repr(found) == repr(path[-1] if path and isinstance(path[-1], str) else item)


def _places(value: Json, path: JsonPath = ()) -> Iterator[tuple[JsonPath, Json]]:
    yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, item in inner:
        yield from _places(item, (*path, step))


@settings(max_examples=examples(200))
@given(st.text(st.sampled_from('[]{},:"\\ 01-+.eEaunltrfsNI\n/#'), max_size=10))
def test_what_json_accepts_is_accepted(text: str) -> None:
    def reject(name: str) -> None:
        raise ValueError(name)

    try:
        expected = json.dumps(json.loads(text, parse_constant=reject))
    except ValueError:
        expected = "error"
    try:
        document = parse_json(text)
        got = json.dumps(document.value) if not document.problems else "error"
    except SweepError:
        got = "error"
    if "duplicate" not in got and not (got == "error" and _duplicates(text)):
        assert got == expected


def _duplicates(text: str) -> bool:
    def check(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        found.append(len(dict(pairs)) != len(pairs))
        return dict(pairs)

    found: list[bool] = []
    try:
        json.loads(text, object_pairs_hook=check)
    except ValueError:
        return False
    return any(found)


def test_positions_of_keys_values_and_items() -> None:
    document = parse_json('{\n  "a": [1,\n   2],\n  "b":\n    {"c": null}\n}', "f.json")
    assert document.position(("a",)) == (2, 3)
    assert document.position(("a", 1)) == (3, 4)
    assert document.position(("b", "c")) == (5, 6)
    assert document.where(("b", "c")) == "f.json:5 c"
    assert document.where(("a", 1)) == "f.json:3 a"
    assert document.where(()) == "f.json:1"


def test_numbers_are_exact() -> None:
    document = parse_json("[123456789012345678901234567890, 0.1, 1e-05, -0.0, 5e-324, 1e22, 1.7976931348623157e308]")
    expected = "[123456789012345678901234567890, 0.1, 1e-05, -0.0, 5e-324, 1e+22, 1.7976931348623157e+308]"
    assert repr(document.value) == expected


@pytest.mark.parametrize(
    ("text", "line", "message", "fix"),
    [
        ('{\n"a": [1,]}', 2, 'column 9: expected a value, but got "]}"', "remove the comma"),
        ('{"a": 1,\n}', 2, 'expected a key in double quotes, but got "}"', "remove the comma"),
        ("{'a': 1}", 1, "expected a key in double quotes", "write strings in double quotes"),
        ("{a: 1}", 1, "expected a key in double quotes", "put it in double quotes"),
        ("# mine\ngrid:\n  seed: [0, 1]", 1, "it looks like YAML", "a sweep file is JSON"),
        ("- a: 1", 1, "it looks like YAML", "a sweep file is JSON"),
        ('"a": 1', 1, "expected the end of the file", "put braces around the whole"),
        ('{"a" 1}', 1, 'expected ":" after the key "a"', "JSON writes"),
        ('{"a"1}', 1, 'column 5: expected ":" after the key "a"', "JSON writes"),
        ('{"a": "\\u12"}', 1, 'column 7: expected a complete string, but got "', "close the string"),
        ('{"a\\u12": 1}', 1, 'column 2: expected a complete string, but got "', "close the string"),
        ('{"a": 1 "b": 2}', 1, 'expected "," or "}"', "comma"),
        ('{"a": [1\n', 2, "the end of the file", "comma"),
        ('{"a": 01}', 1, "expected a value", "no leading zeros"),
        ('{"a": .5}', 1, "expected a value", "bare points"),
        ('{"a": True}', 1, "expected a value", "true, false and null"),
        ('{"a": "x\n"}', 1, "expected a complete string", "close the string"),
        ('{"a": "\\x"}', 1, "expected a complete string", "close the string"),
        ('// hi\n{"a": 1}', 1, "expected a value", "no comments"),
        ('{"a": 1} x', 1, "expected the end of the file", "remove what follows"),
        ("", 1, "expected a value, but got the end of the file", "ends too early"),
        ("\ufeff{}", 1, "byte order mark", "without one"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), 1, "nested at most 100 deep", "flatten"),
        ("[" * 100_000, 1, "nested at most 100 deep", "flatten"),
    ],
)
def test_syntax_errors_name_line_and_fix(text: str, line: int, message: str, fix: str) -> None:
    with pytest.raises(SweepError) as caught:
        parse_json(text, "f.json")
    (problem,) = caught.value.problems
    assert problem.where == f"f.json:{line}"
    assert message in problem.message
    assert fix in problem.fix


def test_mistakes_that_are_not_syntax_are_collected() -> None:
    text = '{"a": NaN,\n"a": [-Infinity, 1e999],\n"b": ' + "9" * 4301 + ',\n"c": {"d": 1,\n"d": 2}}'
    problems = [problem for _, problem in parse_json(text, "f.json").problems]
    assert [p.where for p in problems] == ["f.json:1", "f.json:2", "f.json:2", "f.json:2", "f.json:3", "f.json:5"]
    expected = [
        "NaN",
        '"a" also stands on line 1',
        "-Infinity",
        "got 1e999",
        "4300 digits",
        '"d" also stands on line 4',
    ]
    assert all(part in p.message for part, p in zip(expected, problems, strict=True))
    assert parse_json(text).value == {"a": None, "b": None, "c": {"d": 1}}


def test_problems_before_a_syntax_error_are_kept() -> None:
    with pytest.raises(SweepError) as caught:
        parse_json('{"a": NaN,\n}')
    assert len(caught.value.problems) == 2


def test_depth_at_the_limit_is_read() -> None:
    text = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert repr(parse_json(text).value) == text
    assert parse_json(text).line((0,) * (MAX_DEPTH - 1)) == 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_bytes(b'{"a":\n"\xff"}')
    with pytest.raises(SweepError, match=r"bad\.json:2: the file must be UTF-8, but byte 7 is 0xff"):
        read_json(bad)
    with pytest.raises(SweepError, match="must be readable: No such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(SweepError, match="must be readable: Is a directory"):
        read_json(tmp_path)
    with pytest.raises(SweepError, match="must be readable: embedded null byte"):
        read_json("a\0b")


def test_two_megabytes_are_read_in_well_under_a_second() -> None:
    text = json.dumps({f"k{i}": [j / 7 for j in range(1100)] for i in range(100)}, indent=1)
    assert len(text) > 2_000_000
    start = time.process_time()
    parse_json(text)
    assert time.process_time() - start < 0.8


def test_shown_is_short_json() -> None:
    assert shown({"a": None}) == '{"a": null}'
    assert shown("x" * 100, 20) == '"' + "x" * 16 + "..."
