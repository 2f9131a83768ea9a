"""The progress of `gptopt prepare`: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0

Tell = Callable[[int, int | None, int], None]
"""Pieces done, pieces in all where that is known, tokens so far."""


@contextmanager
def progress(out: TextIO) -> Iterator[Tell]:
    """Lends what shows the progress while the block lasts."""
    console = Console(file=out, highlight=False)
    if not out.isatty() or console.is_dumb_terminal:
        yield _lines(out)
        return
    columns = (TextColumn("tokenizing"), BarColumn(), MofNCompleteColumn(), TextColumn("pieces, {task.fields[tokens]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=None, tokens="0 tokens")
        yield lambda done, total, tokens: bar.update(task, completed=done, total=total, tokens=f"{tokens:,} tokens")


def _lines(out: TextIO) -> Tell:
    last = time.monotonic()

    def tell(done: int, total: int | None, tokens: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            of = "" if total is None else f" of {total:,}"
            print(f"tokenized {done:,}{of} pieces, {tokens:,} tokens", file=out, flush=True)

    return tell
