"""Checkpoints on disk: complete or absent, the newest few kept, damaged ones found by what was recorded of them."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from stat import S_IMODE
from typing import Any

from gpt_opt.errors import GptOptError, Problem, RequestError, disk_full
from gpt_opt.records.half_written import require_safetensors
from gpt_opt.records.io import fenced, sync
from gpt_opt.records.run_dir import FINAL, PROGRESS_FILE, checkpoints, result_checkpoint, step_of

OPTIMIZER_FILE = "optimizer.pt"
"""State of the optimizer, but for that which DeepSpeed shards: it is in `global_step*/`."""

SCHEDULER_FILE = "scheduler.pt"
"""State of the learning rate schedule."""

SIZES_FILE = "sizes.json"
"""Bytes of every other file of a checkpoint that is read again, by its name, as they were when it was committed."""

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""Files of weights, or of adapters."""

_NEEDED = (PROGRESS_FILE, "trainer_state.json", SCHEDULER_FILE)

_PROBE_BYTES = 1 << 20
_UNREAD = "training_args.bin"
"""What transformers adds to a checkpoint, and nobody reads."""

log = logging.getLogger(__name__)


def latest_checkpoint(folder: Path) -> Path | None:
    """Returns the whole checkpoint with the most steps, or None where there is none at all; damaged ones are named.

    Raises:
        RequestError: If there are checkpoints, but all of them are damaged: nothing starts anew in silence.
    """
    damaged: dict[Path, str] = {}
    for path in reversed(checkpoints(folder)):
        if not (wrong := damage(path)):
            for skipped, why in damaged.items():
                log.warning("%s is damaged and left out, %s serves instead: %s", skipped, path.name, why)
            return path
        damaged[path] = wrong
    if damaged:
        fix = "restore the file; or train from the start: rerun=true, or remove the folder"
        raise RequestError(
            [Problem(str(path), f"must be a whole checkpoint, but {why}", fix) for path, why in damaged.items()]
        )
    return None


def damage(checkpoint: Path) -> str:
    """Returns what is wrong with a checkpoint that is to be resumed from, or ""."""
    of_deepspeed = any(checkpoint.glob("global_step*"))
    needed = _NEEDED if of_deepspeed else (OPTIMIZER_FILE, *_NEEDED)
    missing = [name for name in needed if not (checkpoint / name).is_file()]
    if not any(checkpoint.glob("*model*.safetensors")):
        missing = ["weights", *missing]
    if missing:
        return f"lacks {', '.join(missing)}"
    return "; ".join(damaged_files(checkpoint))


def damaged_files(folder: Path, *patterns: str) -> Iterator[str]:
    """Yields what is wrong with files of a folder: another size than when it was committed, or no content to read.

    Args:
        folder: A checkpoint, or a model that somebody else has saved.
        patterns: Which files to look at, of those that are in no folder below; none is all.
    """
    chosen = patterns or ("*",)
    try:
        recorded = json.loads((folder / SIZES_FILE).read_text()) if (folder / SIZES_FILE).is_file() else {}
    except (OSError, ValueError) as error:
        yield f"{SIZES_FILE} cannot be read: {error}"
        return
    wrong = set()
    for name, size in recorded.items():
        if any(fnmatch(name, pattern) for pattern in chosen) and not (patterns and "/" in name):
            file = folder / name
            held = file.stat().st_size if file.is_file() else None
            if held != size:
                wrong.add(file)
                yield (
                    f"lacks {name}"
                    if held is None
                    else f"{name} has {held:,} bytes, not the {size:,} that were written"
                )
    find = folder.glob if patterns else folder.rglob  # nobody loads what lies in a folder of a model's own
    for file in sorted({file for pattern in chosen for file in find(pattern)} - wrong):
        read = _READERS.get(file.suffix)
        if read is not None and file.is_file():
            try:
                read(file)
            except (OSError, ValueError, struct.error, zipfile.BadZipFile, NotImplementedError) as error:
                yield f"{file.relative_to(folder)} cannot be read: {error or type(error).__name__}"


def _read_json(file: Path) -> None:
    json.loads(file.read_text(encoding="utf-8"))


