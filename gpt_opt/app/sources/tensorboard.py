"""Event files of tensorboard: scalars as torch, TensorFlow and tensorboardX write them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gpt_opt.app.sources.protobuf import Message
from gpt_opt.app.sources.row import BinaryLog, Row
from gpt_opt.records.metrics import SPLITS
from gpt_opt.records.step_log import STEP_LIMIT

PREFIX = "events.out.tfevents."
"""What the names of event files begin with."""

_WALL_TIME, _STEP, _SUMMARY = 1, 2, 5  # fields of Event
_TAG, _SIMPLE_VALUE, _TENSOR, _METADATA = 1, 2, 8, 9  # of Summary.Value
_TENSOR_FORMS = {1: (5, "f"), 2: (6, "d")}
"""Type of a tensor, float or double, to the field with its values and their format."""
_TENSOR_TYPE, _TENSOR_CONTENT = 1, 4


class EventFile:
    """Reads one event file."""

    def __init__(self) -> None:
        self._log = BinaryLog(_records)

    def new_rows(self, file: Path) -> Iterator[Row]:
        """Yields a row for each event with scalars, as `Reader` says."""
        for data in self._log.new(file):
            event = Message(data)
            scalars = (item for summary in event.messages(_SUMMARY) for item in _scalars(summary))
            values = {_named(tag, file.parent.name): value for tag, value in scalars}
            if values and 0 <= (step := event.integer(_STEP)) < STEP_LIMIT:
                times = event.floats(_WALL_TIME, "d")
                yield {"step": step, "time": times[0] if times else None, "values": values}


def _named(tag: str, folder: str) -> str:
    """Returns a tag with what only the folder of its file says: writers of one tag have one each."""
    of_group = tag.replace("/", "_") + "_"
    if folder.startswith(of_group):  # as add_scalars of torch makes them
        return f"{tag}/{folder.removeprefix(of_group)}"
    return f"{folder}/{tag}" if folder and folder in SPLITS and not tag.startswith(f"{folder}/") else tag


def _scalars(summary: Message) -> Iterator[tuple[str, float]]:
    for value in summary.messages(1):
        numbers = value.floats(_SIMPLE_VALUE)
        if not numbers and _is_scalar(value):
            numbers = [number for tensor in value.messages(_TENSOR) for number in _numbers(tensor)]
        if len(numbers) == 1 and (tags := value.texts(_TAG)):
            yield tags[0], numbers[0]


def _is_scalar(value: Message) -> bool:
    """Returns whether a value with a tensor is one of the plugin for scalars, not a text or an image."""
    plugins = [plugin for metadata in value.messages(_METADATA) for plugin in metadata.messages(1)]
    return any("scalars" in plugin.texts(1) for plugin in plugins)


def _numbers(tensor: Message) -> list[float]:
    field, form = _TENSOR_FORMS.get(tensor.integer(_TENSOR_TYPE), (0, "f"))
    return (tensor.floats(field, form) or tensor.floats(_TENSOR_CONTENT, form)) if field else []


def _records(stream: BinaryIO) -> Iterator[bytes]:
    """Yields the records of a TFRecord file: length, its checksum, data, their checksum, which is not looked at.

    Source: https://www.tensorflow.org/tutorials/load_data/tfrecord
    """
    while True:
        place = stream.tell()
        header = stream.read(12)
        if len(header) < 12:
            return
        length, checksum = struct.unpack("<QI", header)
        if _masked_crc(header[:8]) != checksum:
            raise ValueError(f"what is at byte {place} is no event")
        data = stream.read(length + 4)
        if len(data) < length + 4:
            return
        yield data[:length]


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC32C = _table()


def _masked_crc(data: bytes) -> int:
    """Returns the CRC-32C of data in the form in which TFRecord files have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
