"""Durable writes and tolerant reads: every write of a record is temp + fsync + rename."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpt_opt.errors import named_errors


def now() -> str:
    """Returns the current time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def remove_temporaries(folder: Path) -> None:
    """Deletes what killed processes left half-written; the caller must be the only one who writes in `folder`."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _write_synced(path: Path, text: str) -> None:
    # A name that is no UTF-8 (its bytes are surrogates) is written as an escape, which is one of JSON too.
    with named_errors(path), path.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def sync_dir(path: Path) -> None:
    """Makes renames inside the directory `path` survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by `text` in one step: a reader sees the old content or the new, never half of it."""
    temporary = _temporary(path)
    try:
        _write_synced(temporary, text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_dir(path.parent)


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Appends a line of JSON in one step: lines of several processes do not mix.

    Raises:
        OSError: If not all of it could be written.
    """
    # The leading newline ends a line that a full disk or a dead writer left torn.
    line = ("\n" + json.dumps(record) + "\n").encode()
    with named_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if os.write(descriptor, line) < len(line):  # as little as there was room for; the rest is for the error
                os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def create_text(path: Path, text: str) -> bool:
    """Creates `path` with `text` in one step, unless it exists.

    Returns:
        Whether this call created it. Of several callers at once, on any hosts of a shared file system, one gets True.
    """
    temporary = _temporary(path)
    try:
        _write_synced(temporary, text)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_dir(path.parent)
    return True


def to_json(record: Mapping[str, Any]) -> str:
    """Returns `record` as indented JSON that ends in a newline."""
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads one JSON object.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not UTF-8, not JSON (torn, for example), or not an object.
    """
    record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict):
        raise ValueError(f"{path} must hold one JSON object, but holds a {type(record).__name__}")
    return record
