"""Tables: nothing is left out, different values stay different."""

from __future__ import annotations

import io
import random

import pytest

from gpt_opt.table import Column, render, shortened, terminal_width


@pytest.mark.parametrize(
    ("values", "limit", "expected"),
    [
        (["/data/of/the/project/a/x.jsonl", "/data/of/the/project/b/x.jsonl"], 12, ["…t/a/x.jsonl", "…t/b/x.jsonl"]),
        (["adamw-with-a-long-name", "sgd"], 10, ["ada…g-name", "sgd"]),
    ],
)
def test_what_differs_is_kept(values: list[str], limit: int, expected: list[str]) -> None:
    found = shortened(values, limit)
    assert [found[value] for value in values] == expected


def test_different_values_stay_different_and_short() -> None:
    draw = random.Random(0)
    for _ in range(300):
        values = ["".join(draw.choices("ab/", k=draw.randrange(40))) for _ in range(draw.randrange(1, 30))]
        limit = draw.randrange(8, 30)
        found = shortened(values, limit)
        assert len(set(found.values())) == len(set(values))
        assert max(map(len, found.values())) <= limit


@pytest.mark.parametrize("width", [None, 400, 120, 80, 40])
def test_every_column_and_row_is_there_in_every_width(width: int | None) -> None:
    columns = [Column("index", ["0", "1"])]
    columns += [Column(f"name_{place}", [f"a{place}", f"b{place}"], flexible=True) for place in range(20)]
    lines = render(columns, width)
    assert width is None or max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert words == [
        *(item.name for item in columns),
        *(item.cells[0] for item in columns),
        *(c.cells[1] for c in columns),
    ]


def test_rows_that_differ_in_one_long_value_can_be_told_apart() -> None:
    paths = [f"/scratch/project/outputs/tiny/pydoc/adamw/loss=sft-{name}/checkpoints/checkpoint-80" for name in "abc"]
    lines = render([Column("archive", paths, flexible=True), Column("state", ["PENDING"] * 3)], 30)
    assert len(set(lines[1:])) == 3
    assert max(map(len, lines)) <= 30


def test_only_a_terminal_has_a_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal_width(io.StringIO()) is None
    monkeypatch.setenv("COLUMNS", "77")
    assert terminal_width(io.StringIO()) == 77
