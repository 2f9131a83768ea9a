"""Which keys an interpolation reads, told from its text."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from gpt_opt.plan.compose.references import Unpredictable, all_reads, find_interpolations, overlap


def reads_of(text: str, **others: Any) -> set[tuple[str | None, ...]]:
    """Returns what the interpolation at `a.b.c` reads directly."""
    config = OmegaConf.create({"a": {"b": {"c": text}}, **others})
    return set(next(find_interpolations(config)).reads)


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("${x}", {("x",)}),
        ("${x.y[0].z}", {("x", "y", "0", "z")}),
        ("${[x][y].z}", {("x", "y", "z")}),
        ("l${x.y}_b${z}", {("x", "y"), ("z",)}),
        ("${.d}", {("a", "b", "d")}),
        ("${..d.e}", {("a", "d", "e")}),
        ("${...d}", {("d",)}),
        ("${x.${y}.z}", {("x",), ("y",)}),
        ("${x[${y}]}", {("x",), ("y",)}),
        ("${..x.${y}}", {("a", "x"), ("y",)}),
        ("${${y}}", {(), ("y",)}),
        ("${.${y}}", {(), ("y",)}),
        ("${pure:'q ${x}',[1,${y}],{k:${z}}}", {("x",), ("y",), ("z",)}),
        ("${oc.select:x.y.0,${z}}", {("x", "y", "0"), ("z",)}),
        ("${oc.select:x.${y}.z}", {("x",), ("y",)}),
        ("${oc.select:x.a${y}}", {("x",), ("y",)}),
        ("${oc.select:a${y}}", {(), ("y",)}),
        ("${oc.select:.x}", {()}),
        ("${oc.select:'x'}", {()}),
        ("${oc.dict.values:x}", {("x",)}),
        (r"\${x} ${y}", {("y",)}),
    ],
)
def test_reads(text: str, paths: set[tuple[str, ...]]) -> None:
    assert reads_of(text) == paths


def everything_read(config: dict[str, Any]) -> dict[str, set[Any]]:
    tree = OmegaConf.create(config)
    found = list(find_interpolations(tree))
    plain: Any = OmegaConf.to_container(tree)
    return {
        ".".join(map(str, item.position)): set(reads)
        for item, reads in zip(found, all_reads(found, plain), strict=True)
    }


def test_what_is_read_through_others() -> None:
    reads = everything_read({"a": "${b.c}", "b": "${d}", "d": {"c": "${e}", "f": "${g}"}, "other": "${h}"})
    assert reads["a"] == {("b", "c"), ("d",), ("e",), ("g",)}  # d as a whole is what b stands for
    assert reads["other"] == {("h",)}


def test_a_circle_ends() -> None:
    assert everything_read({"a": "${b}", "b": "${a}"})["a"] == {("a",), ("b",)}


def test_a_step_with_several_spellings_is_like_any_other() -> None:
    assert overlap(("a", None, "b"), ("a", "0x1"))
    assert not overlap(("a", None, "b"), ("c", "0x1"))


@pytest.mark.parametrize(
    "others",
    [
        {"x": r"\${y}"},
        {"x": "$"},
        {"x": "${y}", "y": "$"},
        {"x": "${anything:}"},
        {"x": r"\\${y}", "y": 1},
    ],
)
def test_parsed_text_that_may_name_more(others: dict[str, Any]) -> None:
    with pytest.raises(Unpredictable, match="parses text"):
        everything_read({"a": "${oc.decode:${x}}", **others})


def test_parsed_text_that_names_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOPT_TEST_NUMBER", "4")
    config = {"a": "${oc.decode:${x}}", "x": "${oc.env:GPTOPT_TEST_NUMBER}", "unrelated": "$"}
    assert everything_read(config)["a"] == {("x",)}
    monkeypatch.setenv("GPTOPT_TEST_NUMBER", "${now:}")
    with pytest.raises(Unpredictable):
        everything_read(config)
