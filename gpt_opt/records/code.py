"""The code that runs are made with: its hash, the manifest of a snapshot of it, and what a result was made with."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from gpt_opt.errors import counted
from gpt_opt.records.io import read_json_object, to_json, write_text

PACKAGE, ENTRY = "gpt_opt", "run_hydra.py"
"""What makes the results of a config: the folder of the package, and the script that starts it."""

ROOT = Path(__file__).resolve().parents[2]
"""The repository of gpt-opt, or a snapshot of it."""

_MOST_LINES = 3


@dataclass(frozen=True)
class Manifest:
    """manifest.json of a snapshot.

    Attributes:
        commit: Of the repository it was taken from; None outside of git.
        dirty: Whether the repository had changes that were not committed.
        time: When it was taken, ISO 8601 UTC.
        files: Number of files.
        bytes: Their size.
        code_sha256: As `code_sha256`.
        import_roots: Folders in it that a run has on its import path, beside the snapshot itself.
        targets: The `_target_`s whose modules were looked for.
        linked: Files that are links because they are too large to be copied.
    """

    commit: str | None
    dirty: bool | None
    time: str
    files: int
    bytes: int
    code_sha256: str
    import_roots: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    linked: tuple[str, ...] = ()

    @staticmethod
    def file(snapshot: Path) -> Path:
        """Returns where the manifest of a snapshot lies."""
        return snapshot / "manifest.json"

    @staticmethod
    def diff(snapshot: Path) -> Path:
        """Returns where the changes lie that were not committed."""
        return snapshot / "uncommitted.diff"

    @classmethod
    def read(cls, snapshot: Path) -> Manifest | None:
        """Reads a manifest; None where the folder is no snapshot."""
        try:
            record = read_json_object(cls.file(snapshot))
            known: dict[str, Any] = {item.name: record[item.name] for item in fields(cls)}
            lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
            return cls(**(known | lists))
        except (OSError, ValueError, KeyError):
            return None

    def write(self, snapshot: Path) -> None:
        """Writes the manifest."""
        write_text(self.file(snapshot), to_json(asdict(self)))


@dataclass(frozen=True)
class Code:
    """Some code.

    Attributes:
        sha256: As `code_sha256`.
        folder: Where it lies; None where that is not kept.
        commit: Of its repository; None where that is not known.
        dirty: Whether it had changes that were not committed.
        time: When a result was made with it, ISO 8601 UTC; "" for the code of this process.
    """

    sha256: str
    folder: str | None
    commit: str | None = None
    dirty: bool | None = None
    time: str = ""


def files_below(folder: Path) -> Iterator[Path]:
    """Yields the files of a folder, sorted, without what is hidden and without caches of Python."""
    seen: set[str] = set()
    for name, subfolders, files in os.walk(folder, followlinks=True):
        path = os.path.realpath(name)
        subfolders[:] = sorted(item for item in subfolders if item[0] != "." and item != "__pycache__")
        if path in seen:
            subfolders.clear()  # a link to a folder above
            continue
        seen.add(path)
        for file in sorted(files):
            if file[0] != "." and not file.endswith(".pyc"):
                yield Path(name, file)


def code_sha256(root: Path) -> str:
    """Returns the hash of the project's code below `root`, by names and contents.

    The files of hydra_conf do not count, for what they change of a result is in the run id; nor do the user's modules,
    which are inputs of the run (see `gpt_opt.config.inputs`).
    """
    files = [*files_below(root / PACKAGE), *filter(Path.is_file, [root / ENTRY])]
    return sha256_of(root, (str(file.relative_to(root)) for file in files))


def sha256_of(folder: Path, names: Iterable[str]) -> str:
    """Returns the hash of some files of a folder, by their names and contents, in their order."""
    digest = hashlib.sha256()
    for name in names:
        content = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        digest.update(f"{name} {content}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def git(folder: Path, *arguments: str) -> str | None:
    """Returns the output of git in a folder, or None where that is no repository."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="surrogateescape") if done.returncode == 0 else None


