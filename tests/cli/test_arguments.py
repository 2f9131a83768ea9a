"""What a shell completes arguments to."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from gpt_opt.cli.app import _gptopt
from gpt_opt.cli.arguments import complete_sweep
from tests.dispatch.on_disk import make_sweep


def test_sweeps_are_completed_and_snapshots_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_sweep(tmp_path, [["seed=0"]])
    (tmp_path / "sweeps" / ".code" / "419fba82f76f").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    context = click.Context(_gptopt)
    names = [item.value for item in complete_sweep(context, click.Argument(["sweep"]), "")]
    assert names == ["beta", "beta/1"]
