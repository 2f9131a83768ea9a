"""The groups `deepspeed` and `fsdp`: their types, and the variants that are put together of parts."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore


@dataclass
class Offload:
    """Where something is that is not on the GPU."""

    device: str
    pin_memory: bool


@dataclass
class ZeroOptimization:
    """What DeepSpeed shards, and how."""

    stage: int
    overlap_comm: bool
    contiguous_gradients: bool
    reduce_bucket_size: int
    allgather_bucket_size: int
    offload_optimizer: Offload | None


@dataclass
class Zero3Optimization(ZeroOptimization):
    """What stage 3 shards, which is the weights too."""

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


SHARDING_SCHEMAS: dict[str, type] = {"deepspeed/zero": Zero, "deepspeed/zero3": Zero3, "fsdp/fsdp": FSDP}
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