def _read_torch(file: Path) -> None:
    """Checks the checksums of what torch.save wrote, which torch.load does not look at."""
    with zipfile.ZipFile(file) as archive:
        if (broken := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {broken} does not hold")


_READERS: dict[str, Callable[[Path], None]] = {
    ".json": _read_json,
    ".safetensors": require_safetensors,
    ".pt": _read_torch,
    ".pth": _read_torch,
}


def usual_modes(folder: Path) -> None:
    """Gives every file of a folder the mode of any new file: safetensors lets nobody but the owner read its own."""
    probe = folder / ".mode"
    probe.touch()
    mode = S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def sync_tree(folder: Path) -> None:
    """Makes every file of a folder survive a power failure."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


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


def finish_checkpoint(saved: Path, progress: Mapping[str, Any]) -> None:
    """Adds to a saved checkpoint what a resume asks, and makes all of it survive a power failure.

    Args:
        saved: What transformers has written.
        progress: JSON values for `PROGRESS_FILE`.
    """
    (saved / PROGRESS_FILE).write_text(json.dumps(progress))
    files = [file for file in saved.rglob("*") if file.is_file() and file.name not in (SIZES_FILE, _UNREAD)]
    sizes = {str(file.relative_to(saved)): file.stat().st_size for file in sorted(files)}
    (saved / SIZES_FILE).write_text(json.dumps(sizes))
    usual_modes(saved)
    sync_tree(saved)


def commit_checkpoint(saved: Path, folder: Path, fence: Callable[[], None]) -> None:
    """Moves a finished checkpoint into `folder`, replacing one of the same step.

    Args:
        saved: The checkpoint, in a `staging_folder`: where another attempt has taken over, it has deleted that.
        folder: Of the checkpoints.
        fence: As of `gpt_opt.records.io.fenced`.
    """
    target = folder / saved.name
    with fenced(fence):
        if target.exists():
            target.rename(saved.parent / "replaced")
        saved.rename(target)
    sync(folder)
    shutil.rmtree(saved.parent, ignore_errors=True)


def remove_beyond(folder: Path, step: int, limit: int | None, best: int | None, fence: Callable[[], None]) -> None:
    """Deletes all but the newest `limit` checkpoints and that of the step `best`; None keeps all.

    Those beyond `step`, the newest one, are damaged ones that an attempt before this one has left. `fence` is asked
    before each: those of an attempt after this one are beyond it too.
    """
    found = [path for path in checkpoints(folder) if (step_of(path) or 0) <= step]
    surplus = found[:-limit] if limit is not None else []
    beyond = checkpoints(folder)[len(found) :]
    for path in (*beyond, *(old for old in surplus if old != checkpoint_path(folder, best))):
        fence()
        shutil.rmtree(path, ignore_errors=True)


def checkpoint_path(folder: Path, step: int | None) -> Path | None:
    """Returns where the checkpoint of a step is or would be."""
    return None if step is None else folder / f"checkpoint-{step}"


def link_final(folder: Path, step: int, fence: Callable[[], None]) -> None:
    """Makes the checkpoint of a step the final one: `folder/final` leads to it; `fence` as of `fenced`."""
    temporary = folder / f".{FINAL}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(f"checkpoint-{step}")
    with fenced(fence):
        temporary.replace(folder / FINAL)
    sync(folder)


def final_checkpoint(folder: Path) -> Path | None:
    """Returns `result_checkpoint`.

    Raises:
        GptOptError: If its weights are damaged: an older one would not be the result.
    """
    chosen = result_checkpoint(folder)
    if chosen is None:
        return None
    wrong = [*damaged_files(chosen, *WEIGHTS)]
    if not any(chosen.glob("*model*.safetensors")):
        wrong = ["lacks weights"]
    if wrong:
        raise GptOptError(f"{chosen} must be the result of its run, but {'; '.join(wrong)}; train again: rerun=true")
    return chosen


def staging_folder(folder: Path, step: int, attempt: int) -> Path:
    """Returns where an attempt saves the checkpoint of a step before it is committed to `folder`."""
    return folder / f".saving-{step}.{attempt}"


def remove_unfinished(folder: Path, attempt: int) -> None:
    """Deletes what attempts up to this one have half saved, be they killed or not aware yet that they were replaced."""
    for path in folder.glob(".saving-*"):
        number = path.suffix[1:]
        if not number.isdecimal() or int(number) <= attempt:
            shutil.rmtree(path, ignore_errors=True)
    (folder / f".{FINAL}").unlink(missing_ok=True)
