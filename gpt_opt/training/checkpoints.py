"""Checkpoints on disk: complete or absent, the newest few kept."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

PROGRESS_FILE = "progress.json"
"""Sums of the metrics since the last log line, tokens and seconds so far: a resumed run goes on counting from them."""


_NEEDED = (PROGRESS_FILE, "trainer_state.json", "optimizer.pt", "scheduler.pt")

log = logging.getLogger(__name__)


def checkpoints(folder: Path) -> list[Path]:
    """Returns the complete checkpoints in `folder`, oldest step first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def latest_checkpoint(folder: Path) -> Path | None:
    """Returns the checkpoint with the most steps that has all it needs, or None; damaged ones are named and skipped."""
    for path in reversed(checkpoints(folder)):
        if all((path / name).is_file() for name in _NEEDED) and any(path.glob("*model*.safetensors")):
            return path
        log.warning("%s lacks files and is skipped", path)
    return None


def sync_tree(folder: Path) -> None:
    """Makes every file of a folder survive a power failure."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def commit_checkpoint(saved: Path, folder: Path) -> None:
    """Moves a finished checkpoint to its place in `folder`, replacing one of the same step."""
    target = folder / saved.name
    shutil.rmtree(target, ignore_errors=True)
    saved.rename(target)
    _sync(folder)
    shutil.rmtree(saved.parent, ignore_errors=True)


def remove_beyond(folder: Path, limit: int | None) -> None:
    """Deletes all but the newest `limit` checkpoints; None keeps all."""
    if limit is not None:
        for old in checkpoints(folder)[:-limit]:
            shutil.rmtree(old, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Deletes what a killed process left half saved."""
    for path in folder.glob(".saving-*"):
        shutil.rmtree(path, ignore_errors=True)
