"""The record of a run of wandb, `run-<id>.wandb`: a LevelDB log of protocol buffers, offline runs' only one."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gpt_opt.app.sources.protobuf import Message
from gpt_opt.app.sources.row import BinaryLog, Row, step_of
from gpt_opt.records.io import number

_MAGIC = b":W&B"
_BLOCK, _HEADER, _START = 32768, 7, 7
_FULL, _FIRST, _LAST = 1, 2, 4
"""Kinds of pieces of a LevelDB log: a whole record, its first and its last piece."""

_HISTORY, _SUMMARY, _RUN, _EXIT = 2, 3, 17, 18  # fields of Record
_CONFIG = 4  # of RunRecord
_KEY, _NESTED_KEY, _VALUE_JSON = 1, 2, 16  # of HistoryItem, SummaryItem and ConfigItem


@dataclass(frozen=True)
class Entry:
    """One record that says something of a run; the others, such as output, are left out.

    Attributes:
        kind: `config`, `history`, `summary` or `exit`.
        items: Names and values; of `exit` the `exit_code`.
    """

    kind: str
    items: Mapping[str, Any]


class WandbRecord:
    """Reads one record.

    Args:
        step: Name under which the app logs its step; rows without it have the step of wandb, its calls of `log`.
    """

    def __init__(self, step: str = "step") -> None:
        self._log, self._step = BinaryLog(_records), step

    def new_entries(self, file: Path) -> Iterator[Entry]:
        """Yields the entries that came since the last call; errors as of `Reader`."""
        for data in self._log.new(file):
            record = Message(data)
            for message in (config for run in record.messages(_RUN) for config in run.messages(_CONFIG)):
                yield Entry("config", _items(message))
            for kind, field in (("history", _HISTORY), ("summary", _SUMMARY)):
                yield from (Entry(kind, _items(message)) for message in record.messages(field))
            yield from (Entry("exit", {"exit_code": end.integer(1)}) for end in record.messages(_EXIT))

    def new_rows(self, file: Path) -> Iterator[Row]:
        """Yields the rows of the history, as `Reader` says."""
        for entry in self.new_entries(file):
            if entry.kind == "history" and (row := self.row(entry.items)) is not None:
                yield row

    def row(self, items: Mapping[str, Any]) -> Row | None:
        """Returns the row of an entry of the history; None where it has no step."""
        step = step_of(items.get(self._step, items.get("_step")))
        if step is None:
            return None
        values = {name: value for name, value in numbers(items) if name != self._step}
        return {"step": step, "time": number(items.get("_timestamp")), "values": values}


def numbers(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Yields the numbers of a row, those inside others by `outer/inner`; not wandb's own, which begin with `_`."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{above}{name}/")
        elif not name.startswith("_") and (found := number(value)) is not None:
            yield above + name, found


def _items(message: Message) -> dict[str, Any]:
    """Returns what a HistoryRecord, a SummaryRecord or a ConfigRecord has.

    Raises:
        ValueError: If a value is no JSON.
    """
    items = {}
    for item in message.messages(1):
        name = "/".join(item.texts(_NESTED_KEY) or item.texts(_KEY))
        items[name] = json.loads(next(iter(item.blobs(_VALUE_JSON)), b"null"))
    return items


def _records(stream: BinaryIO) -> Iterator[bytes]:
    """Yields the records of a LevelDB log; one that is cut off at the end is left out.

    Source: https://github.com/google/leveldb/blob/main/doc/log_format.md, behind a header of 7 bytes.
    """
    if stream.tell() == 0:
        start = stream.read(_START)
        if not _MAGIC.startswith(start[: len(_MAGIC)]):
            raise ValueError(f"it must begin with {_MAGIC.decode()}, but begins with {start!r}")
        if len(start) < _START:
            return
    record = b""
    while True:
        if (left := _BLOCK - stream.tell() % _BLOCK) < _HEADER:
            stream.read(left)
        header = stream.read(_HEADER)
        if len(header) < _HEADER:
            return
        _, length, kind = struct.unpack("<IHB", header)
        piece = stream.read(length)
        if len(piece) < length:
            return
        record = piece if kind in (_FULL, _FIRST) else record + piece
        if kind in (_FULL, _LAST):
            yield record
