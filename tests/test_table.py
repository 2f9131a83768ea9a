"""Tables: nothing is left out and nothing is cut, however narrow the terminal."""

from __future__ import annotations

import io

import pytest

from gpt_opt.table import Column, render, terminal_width


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


def test_long_values_are_whole_and_what_they_begin_with_is_said_once() -> None:
    start = "/scratch/project/outputs/tiny/pydoc/adamw/"
    paths = [f"{start}loss=sft-{name}/checkpoints/checkpoint-80" for name in "abc"]
    columns = [Column("archive", paths, flexible=True), Column("state", ["PENDING"] * 3)]
    assert render(columns, 70) == [
        "archive                       state",
        *(f"…{name}/checkpoints/checkpoint-80  PENDING" for name in "abc"),
        f"archive: … is {start}loss=sft-",
    ]
    narrow = render(columns, 30)
    assert max(map(len, narrow[:-2])) <= 30
    assert narrow[1:3] == ["…a/checkpoints/checkp  PENDING", "oint-80"]


def test_numbers_are_not_folded_and_names_are() -> None:
    columns = [Column("a_name_that_is_long", ["123456789012345", "1"], right=True, flexible=True)]
    columns.append(Column("text", ["some words", "x" * 30], flexible=True))
    assert render(columns, 32) == [
        "a_name_that_is_  text",
        "           long",
        "123456789012345  some words",
        "              1  xxxxxxxxxxxxxxx",
        "                 xxxxxxxxxxxxxxx",
    ]


def test_a_table_is_as_wide_as_a_terminal_shows_it_and_what_could_be_markup_or_control_is_text() -> None:
    columns = [Column("name", ["日本語", "[red]é", ":smile:", "a\nb\x1b[1m"]), Column("n", ["1", "2", "3", "4"])]
    assert render(columns) == [
        "name         n",
        "日本語       1",
        "[red]é       2",
        ":smile:      3",
        "a\\nb\\x1b[1m  4",
    ]


def test_only_a_terminal_has_a_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal_width(io.StringIO()) is None
    monkeypatch.setenv("COLUMNS", "77")
    assert terminal_width(io.StringIO()) == 77
