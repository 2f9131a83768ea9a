"""Which keys of a config name files or folders, and where those lie: one file is one value, however it is said."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt_opt.config.checks.data import DATA_SUFFIXES
from gpt_opt.config.nested import Config, value_at, with_value
from gpt_opt.config.remember import Remembered
from gpt_opt.errors import GptOptError, RequestError
from gpt_opt.records.best_run import BEST, best_run
from gpt_opt.records.run_dir import RunPaths, result_checkpoint
from gpt_opt.records.run_reference import RunIndex, RunReference, checkpoint_of
from gpt_opt.records.state import State, read_run

EMBEDDED = "embedded"
"""Value of `model.archive` for the weights that the project ships."""

SHIPPED = Path(__file__).resolve().parent.parent / "training" / "models" / "tiny_gpt2"
"""Their folder."""

BYTES = "bytes"
"""Value of `model.tokenizer_name_or_path` for the project's own tokenizer."""

MODEL_KEYS = ("model.name_or_path", "model.tokenizer_name_or_path", "loss.ref_model_id")
"""Keys that name a folder, or else a model on the hub: a folder where one exists, as transformers decides."""

DATA_KEYS = ("data.dataset.path", "data.dataset.parts.*.dataset.path")
"""Keys that name a file, a folder, or else data on the hub."""

PATH_KEYS = ("model.archive", "training.finetuning.resume_from_checkpoint")
"""Keys that name nothing but a file or a folder, or a run to start from: see `gpt_opt.records.run_reference`."""

WEIGHT_KEYS = ("model.archive", *MODEL_KEYS)
"""Keys of what must not change while a run is interrupted, besides the data, whose content the training compares."""

_NO_FILES = {"model.archive": EMBEDDED, "model.tokenizer_name_or_path": BYTES}
_LIKE_PATHS = ("/", "./", "../", "~")


def file_values(config: Config, keys: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yields the dotted key and the value of every one of `keys` that a config gives, but for words of ours."""
    for key in keys:
        before, _, after = key.partition(".*.")
        found = value_at(config, before)
        if after and isinstance(found, dict):
            yield from file_values(config, tuple(f"{before}.{name}.{after}" for name in found))
        elif isinstance(found, str) and found not in ("", "???", _NO_FILES.get(key)):
            yield key, found


def with_real_paths(config: dict[str, Any], memo: Remembered | None = None) -> dict[str, Any]:
    """Returns a config with absolute paths: of the keys above, those that name a file or folder of this machine.

    A run in the output folder, or a checkpoint of one, becomes a reference to that run, `run:ID`. Links are resolved
    and `~` is the home directory, so that two spellings of one file are one value; but a link keeps its name where that
    of its file has another suffix. Names on the hub stay as they are. A model's `name` that repeats `name_or_path`
    follows it.

    Args:
        config: The resolved config as plain containers; it is not changed.
        memo: What was found for other configs of the same request: each file is looked up once.
    """
    changed = _changed_nodes(config) if memo is None else memo.of(_changed_nodes, config)
    return {**config, **changed} if changed else config


def _changed_nodes(config: Config) -> dict[str, Any]:
    """Returns the top-level nodes of a config in which a path becomes another, as they are to be."""
    changed: dict[str, Any] = {}
    for key, value in file_values(config, (*PATH_KEYS, *MODEL_KEYS, *DATA_KEYS)):
        real = (key in PATH_KEYS and _reference(value, config)) or _real_path(key, value)
        if real != value:
            group, *below = key.split(".")
            changed[group] = with_value(changed[group] if group in changed else config[group], below, real)
            if key == "model.name_or_path" and config[group].get("name") == value:
                changed[group] = with_value(changed[group], ["name"], real)
    return changed


def _reference(value: str, config: Config) -> str:
    """Returns the reference to the run that a value names by id, directory or checkpoint, or as the best of a sweep.

    Empty where it names none.
    """
    output_dir = value_at(config, "paths.output_dir")
    if not isinstance(output_dir, str):
        return ""
    try:
        if value.startswith(BEST):
            return str(best_run("", value))
        path = Path(os.path.expanduser(value))
        found = RunReference.of_folder(path, Path(output_dir)) if path.exists() else RunReference.parse(value)
    except (OSError, ValueError, GptOptError):  # no name of a file, or no such run: whoever plans says so
        return ""
    return "" if found is None else str(found)


def starts(config: Config) -> tuple[tuple[str, str], ...]:
    """Returns the keys of a config that name what a training starts from, with their values."""
    return tuple(file_values(config, PATH_KEYS))


def references(config: Config, memo: Remembered | None = None) -> Iterator[tuple[str, RunReference]]:
    """Yields the keys of a config that name a run to start from, with that run.

    Args:
        config: The resolved config, with real paths.
        memo: What was found for other configs of the same request.
    """
    for key, value in starts(config) if memo is None else memo.of(starts, config):
        if (found := RunReference.parse(value)) is not None:
            yield key, found


def located(config: Config, index: RunIndex | None = None) -> dict[str, Any]:
    """Returns a config with the folders of the checkpoints in the place of references to runs.

    Args:
        config: The resolved config, with real paths; it is not changed.
        index: Shared by those who look for many.

    Raises:
        RequestError: If a run, or the checkpoint of it, is not there.
    """
    changed = dict(config)
    for key, reference in references(config):
        group, *below = key.split(".")
        path = checkpoint_of(key, reference, config["paths"]["output_dir"], index)
        changed[group] = with_value(changed[group], below, str(path.absolute()))
    return changed


def located_where_there(config: Config, index: RunIndex | None = None) -> dict[str, Any]:
    """Returns as `located` does; a reference to what is not there stays as it is."""
    try:
        return located(config, index)
    except RequestError:
        return dict(config)


def _resolved(path: str) -> str:
    """Returns the real path, but of a link to a file of another suffix that of the link: its name says what it holds.

    So it is in the caches of the hub and of DVC, where files are named by their content.
    """
    real, suffix = os.path.realpath(path), os.path.splitext(path)[1]
    if suffix and os.path.splitext(real)[1] != suffix and os.path.isfile(real):
        folder, name = os.path.split(path)
        return os.path.join(os.path.realpath(folder), name)
    return real


def _archive(path: str) -> str:
    """Returns the final checkpoint of a complete run of another output folder, other paths as they are."""
    run = RunPaths(Path(path))
    if not run.state.is_file() or read_run(run).state is not State.COMPLETED:
        return path  # of a run that goes on, no checkpoint is the result
    return str(result_checkpoint(run.checkpoints) or path)


def _real_path(key: str, value: str) -> str:
    expanded = os.path.expanduser(value)
    local = key in PATH_KEYS or expanded.startswith(_LIKE_PATHS) or expanded in (".", "..")
    if value.startswith(BEST):
        return value  # of a sweep that has none yet, or that there is not
    if not local:
        is_model = key in MODEL_KEYS
        local = os.path.isdir(expanded) if is_model else os.path.exists(expanded) or expanded.endswith(DATA_SUFFIXES)
    try:
        return _resolved(_archive(expanded) if key == "model.archive" else expanded) if local else value
    except (OSError, ValueError):  # no name of a file, such as one with a zero byte: whoever reads it says so
        return value
