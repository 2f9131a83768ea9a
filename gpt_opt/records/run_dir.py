"""Where everything of a run lies: one object knows every file name, one function chooses the directory."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_opt.records.half_written import half_written
from gpt_opt.records.io import lock, read_json_or_empty

log = logging.getLogger(__name__)

PROGRESS_FILE = "progress.json"
"""Sums of the metrics since the last log line, tokens and seconds so far: a resumed run goes on counting from them."""

FINAL = "final"
"""Link in the folder of checkpoints to the best one of a run with load_best_model_at_end that has ended."""


@dataclass(frozen=True)
class RunPaths:
    """The files of one run directory."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved config as JSON."""
        return self.root / "config.json"

    @property
    def hydra(self) -> Path:
        """Hydra's own three YAML files: config, overrides, hydra."""
        return self.root / ".hydra"

    @property
    def state(self) -> Path:
        """What `gpt_opt.records.state` reads and writes."""
        return self.root / "state.json"

    @property
    def claims(self) -> Path:
        """One file an attempt; the highest number owns the run."""
        return self.root / "claims"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.root / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """What the models wrote at the evaluations, one JSON object a line; only where that was asked for."""
        return self.root / "samples.jsonl"

    @property
    def summary(self) -> Path:
        """Written once, last: its presence with state COMPLETED is what done means."""
        return self.root / "summary.json"

    @property
    def provenance(self) -> Path:
        """Code, packages and machine of the last attempt."""
        return self.root / "provenance.json"

    @property
    def git_diff(self) -> Path:
        """Uncommitted changes of the code that ran."""
        return self.root / "provenance.diff"

    @property
    def checkpoints(self) -> Path:
        """Folders `checkpoint-<step>` in Hugging Face format."""
        return self.root / "checkpoints"

    @property
    def task_log(self) -> Path:
        """Everything the run said, with times."""
        return self.root / "task.log"

    @property
    def reserve(self) -> Path:
        """Room on the disk for the last words of a running run; a temporary file like others."""
        return self.root / ".reserve.tmp"

    @property
    def superseded(self) -> Path:
        """Records of results that `rerun=true` replaced, one folder an attempt."""
        return self.root / "superseded"

    def matching(self, pattern: str) -> list[Path]:
        """Returns what a glob below the directory finds, without what was put aside and links that lead nowhere."""
        return [path for path in self.root.glob(pattern) if self.superseded not in path.parents and path.exists()]

    def newest(self, pattern: str) -> Path | None:
        """Returns what was written last, by its time, of the checkpoints that a glob finds; None where there is none.

        One that a killed process has left half written is named and left out. A folder is so only beside a whole one:
        what it is to its program, one checkpoint or many, is not known.
        """
        found = sorted(self.matching(pattern), key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
        wrong: dict[Path, str] = {}
        chosen = None
        for path in found:
            if not (why := half_written(path)):
                chosen = path
                break
            wrong[path] = why
        chosen = chosen or next((path for path in found if path.is_dir()), None)
        for path, why in wrong.items():
            if path != chosen:
                log.warning("%s is half written and left out: %s", path, why)
        return chosen


def step_of(checkpoint: Path) -> int | None:
    """Returns the optimizer steps before a checkpoint, by its name; None where that is no name of one."""
    name, _, step = checkpoint.name.rpartition("-")
    return int(step) if name == "checkpoint" and step.isdecimal() else None


def checkpoints(folder: Path) -> list[Path]:
    """Returns the complete checkpoints in `folder`, oldest step first."""
    found = {path: step for path in folder.glob("checkpoint-*") if (step := step_of(path)) is not None}
    return sorted(found, key=lambda path: found[path])


def newest_checkpoint(folder: Path) -> Path | None:
    """Returns the last of the `checkpoints` in `folder`, None where there is none."""
    return next(reversed(checkpoints(folder)), None)


def result_checkpoint(folder: Path) -> Path | None:
    """Returns the checkpoint in `folder` that is the result of a complete run: the chosen one, or the newest.

    None where there is none at all.
    """
    final = folder / FINAL
    return folder / final.readlink() if final.is_symlink() else newest_checkpoint(folder)


def saved_step(paths: RunPaths) -> int | None:
    """Returns the step of the newest checkpoint of a run, None where there is none."""
    newest = newest_checkpoint(paths.checkpoints)
    return step_of(newest) if newest else None


def saved_progress(paths: RunPaths) -> dict[str, Any]:
    """Returns the `PROGRESS_FILE` of the newest checkpoint of a run; {} where there is none that can be read."""
    newest = newest_checkpoint(paths.checkpoints)
    return read_json_or_empty(newest / PROGRESS_FILE) if newest else {}


def find_run_dirs(*roots: Path) -> list[Path]:
    """Returns every run directory at or below `roots`, each once, sorted; what lies inside one is not searched."""
    return [Path(folder) for folder in find_run_folders(*map(str, roots)).values()]


Foreign = Callable[[str, Collection[str]], bool]
"""Whether a folder that holds these names is the directory of a run that is not ours."""


def find_run_folders(*roots: str, foreign: Foreign = lambda folder, names: False) -> dict[str, str]:
    """Returns what `find_run_dirs` does as strings: real path to path.

    Args:
        roots: Folders; one that is not there holds no runs.
        foreign: Tells of every other folder whether it is listed too, and not searched.
    """
    found: dict[str, str] = {}
    for root in roots:
        real = os.path.realpath(root)
        # Below one root nothing is met twice, as links are not followed: the rest of the path tells runs apart.
        found.update((f"{real}/{rest}" if rest else real, folder) for rest, folder in _runs_below(root, foreign))
    return dict(sorted(found.items(), key=lambda item: item[1].replace("/", "\0")))  # as paths are compared


def _runs_below(root: str, foreign: Foreign) -> Iterator[tuple[str, str]]:
    """Yields for each run directory its path below `root`, and its path."""
    start = "" if root == "." else os.path.join(root, "")
    below = [""]
    while below:
        rest = below.pop()
        folder = start + rest if rest else root
        # Asking for a file is three times as fast as listing the directory of each run.
        if os.path.isfile(f"{folder}/state.json") or os.path.isfile(f"{folder}/summary.json"):
            yield rest, folder
            continue
        try:
            with os.scandir(folder) as entries:
                names = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        except OSError:
            continue
        if ("config.json" in names and "claims" in names) or foreign(folder, names):
            yield rest, folder
        else:
            below.extend(f"{rest}/{name}" if rest else name for name, is_folder in names.items() if is_folder)


def run_of(folder: Path) -> RunPaths | None:
    """Returns the run that `folder` is the directory, or a checkpoint, of; None for any other folder."""
    for paths in map(RunPaths, (folder.parent.parent, folder)):  # a checkpoint may have a config.json of its own
        if paths.config.is_file() and (folder == paths.root or folder.parent == paths.checkpoints):
            return paths
    return None


LABEL_LIMIT = 80
"""Characters of the readable part of a run directory's name."""


def path_part(text: str) -> str:
    """Returns `text` as one plain path component: letters, digits and `. _ = , + -`, at most `LABEL_LIMIT` characters.

    A slash, as in `EleutherAI/pythia-2.8b`, becomes `--`; anything else that is special becomes `_`.
    """
    plain = re.sub(r"[^A-Za-z0-9._=,+-]", "_", text.replace("/", "--"))[:LABEL_LIMIT]
    return plain.lstrip(".-") or "_"


def run_dir_name(label: str, run_id: str) -> str:
    """Returns the name that the directory of a run gets when it is made."""
    return f"{path_part(label)}-{run_id}"


class RunFolders:
    """Finds run directories by their ids, listing each parent once; later changes are not seen."""

    def __init__(self) -> None:
        self._listed: dict[str, dict[str, str]] = {}

    def find(self, parent: str, run_id: str) -> str | None:
        """Returns the directory of run `run_id` below `parent`, whatever its readable label, or None."""
        if parent not in self._listed:
            names = sorted(os.listdir(parent), reverse=True) if os.path.isdir(parent) else []
            ids = ((name.rpartition("-")[2], name) for name in names)  # without a label the name is the id
            self._listed[parent] = dict(ids)
        name = self._listed[parent].get(run_id)
        return None if name is None else f"{parent}/{name}"


def make_run_dir(planned: Path, run_id: str) -> Path:
    """Returns the one directory of run `run_id` beside `planned`, making `planned` when there is none.

    The id decides; the rest of the name is for people and is chosen by whoever comes first. Callers that come at the
    same time with different names get the same directory.
    """
    parent = planned.parent
    if (found := RunFolders().find(str(parent), run_id)) is not None:
        return Path(found)
    parent.mkdir(parents=True, exist_ok=True)
    with lock(parent / ".lock"):
        if (found := RunFolders().find(str(parent), run_id)) is not None:
            return Path(found)
        planned.mkdir()
        return planned
