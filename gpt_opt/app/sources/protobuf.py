"""Messages of protocol buffers as their bytes have them, without the classes that describe them.

Source: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_SIZES = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}


class Message:
    """One message. A field that is absent, or of another type than asked for, has no values.

    Raises:
        ValueError: If the bytes are no message.
    """

    def __init__(self, data: bytes) -> None:
        self._fields: dict[int, list[int | bytes]] = {}
        for field, value in _fields(data):
            self._fields.setdefault(field, []).append(value)

    def __contains__(self, field: int) -> bool:
        return field in self._fields

    def integer(self, field: int) -> int:
        """Returns an int32 or int64, 0 where it is absent."""
        values = [value for value in self._fields.get(field, ()) if isinstance(value, int)]
        value = values[-1] if values else 0
        return value - (1 << 64) if value >> 63 else value

    def blobs(self, field: int) -> list[bytes]:
        """Returns the values of a field that has bytes: strings, messages, packed or single numbers."""
        return [value for value in self._fields.get(field, ()) if isinstance(value, bytes)]

    def texts(self, field: int) -> list[str]:
        """Returns the strings of a field."""
        return [value.decode(errors="replace") for value in self.blobs(field)]

    def messages(self, field: int) -> list[Message]:
        """Returns the messages of a field.

        Raises:
            ValueError: If one is none.
        """
        return [Message(value) for value in self.blobs(field)]

    def floats(self, field: int, form: str = "f") -> list[float]:
        """Returns the floats (`f`) or doubles (`d`) of a field."""
        data = b"".join(self.blobs(field))
        size = struct.calcsize(form)
        return list(struct.unpack(f"<{len(data) // size}{form}", data[: len(data) // size * size]))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        value, kind = 0, key & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        if kind == _LENGTH:
            size, place = _varint(data, place)
        elif (size := _SIZES.get(kind, -1)) < 0:
            raise ValueError(f"a message has a field of the unknown type {kind}")
        if place + size > len(data):
            raise ValueError("a message is cut off")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Returns the number at a place, and the place behind it."""
    value = shift = 0
    while place < len(data):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), place
        shift += 7
    raise ValueError("a message is cut off")
