"""The order, the number and the columns of points, held against a plain enumeration."""

from __future__ import annotations

import itertools
import json
import time
import tracemalloc
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_opt.sweep.grid import parse_grid
from gpt_opt.sweep.model import Axis, Exclude, Space
from gpt_opt.sweep.points import Point, count, frozen, points, survey, values_by_key
from tests.helpers.examples import examples


def items(text: Any) -> list[list[tuple[str, Any]]]:
    return [list(point.items) for point in points(parse_grid(json.dumps(text)).stages[0].space)]


def test_the_last_axis_runs_fastest_and_sections_keep_their_order() -> None:
    found = items(
        {
            "union": [{"u": [1]}, {"w": [2]}],
            "zip": {"c": [1, 2], "d": [3, 4]},
            "grid": {"b": ["x", "y"]},
            "base": {"a": [0]},
        }
    )
    assert [dict(p) for p in found[:5]] == [
        {"a": [0], "b": "x", "c": 1, "d": 3, "u": 1},
        {"a": [0], "b": "x", "c": 1, "d": 3, "w": 2},
        {"a": [0], "b": "x", "c": 2, "d": 4, "u": 1},
        {"a": [0], "b": "x", "c": 2, "d": 4, "w": 2},
        {"a": [0], "b": "y", "c": 1, "d": 3, "u": 1},
    ]
    assert [key for key, _ in found[0]] == ["a", "b", "c", "d", "u"]
    assert len(found) == 8


def test_short_form_is_a_grid() -> None:
    short = {"loss.beta": [0.05, 0.1], "seed": [0, 1], "x": 3}
    assert items(short) == items({"grid": short})
    assert items(short)[1] == [("loss.beta", 0.05), ("seed", 1), ("x", 3)]


def test_lists_objects_and_null_are_values() -> None:
    found = items({"a": [[1, 2], None, {"b": 1}, "c"]})
    assert found == [[("a", [1, 2])], [("a", None)], [("a", {"b": 1})], [("a", "c")]]


def test_random_is_one_axis_and_more_samples_keep_the_first() -> None:
    def sampled(samples: int, *, extra: bool = False) -> list[dict[str, Any]]:
        params: dict[str, Any] = {"z": {"int": [0, 9]}} if extra else {}
        params |= {"lr": {"log_uniform": [1e-5, 0.1]}, "b": {"uniform": [0, 1]}}
        return [dict(p) for p in items({"random": {"samples": samples, "seed": 5, "params": params}})]

    assert len(sampled(4)) == 4
    assert sampled(9)[:4] == sampled(4)
    assert [{k: p[k] for k in ("lr", "b")} for p in sampled(4, extra=True)] == sampled(4)


def test_excluded_points_take_no_index() -> None:
    grid = parse_grid(json.dumps({"grid": {"a": [0, 1, 2], "b": [0, 1]}, "exclude": [{"a": 1}, {"a": [0, 2], "b": 1}]}))
    assert list(points(grid.stages[0].space)) == [Point(0, (("a", 0), ("b", 0))), Point(1, (("a", 2), ("b", 0)))]
    assert count(grid.stages[0].space) == 2


def test_overrides_of_a_point() -> None:
    grid = parse_grid('{"loss.beta": 0.1, "~lora": null, "+x": ["a b"]}')
    assert next(points(grid.stages[0].space)).overrides() == ["loss.beta=0.1", "~lora", "+x='a b'"]


def test_exclude_reaches_into_unions_and_ignores_prefixes() -> None:
    grid = {
        "union": [{"+a": [1, 2]}, {"b": [1, 2]}],
        "grid": {"c": [True, 1]},
        "exclude": [{"a": 1.0, "c": 1}, {"b": 2}],
    }
    assert [dict(p) for p in items(grid)] == [
        {"c": True, "+a": 1},
        {"c": True, "+a": 2},
        {"c": True, "b": 1},
        {"c": 1, "+a": 2},
        {"c": 1, "b": 1},
    ]


def test_the_values_of_every_key() -> None:
    grid = {"base": {"m": "x"}, "zip": {"a": [1, 1], "b": [1, 2]}, "union": [{"o": "p", "q": [1, 2]}, {"o": ["p"]}]}
    found = values_by_key(parse_grid(json.dumps(grid)).stages[0].space)
    assert list(found) == ["m", "a", "b", "o", "q"]
    assert [list(values.values()) for values in found.values()] == [["x"], [1], [1, 2], ["p"], [1, 2]]


