"""Training whose weights or optimizer states are sharded over the processes: FSDP of torch, ZeRO of DeepSpeed.

What both are given follows from the training keys. A checkpoint of FSDP has the files of one without it, so a run may
change between them; DeepSpeed keeps its optimizer states in files of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.optim import Optimizer
from transformers import PreTrainedModel, TrainingArguments

from gpt_opt.config.checks.batches import accumulation_steps, batch_size, micro_batch_size
from gpt_opt.errors import ConfigError, Problem
from gpt_opt.training.lazy_deepspeed import import_deepspeed
from gpt_opt.training.models.build import saved_weights
from gpt_opt.training.optimizers import with_names

_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def sharding_arguments(config: Mapping[str, Any], devices: int) -> dict[str, Any]:
    """Returns the TrainingArguments of the sharding backend: `deepspeed`, or `fsdp` and `fsdp_config`, or none.

    Args:
        config: The resolved config.
        devices: Processes of the training.

    Raises:
        ConfigError: If DeepSpeed cannot compute with the precision that was asked for on this machine.
    """
    params = config["training"]["training_params"]
    if config["deepspeed"]:
        if params["mixed_precision"] == "fp16" and not _has_fp16():
            problem = "is fp16, which DeepSpeed cannot compute on the CPU of this machine"
            fix = "take deepspeed=zero1_bf16, zero2_bf16 or zero3_bf16, a name without _fp16, or a machine with GPUs"
            raise ConfigError([Problem("training.training_params.mixed_precision", problem, fix)])
        import_deepspeed()
        return {"deepspeed": deepspeed_settings(config["deepspeed"], params, devices)}
    if config["fsdp"]:
        # Gradients that lie in the machine's memory are summed there.
        on_both = config["fsdp"]["cpu_offload"] and torch.cuda.is_available()
        backend = {"ddp_backend": "cuda:nccl,cpu:gloo"} if on_both else {}
        return {"fsdp": True, "fsdp_config": {**config["fsdp"], "version": 2}, **backend}
    return {}


def _has_fp16() -> bool:
    """Returns whether this machine computes in float16 as far as DeepSpeed is concerned; what it asks of a CPU."""
    return torch.accelerator.is_available() or bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def deepspeed_settings(deepspeed: Mapping[str, Any], params: Mapping[str, Any], devices: int) -> dict[str, Any]:
    """Returns the JSON that DeepSpeed receives, in its words (deepspeed.ai/docs/config-json).

    Optimizer and schedule are not in it: they are those of every other run, given as objects.

    Args:
        deepspeed: The group `deepspeed`.
        params: `training.training_params`.
        devices: Processes of the training.
    """
    zero = {key: value for key, value in deepspeed["zero_optimization"].items() if value is not None}
    if zero["stage"] == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True  # else a checkpoint would have no weights
    return {
        "train_batch_size": batch_size(params),
        "train_micro_batch_size_per_gpu": micro_batch_size(params, devices),
        "gradient_accumulation_steps": accumulation_steps(params, devices),
        "gradient_clipping": params["max_grad_norm"],
        "bf16": {"enabled": params["mixed_precision"] == "bf16"},
        "fp16": {"enabled": params["mixed_precision"] == "fp16"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def sharding_of(arguments: TrainingArguments) -> str | None:
    """Returns how DeepSpeed shards a training, which a checkpoint of it must keep; None without DeepSpeed."""
    settings = cast("dict[str, Any] | None", arguments.deepspeed)
    if not settings:
        return None
    return f"with ZeRO {settings['zero_optimization']['stage']} on {arguments.world_size} processes"


def prepare_fsdp(accelerator: Any, plugin: Mapping[str, Any]) -> None:
    """Makes accelerate shard a model on CPUs too, as torch can, and sum gradients in float32 whatever computes them.

    Args:
        accelerator: A fresh accelerate.Accelerator of several processes.
        plugin: What TrainingArguments made of `fsdp_config`.
    """
    if accelerator.distributed_type == DistributedType.MULTI_CPU:
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(**plugin)
    if accelerator.mixed_precision != "no":
        computed = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float16
        policy = MixedPrecisionPolicy(computed, reduce_dtype=torch.float32)
        accelerator.state.fsdp_plugin.mixed_precision_policy = policy


def shard_reference(model: PreTrainedModel, arguments: TrainingArguments, accelerator: Any) -> PreTrainedModel:
    """Shards a frozen model where FSDP or ZeRO 3 shards the weights of the trained one.

    Args:
        model: The model, on its device, in evaluation mode.
        arguments: Of the training.
        accelerator: Of the training; the reference computes with the precision of the policy.

    Returns:
        What to call instead; the model itself where it is not sharded.
    """
    if arguments.fsdp:
        offload = CPUOffloadPolicy() if cast("Any", arguments.fsdp_config)["cpu_offload"] else OffloadPolicy()
        blocks = [module for module in model.modules() if type(module).__name__ in (model._no_split_modules or ())]
        precision = accelerator.state.fsdp_plugin.mixed_precision_policy or MixedPrecisionPolicy()
        for module in (*blocks, model):
            fully_shard(module, offload_policy=offload, mp_policy=precision)
    settings = cast("dict[str, Any] | None", arguments.deepspeed)
    if settings is not None and settings["zero_optimization"]["stage"] == 3:
        import deepspeed

        zero = {key: value for key, value in settings["zero_optimization"].items() if key != "offload_optimizer"}
        kept = {key: settings[key] for key in ("train_micro_batch_size_per_gpu", "bf16", "fp16")}
        settings = {**kept, "zero_optimization": zero}
        wrapped, *_ = deepspeed.initialize(model=model, config=settings)
        return cast("PreTrainedModel", wrapped.module)
    return model


def full_weights(model: nn.Module) -> dict[str, Any]:
    """Gathers sharded weights, tied ones once; all processes call it, the first gets the result, the others nothing."""
    tied = getattr(model, "all_tied_weights_keys", ())
    return {name: value for name, value in get_model_state_dict(model, options=_FULL).items() if name not in tied}


def full_optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Gathers the state of an optimizer over sharded weights; all processes call it, the first gets the result.

    Returns:
        What `state_by_name` would be without sharding; empty in the other processes.
    """
    return cast("dict[str, Any]", get_optimizer_state_dict(model, optimizer, options=_FULL))


def load_optimizer_state(model: nn.Module, optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Gives each process its part of a state: of `full_optimizer_state`, or of an optimizer that was not sharded."""
    saved = with_names(saved, model)
    if not saved["state"]:  # as of plain SGD, for which torch has nothing to shard
        for own, theirs in zip(optimizer.param_groups, saved["param_groups"], strict=True):
            own.update({key: value for key, value in theirs.items() if key != "params"})
        return
    set_optimizer_state_dict(model, optimizer, cast("Any", saved), options=_FULL)


def load_weights(model: PreTrainedModel, checkpoint: Path) -> None:
    """Loads the weights, or the adapters, of a checkpoint into a model that is not sharded yet.

    Raises:
        ConfigError: If they are not those of the model.
    """
    if hasattr(model, "peft_config"):
        model.load_adapter(str(checkpoint), cast("Any", model).active_adapter, is_trainable=True)
        return
    missing, unexpected = model.load_state_dict(saved_weights(model, checkpoint), strict=False)
    model.tie_weights()
    if wrong := [*(name for name in missing if name not in model.all_tied_weights_keys), *unexpected]:
        problem = f"must hold the weights of the model, but {checkpoint} has others: {', '.join(wrong[:5])}"
        raise ConfigError([Problem("checkpoints", problem, "train anew: rerun=true")])
