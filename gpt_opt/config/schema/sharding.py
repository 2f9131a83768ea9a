"""The groups `deepspeed` and `fsdp`: their types, the variants that are put together of parts, what must hold."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from hydra.core.config_store import ConfigStore

from gpt_opt.errors import Problem


@dataclass
class Offload:
    """Where something is that is not on the GPU."""

    device: str
    pin_memory: bool


@dataclass
class ZeroOptimization:
    """What DeepSpeed divides, and how."""

    stage: int
    overlap_comm: bool
    contiguous_gradients: bool
    reduce_bucket_size: int
    allgather_bucket_size: int
    offload_optimizer: Offload | None


@dataclass
class Zero3Optimization(ZeroOptimization):
    """Likewise, with the weights."""

    stage3_prefetch_bucket_size: int
    stage3_param_persistence_threshold: int
    offload_param: Offload | None


@dataclass
class Zero:
    """deepspeed=zero1 and deepspeed=zero2."""

    zero_optimization: ZeroOptimization


@dataclass
class Zero3:
    """deepspeed=zero3."""

    zero_optimization: Zero3Optimization


@dataclass
class FSDP:
    """fsdp=full_shard and fsdp=shard_grad_op."""

    reshard_after_forward: bool
    cpu_offload: bool


ENGINE_SCHEMAS: dict[str, type] = {"deepspeed/zero": Zero, "deepspeed/zero3": Zero3, "fsdp/fsdp": FSDP}
"""Schema of each option, by its path below the group `schema`."""


def register_variants() -> None:
    """Makes zero1_offload, zero2_cosine, zero3_offload_bf16 ... options of deepspeed, each a stage and some parts."""
    choices = itertools.product(("zero1", "zero2", "zero3"), ("", "offload"), ("", "cosine"), ("", "fp16", "bf16"))
    for stage, offload, *others in choices:
        parts = ["part/offload@_here_"] if offload else []
        parts += ["part/offload_param@_here_"] if offload and stage == "zero3" else []
        parts += [f"part/{part}" for part in others if part]
        if parts:
            name = "_".join(filter(None, [stage, offload, *others]))
            ConfigStore.instance().store(group="deepspeed", name=name, node={"defaults": [stage, *parts]})


def engine_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks that one engine at most is asked for, that it is installed, and that it can do what the others ask."""
    deepspeed, fsdp = config["deepspeed"], config["fsdp"]
    if deepspeed and fsdp:
        yield Problem("fsdp", "and deepspeed both divide the training, so one of them must be none", "set fsdp=none")
    if (deepspeed or fsdp) and config["training"]["training_params"]["compile"]:
        problem = "must be false where a training is divided: deepspeed and fsdp cannot compile here"
        yield Problem("training.training_params.compile", problem, "leave it false, or set deepspeed and fsdp to none")
    if deepspeed and find_spec("deepspeed") is None:
        problem = "needs the package deepspeed: pip install 'gpt-opt[deepspeed]'"
        yield Problem("deepspeed", problem, f"the Python that lacks it is {sys.executable}")
