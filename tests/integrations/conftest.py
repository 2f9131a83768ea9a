"""A run of an app, as its environment names it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt_opt.records.step_log import read_metrics
from gpt_opt.reporting import RUN_DIR, STOP_FILE


class Run:
    """The run: its directory, what it has reported, and the way to stop it."""

    def __init__(self, root: Path) -> None:
        self.root, self.stop_file = root, root / "stop"

    @property
    def rows(self) -> list[dict[str, Any]]:
        found = read_metrics(self.root / "metrics.jsonl")
        assert not found.left_out
        return found.records

    def steps_of(self, name: str) -> list[int]:
        return [row["step"] for row in self.rows if name in row]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    root = tmp_path / "run"
    root.mkdir()
    monkeypatch.setenv(RUN_DIR, str(root))
    monkeypatch.setenv(STOP_FILE, str(root / "stop"))
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield Run(root)
    signal.signal(signal.SIGTERM, before)