def test_values_that_only_look_equal_are_kept_apart() -> None:
    values = values_by_key(parse_grid('{"a": [1, 1.0, true, "1", 0.0, -0.0, 1]}').stages[0].space)["a"]
    assert list(values) == ["1", "1.0", "True", "'1'", "0.0", "-0.0"]


def test_frozen_tells_true_from_one() -> None:
    assert frozen([1, {"a": 2.0}]) == frozen([1.0, {"a": 2}])
    assert frozen(True) != frozen(1)
    assert frozen({"a": [True]}) != frozen({"a": [1]})
    assert frozen(["a"]) != frozen("a")


VALUES: st.SearchStrategy[Any] = st.sampled_from([0, 1, True, "x", None, [1]])


@st.composite
def spaces(draw: st.DrawFn, keys: tuple[str, ...] = tuple("abcdefg"), depth: int = 2) -> Space:
    cuts = sorted(draw(st.lists(st.integers(0, len(keys)), min_size=4, max_size=4)))
    base_keys, grid_keys, zip_keys, rest = (keys[i:j] for i, j in itertools.pairwise([0, *cuts[:3], len(keys)]))
    axes = [Axis((k,), tuple((v,) for v in draw(st.lists(VALUES, min_size=1, max_size=3)))) for k in grid_keys]
    if zip_keys:
        row = st.tuples(*[VALUES] * len(zip_keys))
        axes.append(Axis(zip_keys, tuple(draw(st.lists(row, min_size=1, max_size=3)))))
    union: list[Space] = []
    if rest and depth:
        union = draw(st.lists(spaces(keys=rest, depth=depth - 1), max_size=2))
    condition = st.tuples(st.sampled_from(keys), st.lists(VALUES, min_size=1, max_size=3).map(tuple))
    entry = st.lists(condition, min_size=1, max_size=3, unique_by=lambda c: c[0]).map(lambda c: Exclude(tuple(c)))
    exclude = draw(st.lists(entry, max_size=3))
    return Space(tuple((k, draw(VALUES)) for k in base_keys), tuple(axes), tuple(union), tuple(exclude))


def plain(space: Space) -> list[dict[str, Any]]:
    """Enumerate as the documentation says, with no regard for speed."""
    return [p for p in before_exclude(space) if not any(matches(entry, p) for entry in space.exclude)]


def before_exclude(space: Space) -> list[dict[str, Any]]:
    found = [dict(space.base)]
    for axis in space.axes:
        found = [{**p, **dict(zip(axis.keys, row, strict=True))} for p in found for row in axis.rows]
    if space.union:
        found = [{**p, **tail} for p in found for member in space.union for tail in plain(member)]
    return found


def matches(entry: Exclude, point: dict[str, Any]) -> bool:
    return all(
        key in point and any(json.dumps(point[key]) == json.dumps(v) for v in values)
        for key, values in entry.conditions
    )


@settings(max_examples=examples(100))
@given(spaces())
def test_points_count_and_survey_agree_with_a_plain_enumeration(space: Space) -> None:
    expected = plain(space)
    found = list(points(space))
    assert [json.dumps(dict(p.items)) for p in found] == [json.dumps(p) for p in expected]
    assert [p.index for p in found] == list(range(len(expected)))
    assert count(space) == len(expected)
    unused = tuple(i for i, e in enumerate(space.exclude) if not any(matches(e, p) for p in before_exclude(space)))
    assert survey(space) == (len(expected), unused)


def test_a_hundred_thousand_points_are_fast_and_lazy() -> None:
    grid = parse_grid(json.dumps({f"a.k{i}": list(range(10)) for i in range(5)}))
    start = time.process_time()
    assert count(grid.stages[0].space) == 100_000
    assert time.process_time() - start < 0.05
    start = time.process_time()
    assert sum(1 for _ in points(grid.stages[0].space)) == 100_000
    assert time.process_time() - start < 1.5
    tracemalloc.start()
    for _ in points(grid.stages[0].space):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000


def test_counting_does_not_enumerate() -> None:
    axes = {f"k{i}": {"range": [0, 1000]} for i in range(6)}
    grid = parse_grid(json.dumps({"grid": axes, "exclude": [{"k0": 1, "k5": 2}]}))
    assert count(grid.stages[0].space) == 10**18 - 10**12
    assert next(points(grid.stages[0].space)).items[0] == ("k0", 0)
