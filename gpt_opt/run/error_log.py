"""What a process wrote to standard error before it failed, as state.json says it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

_TAIL_BYTES = 100_000
_ERROR = re.compile(r"^(?P<type>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning)\w*)(?:: (?P<message>.*))?$")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class ErrorLog:
    """What this attempt writes to standard error, where that is a file."""

    def __init__(self) -> None:
        self._file, self._start = Path(f"/proc/{os.getpid()}/fd/2"), 0
        self._is_file = self._file.is_file()
        if self._is_file:
            self._start = self._file.stat().st_size

    def error(self, code: int) -> dict[str, str]:
        """Returns what state.json says of the failure: the last exception with its traceback, or the exit code."""
        lines = self._lines()
        traced = max((i for i, line in enumerate(lines) if line.startswith("Traceback (most")), default=None)
        for place in range(len(lines) - 1, (traced or 0) - 1, -1):
            if (found := _ERROR.match(lines[place])) is not None:
                text = "\n".join(lines[traced or 0 :])
                message = self._message(lines, place, found["message"] or "")
                return {"type": found["type"].rpartition(".")[2], "message": message, "traceback": text}
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return {"type": "ExitCode", "message": f"{code}" + (f": {last}" if last else ""), "traceback": "\n".join(lines)}

    @staticmethod
    def _message(lines: Sequence[str], place: int, begins: str) -> str:
        """Returns the message that begins in a line: with the two after it where it says nothing by itself."""
        if begins and not begins.endswith(":"):
            return begins
        return " ".join([begins, *(line.strip() for line in lines[place + 1 : place + 3])]).strip()

    def _lines(self) -> list[str]:
        if not self._is_file:
            return []
        with self._file.open("rb") as stream:
            stream.seek(max(self._start, self._file.stat().st_size - _TAIL_BYTES))
            return _COLOUR.sub("", stream.read().decode(errors="replace")).splitlines()
