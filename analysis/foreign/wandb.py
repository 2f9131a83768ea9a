"""Offline runs of wandb: `files/config.yaml`, `files/wandb-summary.json` and its record, a LevelDB log."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from analysis.files import Problems, number, read_object, whole
from analysis.foreign.hydra import read_yaml
from analysis.foreign.parts import Part, our_name
from gpt_opt.records.state import State

_FOLDER = re.compile(r"^(?:offline-)?run-\d{8}_\d{6}-")
_BLOCK, _HEADER, _START = 32768, 7, 7
_FULL, _FIRST, _LAST = 1, 2, 4
"""Kinds of pieces of a LevelDB log: a whole record, its first and its last piece."""


def is_one(folder: str, names: Collection[str]) -> bool:
    """Returns whether a folder with these names is that of a run of wandb."""
    return "files" in names and _FOLDER.match(Path(folder).name) is not None


def read(folder: str) -> Part:
    """Reads what a run recorded: its files, and all steps from its record where the package wandb is installed."""
    root, problems, part = Path(folder), Problems(), Part("wandb")
    config = read_yaml(root / "files" / "config.yaml", problems)
    if isinstance(config, dict):
        values = {key: value.get("value") for key, value in config.items() if isinstance(value, dict)}
        part.config = {str(key): value for key, value in values.items() if key != "_wandb"}
    _take_summary(read_object(root / "files" / "wandb-summary.json", problems) or {}, part)
    for file in sorted(root.glob("*.wandb")):
        _take_records(file, part, problems)
    if not part.config:
        part.missing.append("its config")
    part.problems = problems.found
    return part


def _take_summary(summary: dict[str, Any], part: Part) -> None:
    if number(summary.get("_runtime")) is not None:
        part.fixed["time_s"] = number(summary["_runtime"])
    part.final |= {our_name(name): value for name, value in _metrics(summary)}


def _metrics(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, float | None]]:
    """Yields the numbers of a row, those inside others by `outer/inner`; not wandb's own, which begin with `_`."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _metrics(value, f"{above}{name}/")
        elif not name.startswith("_") and name != "step" and number(value) is not None:
            yield above + name, value


def _take_records(file: Path, part: Part, problems: Problems) -> None:
    try:
        from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]
    except ImportError:
        part.missing.append(f"its steps; the package wandb reads them from {file.name}: pip install 'gpt-opt[wandb]'")
        return
    try:
        for data in _records(file.read_bytes()):
            _take(Record.FromString(data), part)
    except Exception as error:  # of whatever its protocol buffers make of a broken file
        problems.add(file, f"must be a record of wandb, but cannot be read to its end: {error!r}")


def _take(record: Any, part: Part) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        part.config = {**_items(record.run.config.update), **part.config}
        part.config.pop("_wandb", None)
    elif kind == "exit":
        part.fixed["state"] = str(State.FAILED if record.exit.exit_code else State.COMPLETED)
    elif kind == "summary":
        _take_summary(_items(record.summary.update), part)
    elif kind == "history":
        row = _items(record.history.item)
        step = whole(row.get("step", row.get("_step")))
        if step is None or step < 0:
            return
        for name, value in _metrics(row):
            part.log(step, our_name(name), value)
        if number(row.get("_timestamp")) is not None:
            part.log(step, "time", row["_timestamp"])


def _items(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def _records(data: bytes) -> Iterator[bytes]:
    """Yields the records of a LevelDB log; one that is cut off at the end is left out.

    Source: https://github.com/google/leveldb/blob/main/doc/log_format.md, behind a header of 7 bytes.
    """
    if not data.startswith(b":W&B"):
        raise ValueError("it does not begin with :W&B")
    place, whole_record = _START, b""
    while place + _HEADER <= len(data):
        if (left := _BLOCK - place % _BLOCK) < _HEADER:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        place += _HEADER + length
        if place > len(data):
            return
        if kind in (_FULL, _FIRST):
            whole_record = b""
        whole_record += data[place - length : place]
        if kind in (_FULL, _LAST):
            yield whole_record
