"""Which GPUs a slot may use, and a lock on each, so that no two runs ever share one by mistake.

disBatch hands the environment of the first task of a node to every task there, so that with `--gpus-per-task=1` all
of them see GPU 0. The process that Slurm itself started for the slot (disBatch's task server) has the right value in
its own environment; and whatever an environment says, a run takes a lock by node and GPU before it starts.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from gpt_opt.errors import GptOptError
from gpt_opt.records.io import lock
from gpt_opt.records.provenance import DEVICES
from gpt_opt.run.devices import nvidia_smi, visible

WAIT_S = 30.0
"""How long a slot waits for GPUs that a run before it is just leaving."""

_PER_SLOT = ("SLURM_", "SLURMD_", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES")


class GpuBusy(GptOptError):
    """Another process holds a GPU that this slot was given."""


def slot_environment(own: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of this slot as Slurm made it.

    Args:
        own: Environment of this process; inside a disBatch task it holds another slot's Slurm variables.
    """
    if not {"DISBATCH_TASKID", "SLURM_JOB_ID"} <= set(own):
        return dict(own)
    for process in psutil.Process().parents():
        with suppress(psutil.Error):  # it has ended, or belongs to somebody else
            server = process.environ()
            if "SLURM_PROCID" in server and "DISBATCH_TASKID" not in server:
                shared = {name: value for name, value in own.items() if not name.startswith(_PER_SLOT)}
                return shared | {name: value for name, value in server.items() if name.startswith(_PER_SLOT)}
    return dict(own)


def node_name(environment: Mapping[str, str]) -> str:
    """Returns the name of this node, as Slurm calls it where there is Slurm."""
    return environment.get("SLURMD_NODENAME") or socket.gethostname()


def own_folder(kind: str) -> Path:
    """Returns a folder for temporary files of this user on this machine, which nobody else can read.

    Raises:
        GptOptError: If somebody else made it.
    """
    folder = Path(tempfile.gettempdir()) / f"gptopt-{kind}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        owner = "is a link" if folder.is_symlink() else f"belongs to uid {folder.stat().st_uid}"
        raise GptOptError(f"{folder} must be a directory of your own, but {owner}; remove it")
    return folder


class Lease:
    """GPUs that this process holds until it, and every process it passed `fds` to, has ended."""

    def __init__(self, devices: Sequence[str], streams: Sequence[IO[str]]) -> None:
        self.devices, self._streams = tuple(devices), streams

    @property
    def fds(self) -> list[int]:
        """File descriptors that carry the locks."""
        return [stream.fileno() for stream in self._streams]

    def release(self) -> None:
        """Gives the GPUs back, as far as this process is concerned."""
        for stream in self._streams:
            stream.close()


def _try_lock(file: Path) -> IO[str] | None:
    try:
        stream = lock(file, wait=False)
    except BlockingIOError:
        return None
    stream.truncate(0)
    stream.write(f"process {os.getpid()}\n")
    stream.flush()
    return stream


def lease(environment: Mapping[str, str], count: int | None, wait_s: float = WAIT_S) -> Lease:
    """Takes `count` of the slot's GPUs, each under its lock.

    A slot that sees more GPUs than it needs (a whole node was allocated) takes the first free ones.

    Args:
        environment: From `slot_environment`.
        count: GPUs of one run; None for one where there are any.
        wait_s: How long to wait for GPUs that are in use.

    Raises:
        GptOptError: If the slot has fewer.
        GpuBusy: If they stay in use.
    """
    devices = visible(environment)
    number = min(1, len(devices)) if count is None else count
    if number > len(devices):
        where = f"{node_name(environment)} shows {','.join(devices) or 'none'}"
        raise GptOptError(
            f"gpus_per_run={number} needs {number} GPUs in a slot, but this slot on {where} ({DEVICES}); ask for them: "
            f"sbatch --gpus-per-task={number}"
        )
    if number == 0:
        return Lease((), ())
    known, node, folder = nvidia_smi(), node_name(environment), own_folder("gpus")
    files = {device: folder / f"{node}-{known.get(device, device).replace('/', '_')}" for device in devices}
    deadline = time.monotonic() + wait_s
    while True:
        taken: dict[str, IO[str]] = {}
        for device, file in files.items():
            if (stream := _try_lock(file)) is not None:
                taken[device] = stream
            if len(taken) == number:
                return Lease([*taken], [*taken.values()])
        for stream in taken.values():
            stream.close()
        if time.monotonic() > deadline:
            raise GpuBusy(_busy(files, node, number))
        time.sleep(0.5 + os.getpid() % 7 / 10)  # slots that wait for each other's GPUs do not stay in step


def _busy(files: Mapping[str, Path], node: str, number: int) -> str:
    holders = [f"GPU {device} by {file.read_text().strip() or 'an unknown process'}" for device, file in files.items()]
    return (
        f"a run needs {number} free of the GPUs {','.join(files)} of {node}, but held are {'; '.join(holders)}: "
        "two slots were given the same GPU, or a run outlived its slot"
    )
