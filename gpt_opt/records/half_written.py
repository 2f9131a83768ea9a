"""Checkpoints that a killed process has left half written, whoever wrote them: by the ends that their formats have."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

_TORCH = (".pt", ".pth", ".ckpt", ".bin")
_ARCHIVE = b"PK\x03\x04"


def half_written(checkpoint: Path) -> str:
    """Returns which file of a checkpoint lacks its end, and how that shows; "" where none is known to.

    Args:
        checkpoint: A file of torch or of safetensors, or a folder of such. Of other formats nothing is known.
    """
    files = [checkpoint] if checkpoint.is_file() else sorted(path for path in checkpoint.rglob("*") if path.is_file())
    for file in files:
        try:
            if file.suffix == ".safetensors":
                require_safetensors(file)
            elif file.suffix in _TORCH:
                _require_torch(file)
        except (OSError, ValueError, struct.error, zipfile.BadZipFile) as error:
            return f"{file.name}: {error}"
    shards = [file for file in files if file.suffix == ".distcp"]
    if shards and not (shards[0].parent / ".metadata").is_file():  # which torch.distributed.checkpoint writes last
        return f"{shards[0].name}: there is no .metadata beside it"
    return ""


def require_safetensors(file: Path) -> None:
    """Checks that the header of a file describes all of it; the format has no checksum of the numbers.

    Raises:
        ValueError: If it does not; struct.error where it is shorter than any header.
        OSError: If it cannot be read.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if not 2 <= length <= size - 8:
            raise ValueError(f"its header would have {length:,} bytes")
        header = json.loads(stream.read(length))
    ends = [item["data_offsets"][1] for name, item in header.items() if name != "__metadata__"]
    if max(ends, default=0) != size - 8 - length:
        raise ValueError(f"its tensors end after {max(ends, default=0):,} bytes, the file after {size - 8 - length:,}")


def _require_torch(file: Path) -> None:
    """Checks that what torch.save began, which is an archive, has the directory of one at its end."""
    with file.open("rb") as stream:
        head = stream.read(len(_ARCHIVE))
    if not head:
        raise ValueError("it is empty")
    if head == _ARCHIVE:
        zipfile.ZipFile(file).close()
