"""The texts that `gptopt prepare` tokenizes, in pieces of some megabytes that processes take one at a time.

A piece says where its texts are and reads them where it is tokenized. The same input gives the same pieces.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_opt.errors import DataError, Problem, first_line
from gpt_opt.training.data.encode import line_start

PIECE_BYTES = 4 << 20
PIECE_ROWS = 2_000
HUB = "hf:"
"""What stands before the name of a data set of Hugging Face."""
TEXT_SUFFIXES, JSON_SUFFIXES = (".txt", ".md", ".py"), (".jsonl", ".ndjson")

_CHUNK = 1 << 16


class Piece(ABC):
    """Some documents.

    Attributes:
        starts_document: Whether the first text is the beginning of a document.
    """

    starts_document: bool = True

    @abstractmethod
    def texts(self) -> Iterator[str]:
        """Yields the documents.

        Raises:
            DataError: If one cannot be read.
        """


@dataclass(frozen=True)
class TextPiece(Piece):
    """Part of a text file, which is one document."""

    file: Path
    start: int
    end: int

    @property
    def starts_document(self) -> bool:  # type: ignore[override]
        """Whether the part is the first one."""
        return self.start == 0

    def texts(self) -> Iterator[str]:
        """Yields the part."""
        yield _decoded(_read(self.file, self.start, self.end), self.file, self.start)


@dataclass(frozen=True)
class JsonPiece(Piece):
    """Lines of a file of one JSON object a line, each a document."""

    file: Path
    start: int
    end: int
    column: str

    def texts(self) -> Iterator[str]:
        """Yields the text of every line that is not blank."""
        offset = self.start
        for line in _read(self.file, self.start, self.end).splitlines(keepends=True):
            if line.strip():
                yield self._text(line, offset)
            offset += len(line)

    def _text(self, line: bytes, offset: int) -> str:
        try:
            row = json.loads(_decoded(line, self.file, offset))
        except json.JSONDecodeError as error:
            raise self._wrong(offset, f"must be a JSON object, but: {error.msg} at column {error.colno}") from error
        text = row.get(self.column) if isinstance(row, dict) else None
        if not isinstance(text, str):
            columns = ", ".join(row) if isinstance(row, dict) else f"a {type(row).__name__}"
            raise self._wrong(offset, f"must have a string under {self.column!r}, but has {columns}")
        return text

    def _wrong(self, offset: int, problem: str) -> DataError:
        line = _read(self.file, 0, offset).count(b"\n") + 1
        return DataError([Problem(f"{self.file}:{line}", problem, "mend the line, or give --text-column NAME")])


@dataclass(frozen=True)
class RowsPiece(Piece):
    """Rows of a data set of Hugging Face, each a document."""

    rows: Any
    start: int
    end: int
    column: str

    def texts(self) -> Iterator[str]:
        """Yields the text of every row."""
        yield from self.rows[self.start : self.end][self.column]


@dataclass(frozen=True)
class StreamedPiece(Piece):
    """Documents that came over the network."""

    documents: tuple[str, ...]

    def texts(self) -> Iterator[str]:
        """Yields the documents."""
        yield from self.documents


def _read(file: Path, start: int, end: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(start)
        return stream.read(end - start)


def _decoded(content: bytes, file: Path, offset: int) -> str:
    try:
        return content.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        problem = f"must be UTF-8, but byte {offset + error.start:,} is 0x{content[error.start]:02x}"
        raise DataError([Problem(str(file), problem, f"iconv -f latin1 -t utf-8 {file} > NEW")]) from error


def input_files(names: Sequence[str]) -> list[Path]:
    """Returns the files that some names stand for: themselves, and all text and JSON lines files of folders.

    Raises:
        DataError: With every name that is no such file.
    """
    files: list[Path] = []
    problems: list[Problem] = []
    for name in names:
        path, known = Path(name), (*TEXT_SUFFIXES, *JSON_SUFFIXES)
        found = sorted(item for item in path.rglob("*") if item.suffix in known) if path.is_dir() else [path]
        if path.is_dir() and not found:
            problems.append(Problem("--input", f"must be a folder with files {', '.join(known)}, but {name} has none"))
        elif not path.is_dir() and (not path.is_file() or path.suffix not in known):
            what = "is no file" if not path.is_file() else f"ends in {path.suffix!r}"
            problem = f"must be a file {', '.join(known)}, a folder of them or {HUB}NAME, but {name} {what}"
            problems.append(Problem("--input", problem))
        files += found
    if problems:
        raise DataError(problems)
    return files


def file_pieces(files: Sequence[Path], column: str) -> Iterator[Piece]:
    """Yields the pieces of text files, each one document, and of files of JSON lines."""
    for file in files:
        is_json, start, size = file.suffix in JSON_SUFFIXES, 0, file.stat().st_size
        while start < size:
            end = _line_start(file, start + PIECE_BYTES, is_json) if start + PIECE_BYTES < size else size
            yield JsonPiece(file, start, end, column) if is_json else TextPiece(file, start, end)
            start = end


def _line_start(file: Path, position: int, any_line: bool) -> int:
    """Returns where the next line starts from `position` on: any, or one with no white space before it."""
    with file.open("rb") as stream:
        stream.seek(position)
        seen, size = b"", _CHUNK
        while chunk := stream.read(size):
            seen, size = seen + chunk, 2 * size
            # Bytes beyond ASCII are letters here: a line that starts with a wide space is no worse a border.
            text = seen.decode("latin-1")
            found = text.find("\n") + 1 or len(text) if any_line else line_start(text, 0)
            if found < len(text):
                return position + found
        return position + len(seen)


def hub_pieces(name: str, subset: str | None, split: str, column: str, streamed: bool, skip: int) -> Iterator[Piece]:
    """Yields the pieces of a data set of Hugging Face: a name on the hub, or a folder of it.

    Args:
        name: Of the data set.
        subset: Configuration of it; None takes the only or default one.
        split: Split of it.
        column: The column of the texts.
        streamed: Whether rows are read as they are needed, rather than downloaded all first.
        skip: Pieces that are not wanted: of a stream they are not read, others come all the same.

    Raises:
        DataError: If there is no such data set or column.
    """
    import datasets

    try:
        rows: Any = datasets.load_dataset(name, subset, split=split, streaming=streamed)
    except (OSError, ValueError, RuntimeError) as error:
        reason = first_line(error) or type(error).__name__
        problem = f"must be a data set that `datasets` can load, but {HUB}{name} is not: {reason}"
        raise DataError([Problem("--input", problem, "check --subset and --split, and the network")]) from error
    if (columns := rows.column_names) and column not in columns:
        raise DataError([Problem("--text-column", f"must be one of {', '.join(columns)}, but is {column}")])
    if streamed:
        for batch in rows.skip(skip * PIECE_ROWS).iter(batch_size=PIECE_ROWS):
            yield StreamedPiece(tuple(batch[column]))
        return
    for start in range(0, len(rows), PIECE_ROWS):
        yield RowsPiece(rows, start, min(start + PIECE_ROWS, len(rows)), column)
