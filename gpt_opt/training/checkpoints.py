"""Checkpoints on disk: complete or absent, the newest few kept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PROGRESS_FILE = "progress.json"
"""Sums of the metrics since the last log line, tokens and seconds so far: a resumed run goes on counting from them."""


def checkpoints(folder: Path) -> list[Path]:
    """Returns the complete checkpoints in `folder`, oldest step first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def latest_checkpoint(folder: Path) -> Path | None:
    """Returns the complete checkpoint with the most steps, or None."""
    return next(reversed(checkpoints(folder)), None)


def sync_tree(folder: Path) -> None:
    """Makes every file of a folder survive a power failure."""
    for path in [*folder.rglob("*"), folder]:
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