def commit_of(folder: Path) -> tuple[str | None, bool | None, str]:
    """Returns the commit of a repository, whether it has further changes, and these as a diff; None outside of git."""
    commit, changes = git(folder, "rev-parse", "HEAD"), git(folder, "status", "--porcelain")
    diff = git(folder, "diff", "HEAD") or ""
    return commit.strip() if commit else None, None if changes is None else bool(changes), diff


@cache
def this_code() -> Code:
    """Returns the code that this process was started with."""
    if (manifest := Manifest.read(ROOT)) is not None:
        return Code(manifest.code_sha256, str(ROOT), manifest.commit, manifest.dirty)
    return Code(code_sha256(ROOT), str(ROOT))


def provenance_of_code(live: Callable[[], Code] | None = None) -> tuple[dict[str, Any], str]:
    """Returns what provenance.json says of the code of this process, and its uncommitted changes as a diff.

    Args:
        live: Says what code an application has where no snapshot of it was taken; None for gpt-opt's own training.
    """
    manifest = Manifest.read(ROOT)
    if manifest is None:
        code, folder = (this_code(), ROOT / PACKAGE) if live is None else (found := live(), Path(str(found.folder)))
        commit, dirty, diff = commit_of(folder)
    else:
        code, commit, dirty = this_code(), manifest.commit, manifest.dirty
        diff = Manifest.diff(ROOT).read_text(errors="surrogateescape") if Manifest.diff(ROOT).is_file() else ""
    snapshot = None if manifest is None else str(ROOT)
    record = {"git_commit": commit, "git_dirty": dirty, "code": {"sha256": code.sha256, "snapshot": snapshot}}
    return record, diff


def code_in(provenance: Mapping[str, Any]) -> Code | None:
    """Returns the code that provenance.json names; None of a version before, which did not say it."""
    match provenance:
        case {"code": {"sha256": str(sha256), "snapshot": None | str() as folder}, "time": str(stamp)}:
            return Code(sha256, folder, provenance.get("git_commit"), provenance.get("git_dirty"), stamp)
    return None


OTHER_CODE = "done with other code"
"""Words in each line of `other_code` that is about one code."""


def other_code(done: Iterable[Code | None], now: Code | None = None) -> list[str]:
    """Returns a line for each other code that done runs were made with.

    Args:
        done: The code of each done run; None where it is not known, of which nothing is said.
        now: The code that it is other than; None for that of this process.
    """
    groups: dict[str, list[Code]] = {}
    for code in done:
        if code is not None and code.sha256 != (now or this_code()).sha256:
            groups.setdefault(code.sha256, []).append(code)
    compare = _comparison if now is None or now == this_code() else _commits
    lines = [f"{len(codes)} {OTHER_CODE} ({_age(codes)}){compare(codes)}" for codes in groups.values()]
    more = len(lines) - _MOST_LINES
    return lines if more <= 0 else [*lines[:_MOST_LINES], f"... and {more} more versions of the code"]


def _age(codes: Iterable[Code]) -> str:
    seconds = time.time() - datetime.fromisoformat(max(code.time for code in codes)).timestamp()
    for unit, length_s in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if (number := int(seconds // length_s)) >= 1:
            return f"{counted(number, unit)} ago"
    return "just now"


def _commits(codes: Iterable[Code]) -> str:
    """Returns the commits of some codes of an application; "" where they are not known."""
    known = dict.fromkeys(code.commit[:12] for code in codes if code.commit)
    return f"; commit {', '.join(known)}" if known else ""


def _comparison(codes: Iterable[Code]) -> str:
    """Returns how to see what differs; "" where that code is not kept."""
    here = os.path.relpath(ROOT)
    for code in codes:
        if code.folder is not None and Path(code.folder, PACKAGE).is_dir():
            there = os.path.relpath(code.folder)
            return f"; see diff -r -x __pycache__ {there}/{PACKAGE} {os.path.join(here, PACKAGE)}"
        if code.commit is not None and code.dirty is False:
            return f"; see git -C {here} diff {code.commit[:12]} -- {PACKAGE} {ENTRY}"
    return ""
