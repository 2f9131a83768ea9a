"""What a file holds, by its first bytes: rows in a usual form, or something in the place of data or weights."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

HEAD = 4096
"""Bytes from the start of a file that are looked at."""

BOM = b"\xef\xbb\xbf"
"""What some editors put before a UTF-8 text."""

COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}
"""First bytes of a compressed file, and how it is compressed."""

FORMS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
    ".md": "text",
}
"""What a suffix says of a file where its content does not."""

COMPRESSED_SUFFIXES = (".gz", ".zst", ".zstd", ".bz2", ".xz")
"""Suffixes that say nothing of the form; the one before them does."""

KNOWN = "JSON lines, a JSON list, CSV (.csv), parquet or plain text (.txt), each plain or as gzip, zstd, bz2 or xz"
"""What a data file may be."""

_LIST, _OBJECT = re.compile(rb"\s*\[\s*\{"), re.compile(rb'\s*\{\s*"')
_HEADER = re.compile(rb'"?[A-Za-z_]\w*"?([,;\t]"?[A-Za-z_]\w*"?)+\r?\n')
_LFS, _ANNEX = b"version https://git-lfs.github.com/spec/", b"/annex/objects/"
_OBJECTS = ".git/annex/objects/"
_POINTER_BYTES = 1024  # git-LFS writes none that is longer
_MOST_FILES = 1000

Found = tuple[str, str]
"""What is wrong with a file, and what to do."""


def compression(head: bytes) -> str | None:
    """Returns how a file that starts with `head` is compressed; None where it is not."""
    return next((name for magic, name in COMPRESSIONS.items() if head.startswith(magic)), None)


def form(head: bytes, name: str) -> str | None:
    """Returns the form of the rows of a file, a value of `FORMS`, or None where neither content nor name says it.

    Args:
        head: The first bytes of the file, decompressed.
        name: Of the file.
    """
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.removeprefix(BOM)
    if _LIST.match(text):
        return "json"
    if _OBJECT.match(text):
        return "jsonl"
    named = FORMS.get(_suffix(name), "csv" if _HEADER.match(text) else None)
    # A list may hold anything, which is then named row by row; lines of JSON are called .json as well.
    return named if named != "json" or text.lstrip().startswith(b"[") else "jsonl"


def has_data_suffix(path: str) -> bool:
    """Returns whether the name is that of a data file, compressed or not."""
    return _suffix(path) in FORMS


def _suffix(name: str) -> str:
    path = Path(name)
    return (Path(path.stem) if path.suffix.lower() in COMPRESSED_SUFFIXES else path).suffix.lower()


def no_data(head: bytes, name: str) -> Found | None:
    """Returns why a file that starts with `head`, decompressed, can hold no rows; None where it may."""
    text = head.removeprefix(BOM)
    start = text.lstrip()[:200].lower()
    if not start:
        return "is empty" if not head else "holds nothing but blanks", "write or download it again"
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        fix = "download the file itself: the page's link to the raw file, on the hub .../resolve/main/NAME"
        return "is a web page (HTML), saved in the place of data", fix
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        quoted = shlex.quote(name)
        return "must be UTF-8, but is UTF-16", f"iconv -f UTF-16 -t UTF-8 {quoted} > NEW"
    if head.startswith(b"PK\x03\x04") or head[257:262] == b"ustar":
        return f"is an archive ({'zip' if head.startswith(b'PK') else 'tar'}), not a file of rows", _UNPACK
    if form(head, name) != "parquet" and b"\0" in head:
        arrow = (
            "; of what save_to_disk wrote, name the folder" if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")) else ""
        )
        return "must be text or parquet, but holds zero bytes", f"it must be {KNOWN}{arrow}"
    if form(head, name) is None:
        return f"must be {KNOWN}, but starts with {head[:30]!r}", "give it the suffix of what it is"
    return None


_UNPACK = "unpack it, and name the file or the folder that comes out"


def pointer(path: Path) -> Found | None:
    """Returns what to do about a file that only stands for another one: a pointer of git-LFS or git-annex."""
    try:
        if not path.exists():
            return _not_fetched(path)
        if not path.is_file() or path.stat().st_size > _POINTER_BYTES:
            return None
        head = path.read_bytes()
    except OSError:
        return None
    if head.startswith(_ANNEX):
        return _annexed(path)
    if not head.startswith(_LFS):
        return None
    size = re.search(rb"^size (\d+)", head, re.MULTILINE)
    stands = f" that stands for {int(size[1]):,} bytes" if size else ""
    return f"is a pointer of git-LFS{stands}, not the file itself", _lfs_command(path)


def _not_fetched(path: Path) -> Found | None:
    """Returns what to do about a link to an object of git-annex that is not there, or about where such a link leads."""
    if path.is_symlink() and _OBJECTS in os.readlink(path):
        return _annexed(path)
    root, _, key = str(path.absolute()).partition(f"/{_OBJECTS}")
    if not key:
        return None
    fix = f"git -C {shlex.quote(root)} annex get --key={shlex.quote(path.name)}"
    return "is a pointer of git-annex, not the file itself", fix


def _annexed(path: Path) -> Found:
    folder = shlex.quote(str(path.absolute().parent))
    return "is a pointer of git-annex, not the file itself", f"git -C {folder} annex get {shlex.quote(path.name)}"


def _lfs_command(path: Path) -> str:
    path = path.absolute()
    root = next((folder for folder in path.parents if (folder / ".git").exists()), None)
    if root is None:  # an archive of the repository holds pointers too
        return f"download it from where it comes: git lfs pull in a clone, or hf download REPOSITORY {path.name}"
    return f"git -C {shlex.quote(str(root))} lfs pull --include={shlex.quote(str(path.relative_to(root)))}"


def instead_of_data(path: Path) -> Found | None:
    """Returns what is in the place of the data, a file or a folder; None where there is nothing to say.

    Of a compressed file only what it is called says what it holds.
    """
    try:
        if path.is_dir():
            files = data_files(path)  # of a clone only some may have been fetched: whoever reads one says what it is
            return pointer_in(path, files) if files and all(map(pointer, files)) else None
        if found := pointer(path):
            return found
        with path.open("rb") as stream:
            head = stream.read(HEAD)
    except OSError:
        return None  # whoever reads it says so
    return None if compression(head) else no_data(head, str(path))


def pointer_in(folder: Path, files: Sequence[Path]) -> Found | None:
    """Returns what to do about a folder with pointers among some of its files; one command fetches them all."""
    found = [(file, found) for file in files if (found := pointer(file))]
    if not found:
        return None
    (first, (problem, fix)), others = found[0], len(found) - 1
    if others and "--include=" in fix:
        root = Path(shlex.split(fix)[2])
        inside = folder.absolute().relative_to(root) if folder.absolute().is_relative_to(root) else Path()
        fix = fix.partition("--include=")[0] + f"--include={shlex.quote(str(inside / '**'))}"
    elif others and " annex get " in fix:
        fix = f"git -C {shlex.quote(str(folder.absolute()))} annex get ."
    more = f" (and {others} more of its files)" if others else ""
    return f"holds {first.relative_to(folder)}{more}, which {problem}", fix


def data_files(folder: Path) -> list[Path]:
    """Returns the files of a folder, and below it, that have the suffix of a data file; of its first some files."""
    files = islice(folder.rglob("*"), _MOST_FILES)
    return [file for file in files if has_data_suffix(file.name) or file.suffix == ".arrow"]


def model_files(folder: Path) -> list[Path]:
    """Returns the files of weights and of the tokenizer that transformers takes from a folder."""
    weights = next(
        (found for kind in ("*.safetensors", "pytorch_model*.bin") if (found := sorted(folder.glob(kind)))), []
    )
    return [*weights, *sorted({*folder.glob("tokenizer*"), *folder.glob("*.model"), *folder.glob("vocab*")})]
