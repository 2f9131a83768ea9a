"""Offline runs of wandb: `files/config.yaml`, `files/wandb-summary.json` and its record, a LevelDB log."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from analysis.files import read_object
from analysis.foreign.hydra import read_yaml
from analysis.foreign.parts import Part, our_name
from gpt_opt.app.sources.row import Row
from gpt_opt.app.sources.wandb import Entry, WandbRecord, numbers
from gpt_opt.records.io import number
from gpt_opt.records.state import State

_FOLDER = re.compile(r"^(?:offline-)?run-\d{8}_\d{6}-")


def is_one(folder: str, names: Collection[str]) -> bool:
    """Returns whether a folder with these names is that of a run of wandb."""
    return "files" in names and _FOLDER.match(Path(folder).name) is not None


def read(folder: str) -> Part:
    """Reads what a run recorded: its files, and all steps from its record."""
    root, part = Path(folder), Part("wandb")
    config = read_yaml(root / "files" / "config.yaml", part.problems)
    if isinstance(config, dict):
        values = {key: value.get("value") for key, value in config.items() if isinstance(value, dict)}
        part.config = {str(key): value for key, value in values.items() if key != "_wandb"}
    _take_summary(read_object(root / "files" / "wandb-summary.json", part.problems) or {}, part)
    for file in sorted(root.glob("*.wandb")):
        _take_record(file, part)
    if not part.config:
        part.missing.append("its config")
    return part


def _take_summary(summary: Mapping[str, Any], part: Part) -> None:
    if number(summary.get("_runtime")) is not None:
        part.fixed["time_s"] = number(summary["_runtime"])
    part.final |= {our_name(name): value for name, value in numbers(summary) if name != "step"}


def _take_record(file: Path, part: Part) -> None:
    record = WandbRecord()
    try:
        for entry in record.new_entries(file):
            _take(entry, record.row(entry.items), part)
    except (OSError, ValueError, RecursionError) as error:
        part.problems.add(file, f"must be a record of wandb, but cannot be read to its end: {error}")


def _take(entry: Entry, row: Row | None, part: Part) -> None:
    if entry.kind == "config":
        part.config = {**entry.items, **part.config}
        part.config.pop("_wandb", None)
    elif entry.kind == "exit":
        part.fixed["state"] = str(State.FAILED if entry.items["exit_code"] else State.COMPLETED)
    elif entry.kind == "summary":
        _take_summary(entry.items, part)
    elif row is not None:
        part.take(row)
