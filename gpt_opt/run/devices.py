"""Which GPUs a run that is started by hand uses: `gpu.device_ids` and `gpu.use_ddp`.

The runs of a sweep get theirs from the slot that starts them (`gpt_opt.dispatch.slot.gpus`).
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

from gpt_opt.config.checks.batches import batch_problems
from gpt_opt.errors import ConfigError, Problem
from gpt_opt.records.provenance import DEVICES, gpus
from gpt_opt.run.ranks import under_torchrun

log = logging.getLogger(__name__)

SWEEP = "GPTOPT_SWEEP"
"""Environment variable of a run of a sweep: the sweep's name, by which trackers group its runs."""

_STARTED = "GPTOPT_TORCHRUN"
"""Environment variable of the processes of a torchrun that `start_processes` became: their GPUs are chosen already."""

_chosen: list[str] = []
"""What the last `chosen_devices` of this process showed to CUDA."""

SHUTDOWN = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600"}
"""What torchrun is told: its own 30 s between SIGTERM and SIGKILL may cut a checkpoint short."""


def nvidia_smi() -> dict[str, str]:
    """Returns index -> UUID of the GPUs that this process may use."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        log.warning("nvidia-smi did not answer within 60 s: GPUs are told apart by their index alone")
        return {}
    rows = [line.split(",") for line in done.stdout.splitlines() if done.returncode == 0]
    return {row[0].strip(): row[1].strip() for row in rows if len(row) == 2}


def visible(environment: Mapping[str, str]) -> list[str]:
    """Returns the devices of this slot as CUDA_VISIBLE_DEVICES names them; without Slurm, all of this machine."""
    if DEVICES in environment:
        return gpus(environment)
    return [] if "SLURM_JOB_ID" in environment else list(nvidia_smi())


def device_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yields why this process cannot use the GPUs that a run asks for."""
    ids, ddp = config["gpu"]["device_ids"], config["gpu"]["use_ddp"]
    if _STARTED in os.environ or (ids is None and not ddp):
        return
    if SWEEP in os.environ:
        yield from sweep_device_problems(config)
    elif ids is not None and under_torchrun():
        fix = f"leave torchrun out: gpu.use_ddp=true starts it; or set {DEVICES} for torchrun instead"
        yield Problem("gpu.device_ids", "must be null under torchrun, whose processes see their GPUs already", fix)
    elif ids is not None:
        yield from _invisible(ids)


def sweep_device_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yields what of the group gpu a run of a sweep must not say: its slot gives it GPUs."""
    for key, default in {"device_ids": None, "use_ddp": False}.items():
        if config["gpu"][key] != default:
            problem = f"must be {'null' if default is None else 'false'} in a sweep, whose slots give each run its GPUs"
            fix = "leave it out; resources.gpus_per_run=N is how many a run gets, of several it uses all"
            yield Problem(f"gpu.{key}", problem, fix)


def _invisible(ids: Sequence[int]) -> Iterator[Problem]:
    devices = visible(os.environ)
    if bad := [index for index in ids if index >= len(devices)]:
        valid = f"0 to {len(devices) - 1}" if devices else "none, since no GPU is visible"
        problem = f"must be indices of visible GPUs, here {valid}, but has {', '.join(map(str, bad))}"
        yield Problem("gpu.device_ids", problem, f"see nvidia-smi -L and {DEVICES}; null takes what there is")
        return
    torch, names = sys.modules.get("torch"), _names(ids, devices)
    if torch is not None and torch.cuda.is_initialized() and names not in _chosen:
        problem = f"must be chosen before CUDA is used, but this process has used it already; asked for {list(ids)}"
        yield Problem("gpu.device_ids", problem, f"start Python with {DEVICES}={names}, or leave it null")


def _names(ids: Sequence[int], devices: Sequence[str]) -> str:
    return ",".join(devices[index] for index in ids)


@contextmanager
def chosen_devices(config: Mapping[str, Any]) -> Iterator[None]:
    """Lets CUDA see the GPUs of `gpu.device_ids` alone; CUDA looks once, when it is first used."""
    ids, before = config["gpu"]["device_ids"], os.environ.get(DEVICES)
    if ids is None or _STARTED in os.environ:
        yield
        return
    _chosen[:] = [_names(ids, visible(os.environ))]
    os.environ[DEVICES] = _chosen[0]
    try:
        yield
    finally:
        os.environ.pop(DEVICES)
        if before is not None:
            os.environ[DEVICES] = before


def wants_torchrun(config: Mapping[str, Any]) -> int:
    """Returns the processes that a run is to have under a torchrun that is not there yet; 0 where it needs none."""
    ids = config["gpu"]["device_ids"]
    if not config["gpu"]["use_ddp"] or under_torchrun() or config["dry_run"]:
        return 0
    count = len(visible(os.environ) if ids is None else ids)
    return max(count, 1) if count > 1 or config["deepspeed"] or config["fsdp"] else 0


def start_processes(configs: Sequence[Mapping[str, Any]], program: Sequence[str], multirun: bool) -> None:
    """Becomes torchrun where `gpu.use_ddp` asks for it; the same process id gets signals and has the exit code.

    Args:
        configs: The resolved config of every run that was asked for.
        program: What each process is to run, with its arguments.
        multirun: Whether they are the runs of a sweep, which this process makes one after the other.

    Raises:
        ConfigError: If this machine does not have what a run asks for.
    """
    problems: dict[Problem, None] = {}
    for config in configs:
        problems |= dict.fromkeys(device_problems(config))
        if (count := wants_torchrun(config)) and multirun:
            fix = "gptopt submit FILE --gpus-per-run N makes each run of a sweep on N GPUs"
            problems[Problem("gpu.use_ddp", "must be false with --multirun: torchrun makes one run", fix)] = None
        elif count:
            problems |= dict.fromkeys(batch_problems(config["training"]["training_params"], count))
    if len({str(config["gpu"]["device_ids"]) for config in configs}) > 1:
        problem = "must be the same for all runs of a sweep: one process makes them all"
        problems[Problem("gpu.device_ids", problem)] = None
    if problems:
        raise ConfigError(list(problems), ", nothing was started")
    if multirun or not configs or not (count := wants_torchrun(configs[0])):
        return
    environment: MutableMapping[str, str] = {**SHUTDOWN, **os.environ, _STARTED: "1"}
    if (ids := configs[0]["gpu"]["device_ids"]) is not None:
        environment[DEVICES] = _names(ids, visible(os.environ))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    sys.stdout.flush()
    os.execve(sys.executable, [*torchrun, *program], environment)
