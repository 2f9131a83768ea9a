"""Checkpoints on disk: complete or absent, the newest few kept."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE

from gpt_opt.errors import disk_full

PROGRESS_FILE = "progress.json"
"""Sums of the metrics since the last log line, tokens and seconds so far: a resumed run goes on counting from them."""


FINAL = "final"
"""Link to the best checkpoint of a run with load_best_model_at_end that has ended."""

OPTIMIZER_FILE = "optimizer.pt"
"""States of the optimizer, but for those that DeepSpeed divides among the processes: they are in `global_step*/`."""

SCHEDULER_FILE = "scheduler.pt"
"""Where the schedule is."""

_NEEDED = (PROGRESS_FILE, "trainer_state.json", SCHEDULER_FILE)

_PROBE_BYTES = 1 << 20

log = logging.getLogger(__name__)


def checkpoints(folder: Path) -> list[Path]:
    """Returns the complete checkpoints in `folder`, oldest step first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def latest_checkpoint(folder: Path) -> Path | None:
    """Returns the checkpoint with the most steps that has all it needs, or None; damaged ones are named and skipped."""
    for path in reversed(checkpoints(folder)):
        if not (missing := missing_files(path)):
            return path
        log.warning("%s lacks %s and is skipped", path, ", ".join(missing))
    return None


def missing_files(checkpoint: Path) -> list[str]:
    """Returns what a checkpoint lacks to resume from."""
    needed = _NEEDED if is_of_deepspeed(checkpoint) else (OPTIMIZER_FILE, *_NEEDED)
    missing = [name for name in needed if not (checkpoint / name).is_file()]
    return missing if any(checkpoint.glob("*model*.safetensors")) else ["weights", *missing]


def usual_modes(folder: Path) -> None:
    """Gives every file of a folder the mode of any new file: safetensors lets nobody but the owner read its own."""
    probe = folder / ".mode"
    probe.touch()
    mode = S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def is_of_deepspeed(checkpoint: Path) -> bool:
    """Returns whether DeepSpeed wrote the states of the optimizer."""
    return any(checkpoint.glob("global_step*"))


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


@contextmanager
def whole_or_removed(folder: Path) -> Iterator[None]:
    """Removes what the block has saved in `folder` when it fails, and names a full disk, for which torch has no words.

    Raises:
        OSError: If the disk is full; other errors as the block.
    """
    try:
        yield
    except BaseException as error:
        full = disk_full(error) is not None or _is_full(folder)
        shutil.rmtree(folder, ignore_errors=True)  # on a full disk it takes the room that a last word needs
        if full and not isinstance(error, OSError):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise


def _is_full(folder: Path) -> bool:
    """Returns whether there is no room in `folder`, its user's quota included."""
    probe = folder / ".probe"
    try:
        with probe.open("wb") as stream:
            stream.write(os.urandom(_PROBE_BYTES))
            os.fsync(stream.fileno())
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    finally:
        with suppress(OSError):
            probe.unlink()
    return False


def commit_checkpoint(saved: Path, folder: Path) -> None:
    """Moves a finished checkpoint to its place in `folder`, replacing one of the same step."""
    target = folder / saved.name
    shutil.rmtree(target, ignore_errors=True)
    saved.rename(target)
    _sync(folder)
    shutil.rmtree(saved.parent, ignore_errors=True)


def remove_beyond(folder: Path, limit: int | None, best: int | None = None) -> None:
    """Deletes all but the newest `limit` checkpoints and that of the step `best`; None keeps all."""
    if limit is not None:
        for old in checkpoints(folder)[:-limit]:
            if old != checkpoint_path(folder, best):
                shutil.rmtree(old, ignore_errors=True)


def checkpoint_path(folder: Path, step: int | None) -> Path | None:
    """Returns where the checkpoint of a step is or would be."""
    return None if step is None else folder / f"checkpoint-{step}"


def link_final(folder: Path, step: int) -> None:
    """Makes the checkpoint of a step the final one: `folder/final` leads to it."""
    temporary = folder / f".{FINAL}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(f"checkpoint-{step}")
    temporary.replace(folder / FINAL)
    _sync(folder)


def final_checkpoint(folder: Path) -> Path | None:
    """Returns the checkpoint that a complete run hands over: the one chosen as the best, else the newest."""
    final = folder / FINAL
    return folder / final.readlink() if final.is_symlink() else latest_checkpoint(folder)


def remove_unfinished(folder: Path) -> None:
    """Deletes what a killed process left half saved."""
    for path in folder.glob(".saving-*"):
        shutil.rmtree(path, ignore_errors=True)
