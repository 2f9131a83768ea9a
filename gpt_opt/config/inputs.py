"""What a run is made of besides its config: files of data and weights, and the user's own code, by their content.

A fingerprint is the SHA-256 of a file, of a folder that of its files that count. It is taken before anything is loaded:
a file that is replaced in between then differs from what is recorded, and not from what comes later.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import logging
import os
import sysconfig
import time
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from gpt_opt.config.cache import cache_folder
from gpt_opt.config.files import (
    DATA_KEYS,
    EMBEDDED,
    MODEL_KEYS,
    PATH_KEYS,
    SHIPPED,
    file_values,
    located_where_there,
    references,
)
from gpt_opt.config.lookup import modules_of, targets
from gpt_opt.config.remember import Remembered
from gpt_opt.records.io import write_text
from gpt_opt.records.provenance import Inputs
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.run_reference import RunIndex, RunReference
from gpt_opt.records.summary import read_summary

log = logging.getLogger(__name__)

AGAIN = "rerun=true trains again"
"""What to do about a result whose inputs have changed since."""

MIN_CACHED = 16 * 2**20
"""Bytes below which a file is hashed rather than looked up: that takes some 10 ms."""

_SETTLED_S = 2.0
"""A file that changed later than so long ago may change again without another time of change: it is not cached."""

_PACKAGE = Path(__file__).resolve().parent.parent
_LIBRARY = sysconfig.get_paths()["stdlib"]

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.index.json")
_MODEL = (*_WEIGHTS, "config.json", "adapter_config.json", "*.py")
_TOKENIZER = (
    "tokenizer*",
    "vocab*",
    "merges*",
    "special_tokens*",
    "added_tokens*",
    "chat_template*",
    "*.model",
    "*.py",
)
_NOT_DATA = ("README*", "LICENSE*", "cache-*")


def inputs_of(config: Mapping[str, Any], memo: Remembered | None = None) -> dict[str, dict[str, str]]:
    """Returns the files and folders that a config names and the modules of its `_target_`s, with their fingerprints.

    Left out are names on the hub, what cannot be read, and modules of this project, of Python and of its packages.

    Args:
        config: The resolved config, with real paths.
        memo: What was found for other configs of the same request: each file is read once.
    """
    memo, parents = memo or Remembered(), dict(references(config))
    if parents:
        config = located_where_there(config, memo(RunIndex))  # which lists the outputs once for all
    found: dict[str, dict[str, str]] = {}
    for key, value in file_values(config, (*DATA_KEYS, *PATH_KEYS, *MODEL_KEYS)):
        found |= memo(_file_input, key, value)
    if config.get("model", {}).get("archive") == EMBEDDED:
        found |= memo(_file_input, "model.archive", str(SHIPPED))
    for target in {target for _, target in targets(config) if not target.startswith("gpt_opt.")}:
        found |= memo(module_inputs, target)
    for key, parent in parents.items():
        if key in found:
            found[key] = {**found[key], **_result_of(parent, Path(found[key]["path"]))}
    return found


def _result_of(parent: RunReference, checkpoint: Path) -> dict[str, str]:
    """Returns which result of a run its checkpoint belongs to: another attempt gives another one."""
    try:
        attempt = str(read_summary(RunPaths(checkpoint.parent.parent)).get("attempt", ""))
    except (OSError, ValueError):  # an early checkpoint of a run that has no result yet
        attempt = ""
    return {"run_id": parent.run_id, "attempt": attempt}


def changed_inputs(before: Inputs, now: Inputs) -> list[str]:
    """Returns the names of the inputs that are other ones now; what one side does not know is not compared."""
    return [name for name, item in now.items() if name in before and before[name]["sha256"] != item["sha256"]]


def changed_since(before: Inputs, now: Inputs) -> str:
    """Returns which inputs have changed: `/a/b.jsonl and /c/mine.py have changed since`; "" for none."""
    *some, last = [now[name]["path"] for name in changed_inputs(before, now)] or [""]
    if not last:
        return ""
    return f"{', '.join(some)} and {last} have changed since" if some else f"{last} has changed since"


def _file_input(key: str, value: str) -> dict[str, dict[str, str]]:
    path = Path(value)
    try:
        digest = file_sha256(path) if path.is_file() else _folder_sha256(path, key) if path.is_dir() else None
    except OSError as error:
        log.warning("%s: %s cannot be fingerprinted, so a change of it would go unnoticed: %s", key, value, error)
        return {}
    return {key: {"path": value, "sha256": digest}} if digest else {}


def _folder_sha256(folder: Path, key: str) -> str | None:
    """Returns the fingerprint of what counts in a folder, or None where nothing does."""
    if key.startswith("data."):
        out = {file for pattern in _NOT_DATA for file in folder.rglob(pattern)}
        inside = (file for file in folder.rglob("*") if file not in out)
        files = [file for file in inside if not any(part[0] == "." for part in file.relative_to(folder).parts)]
    else:
        patterns = {"model.tokenizer_name_or_path": _TOKENIZER, **dict.fromkeys(PATH_KEYS, _WEIGHTS)}.get(key, _MODEL)
        files = [file for pattern in patterns for file in folder.glob(pattern)]
    lines = [f"{file.relative_to(folder)} {file_sha256(file)}\n" for file in sorted(set(files)) if file.is_file()]
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest() if lines else None


def file_sha256(file: Path) -> str:
    """Returns the SHA-256 of a file; of a large one from the cache, by its name, size, times and inode."""
    before = file.stat()
    folder = cache_folder("fingerprints") if before.st_size >= MIN_CACHED else None
    facts = (str(file), before.st_size, before.st_mtime_ns, before.st_ctime_ns, before.st_ino)
    entry = None if folder is None else folder / hashlib.sha256(repr(facts).encode()).hexdigest()
    if entry is not None and (known := _read(entry)):
        return known
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        after = os.fstat(stream.fileno())
    same = (str(file), after.st_size, after.st_mtime_ns, after.st_ctime_ns, after.st_ino) == facts
    if entry is not None and same and time.time() - max(after.st_mtime, after.st_ctime) > _SETTLED_S:
        _write(entry, digest)
    return digest


def _read(entry: Path) -> str | None:
    try:
        text = entry.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return text if len(text) == 64 else None


def _write(entry: Path, digest: str) -> None:
    """Keeps a fingerprint; a cache that cannot be written costs time, no run."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_text(entry, digest)
    except OSError as error:
        log.debug("fingerprints are not cached in %s: %s", entry.parent, error)


