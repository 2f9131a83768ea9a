"""Peak memory: measured in a run, estimated before one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from torch import nn
from transformers import PreTrainedModel

from gpt_opt.records.process import memory_cgroups

_MIB = 1 << 20


class PeakMemory:
    """The largest memory since this object was made: allocated GPU memory, or the process's resident set."""

    def __init__(self) -> None:
        self._cuda = torch.cuda.is_available()
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            _reset_resident_peak()

    @property
    def device(self) -> str:
        """Name of the device that is measured."""
        return torch.cuda.get_device_name() if self._cuda else "cpu"

    def peak_mb(self) -> float:
        """Returns the peak in MiB; 0 where the system does not tell."""
        return round(torch.cuda.max_memory_allocated() / _MIB if self._cuda else _resident_peak_kib() / 1024, 1)


def _reset_resident_peak() -> None:
    """Makes Linux measure the peak anew (proc(5): writing 5 to clear_refs); elsewhere it stays the process's own."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _resident_peak_kib() -> int:
    """Returns the peak since it was reset; psutil has none, and that of getrusage is never reset."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def host_room() -> int:
    """Returns how many bytes this process can still take: of the machine, and of every memory cgroup that it is in."""
    return min([psutil.virtual_memory().available, *_cgroup_rooms()])


def _cgroup_rooms() -> Iterator[int]:
    """Yields limit less use of the cgroups that have a limit; of the files in memory those in use count."""
    names = {1: ("limit_in_bytes", "usage_in_bytes", "total_inactive_file"), 2: ("max", "current", "inactive_file")}
    for version, root, folder in memory_cgroups():
        limits, uses, unused = names[version]
        for place in (folder, *folder.parents[: len(folder.parts) - len(root.parts)]):
            with suppress(OSError, ValueError, KeyError):  # the root has no files; without a limit it says max
                limit, used = (int((place / f"memory.{name}").read_text()) for name in (limits, uses))
                stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
                yield limit - used + int(stat[unused])


def bytes_of(weights: Iterable[nn.Parameter]) -> int:
    """Returns the memory that weights take."""
    return sum(item.nbytes for item in weights)


def estimate_mb(
    policy: PreTrainedModel, reference: PreTrainedModel | None, rows: int, width: int, mixed_precision: bool
) -> float:
    """Estimates the peak memory of training in MiB.

    Weights of policy and reference; gradients and two optimizer states, each as large as the weights that are trained;
    the logits with their gradient in float32; for activations 34 bytes a token, layer and unit of width (Korthikanti et
    al. 2022, arXiv 2205.05198, eq. 1 without the attention matrix), twice that where they have 4 bytes, not 2. A config
    without width or depth leaves the last out.

    Args:
        policy: What is trained.
        reference: A frozen model beside it.
        rows: Sequences in one forward.
        width: Tokens in the longest sequence.
        mixed_precision: Whether activations have 16 bits whatever the weights have.
    """
    weights = bytes_of(policy.parameters())
    trained = bytes_of(item for item in policy.parameters() if item.requires_grad)
    frozen = bytes_of(reference.parameters()) if reference is not None else 0
    config = policy.config
    value = 2 if mixed_precision else policy.dtype.itemsize
    width_of_layers = getattr(config, "hidden_size", 0) * getattr(config, "num_hidden_layers", 0)
    activations = 34 * value // 2 * rows * width * width_of_layers
    logits = 2 * 4 * rows * width * config.vocab_size
    return float(weights + frozen + 3 * trained + activations + logits) / _MIB