def module_inputs(target: str) -> dict[str, dict[str, str]]:
    """Returns the user's own modules that a target is in, and those that they import, without importing any."""
    found: dict[str, dict[str, str]] = {}
    names = [target]
    while names:
        name = names.pop()
        # A run also has the folder of this checkout on its path; the process that plans may not.
        for spec in list(modules_of(name)) or modules_of(name, _PACKAGE.parent):
            file = Path(spec.origin or "")
            if spec.name in found or not _is_own(file):
                continue
            try:
                found[spec.name] = {"path": str(file), "sha256": file_sha256(file)}
                names += _imports(file, spec)
            except (OSError, SyntaxError, ValueError) as error:
                log.debug("the imports of %s are not followed: %s", file, error)
    return found


def _is_own(file: Path) -> bool:
    installed = {"site-packages", "dist-packages"} & set(file.parts) or file.is_relative_to(_LIBRARY)
    return file.suffix == ".py" and not installed and not file.resolve().is_relative_to(_PACKAGE)


def _imports(file: Path, spec: ModuleSpec) -> Iterator[str]:
    """Yields the dotted names that a module imports."""
    package = spec.name if spec.submodule_search_locations is not None else spec.name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(base, package) if node.level else base
            yield from (f"{base}.{alias.name}" for alias in node.names)
