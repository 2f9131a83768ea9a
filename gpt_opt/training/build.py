"""From a resolved config to the parts of a training, and to the trainer that puts them together."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import astuple
from functools import partial
from typing import Any, Literal, cast

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from gpt_opt.config.cache import VARIABLE, cache_folder
from gpt_opt.config.checks.batches import (
    accumulation_steps,
    batch_size,
    micro_batch_size,
    prompt_length,
    sequence_length,
)
from gpt_opt.config.checks.losses import keeps_reference, precomputes
from gpt_opt.config.inputs import module_inputs
from gpt_opt.config.nested import Config
from gpt_opt.config.schedules import lr_factor, phases_of
from gpt_opt.errors import DataError, Problem
from gpt_opt.records.provenance import Inputs
from gpt_opt.training.callbacks import EvalSaveCallback, ProgressBar
from gpt_opt.training.data.item_cache import items_once
from gpt_opt.training.data.order import Collate
from gpt_opt.training.data.prepare import Items
from gpt_opt.training.data.tokenize import SequenceLimits, leading_special_tokens
from gpt_opt.training.distributed import process_count
from gpt_opt.training.generation import GenerationCallback, generator_of
from gpt_opt.training.instantiate import build_target, call_target, require_kind
from gpt_opt.training.interface import Folder, Hooks
from gpt_opt.training.model_selection import best_of
from gpt_opt.training.models.build import (
    Reference,
    build_model,
    build_tokenizer,
    cast_weights,
    from_pretrained,
    require_positions,
    require_tokens,
    without_dropout,
)
from gpt_opt.training.models.fingerprint import fingerprint
from gpt_opt.training.models.lora import add_adapters
from gpt_opt.training.models.mup import optimizer_with_rates
from gpt_opt.training.objectives import Objective, objective_of
from gpt_opt.training.optimizers.evaluation_weights import EvaluationWeights
from gpt_opt.training.parts import Parts
from gpt_opt.training.reference_logps import reference_logps_of
from gpt_opt.training.sharding import sharding_arguments
from gpt_opt.training.trainer import ObjectiveTrainer, Task

log = logging.getLogger(__name__)

_NOT_LOSS_ARGUMENTS = frozenset({"name", "use_ref_model", "ref_model_id", "precompute_ref_log_probs"})


def build(config: Config, inputs: Inputs | None = None) -> Parts:
    """Builds all parts of a training; the same config gives the same parts, whatever the process did before.

    Args:
        config: The resolved config.
        inputs: Files and modules of the run with their fingerprints: by them items that were made before are found.

    Raises:
        ConfigError: If model, tokenizer or adapters cannot be built as configured.
        DataError: If the data cannot be used.
    """
    set_seed(config["seed"] % 2**32)
    tokenizer = build_tokenizer(config["model"])
    policy = build_model(config["model"], tokenizer)
    objective = _objective(config, tokenizer)
    node = config["collator"]
    collator: Collate = objective.collator() if node is None else build_target("collator", node, Collate)
    callbacks = [
        build_target(f"callbacks[{index}]", node, TrainerCallback) for index, node in enumerate(config["callbacks"])
    ]
    params = config["training"]["training_params"]
    require_positions(policy, sequence_length(params), "model")
    if not objective.keeps_dropout:
        without_dropout(policy)  # before there are adapters, whose own dropout is a setting of theirs
    reference = _reference(config, policy, tokenizer, objective) if objective.uses_reference(config) else None
    if config["lora"]:
        policy = add_adapters(policy, config["lora"])
    items = _items(config, objective, tokenizer, inputs)
    steps = _steps(params, len(items.train))
    return Parts(tokenizer, policy, reference, objective, items, steps, collator, callbacks)


_TRUNCATION_SIDES: Mapping[str, Literal["left", "right"] | None] = {
    "keep_start": "right",
    "keep_end": "left",
    "drop": None,
}


def _objective(config: Config, tokenizer: PreTrainedTokenizerFast) -> Objective:
    loss = call_target({key: value for key, value in config["loss"].items() if key not in _NOT_LOSS_ARGUMENTS})
    params, node = config["training"]["training_params"], config["aligner"]
    side = _TRUNCATION_SIDES[params["truncation"]]
    special = leading_special_tokens(tokenizer) if params["add_bos"] else ()
    lengths = sequence_length(params), prompt_length(params)
    limits = SequenceLimits(*lengths, side, special, params["max_completion_length"])
    if node is None:
        return objective_of(loss)(loss, limits)
    made = call_target({**node, "_partial_": True})(loss, limits)
    objective: Objective = require_kind("aligner", node, made, Objective)
    return objective


def _items(config: Config, objective: Objective, tokenizer: PreTrainedTokenizerFast, inputs: Inputs | None) -> Items:
    kind, settings = type(objective), objective.items_settings()
    if inputs is None or settings is None or not kind.__module__.startswith("gpt_opt."):
        return objective.items(config, tokenizer)
    follow_from = [kind.__qualname__, settings, astuple(objective.limits)]
    make = partial(objective.items, config, tokenizer)
    return items_once(make, config["data"]["dataset"], inputs, tokenizer, follow_from)


def _steps(params: Mapping[str, Any], items: int) -> int:
    """Returns the optimizer steps that max_steps, num_epochs or n_examples ask for.

    Raises:
        DataError: If that is none.
    """
    batch = batch_size(params)
    if params["max_steps"] is not None:
        steps = int(params["max_steps"])
    elif params["n_examples"] is not None:
        steps = int(params["n_examples"] // batch)
    else:
        steps = int(params["num_epochs"] * (items // batch))
    if steps < 1:
        problem = f"gives {steps} steps of {batch} out of {items}, but at least 1 is needed"
        raise DataError([Problem("training.training_params.num_epochs", problem)])
    return steps


def _reference(
    config: Config, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, objective: Objective
) -> Reference:
    if not keeps_reference(config):
        fingerprint = _fingerprint(config, policy, objective, own_model=False)
        return Reference(None, fingerprint, is_initial=True, is_base=True)
    name, how = config["loss"].get("ref_model_id"), config["model"]
    dtype = how.get("reference_dtype", how.get("policy_dtype"))
    alike = dtype is None or {item.dtype for item in policy.parameters()} == {getattr(torch, dtype)}
    # With adapters, whose model is made of the policy itself, it is no more what the reference is.
    changes = objective.keeps_dropout or config["lora"] or config["training"]["training_params"]["compile"]
    if name is None and alike and not changes and (known := _fingerprint(config, policy, objective, own_model=True)):
        return Reference(None, known, is_initial=True, is_policy=True)
    if name is None:
        model = cast_weights(copy.deepcopy(policy), dtype)
    else:
        trusted, attention = how.get("trust_remote_code", False), how.get("attn_implementation")
        model = from_pretrained(name, trusted, dtype, attention, key="loss.ref_model_id")
        require_tokens("loss.ref_model_id", name, model, tokenizer)
        require_positions(model, sequence_length(config["training"]["training_params"]), "reference model")
    model = cast("PreTrainedModel", without_dropout(model))
    known = _fingerprint(config, model, objective, own_model=True)
    is_initial = model.dtype == policy.dtype and name is None
    if known is not None and name is not None:  # which may name the weights that the policy starts from
        is_initial = known == _fingerprint(config, policy, objective, own_model=True)
    return Reference(model, known, is_initial)


def _fingerprint(config: Config, model: PreTrainedModel, objective: Objective, own_model: bool) -> str | None:
    """Returns the fingerprint of a reference whose log-probabilities the steps read; None where it computes in each.

    Args:
        config: The resolved config.
        model: The reference, on the CPU, without adapters.
        objective: Of the training.
        own_model: Whether it is a model of its own, not that of the policy.
    """
    if not precomputes(config) or config["loss"].get("reference_free"):
        return None
    if config["fsdp"] or config["deepspeed"]:
        reason = "weights are sharded"
    elif config["collator"] is not None or config["aligner"] is not None:
        reason = "what is in a batch is decided by a collator or an aligner of the user's own"
    elif objective.keeps_dropout and not own_model:
        reason = "the policy keeps its dropout, and is the reference without its adapters"
    elif cache_folder("reference") is None:
        reason = f"there is no cache, {VARIABLE} is empty"
    else:
        code = module_inputs(config["model"]["_target_"])  # the files that those of the model's classes import, too
        return f"{fingerprint(model)} {sorted(item['sha256'] for item in code.values())}"
    log.info("the reference computes in every step, whatever loss.precompute_ref_log_probs says: %s", reason)
    return None


def build_trainer(
    config: Config, parts: Parts, folder: Folder, hooks: Hooks, inputs: Inputs | None = None
) -> ObjectiveTrainer:
    """Puts the parts of a training together.

    Args:
        config: The resolved config.
        parts: What `build` made of it.
        folder: Where to write.
        hooks: Of whoever runs the training.
        inputs: Files and modules of the run with their fingerprints.

    Raises:
        GptOptError: If optimizer, sharding or generations cannot be had as configured.
    """
    params, optimizer_params = config["training"]["training_params"], config["optimizer"]["optimizer_params"]
    arguments = _arguments(config, parts.steps, folder)
    if config["fsdp"] and params["mixed_precision"] != "no":
        for weight in parts.policy.parameters():  # as FSDP is about to: a resume must find the type that was saved
            weight.data = weight.data.float() if weight.requires_grad else weight.data
    optimizer = optimizer_with_rates(optimizer_params, parts.policy)
    phases = phases_of(optimizer_params, params["warmup_steps"], parts.steps)
    order = parts.order(config)
    task = Task(
        order=order,
        validation=parts.objective.arrange(parts.items.validation),
        collator=parts.collator,
        optimizer=optimizer,
        schedule=LambdaLR(optimizer, lambda step: lr_factor(optimizer_params["lr_schedule"], step, phases)),
        save_total_limit=params["save_total_limit"],
        folder=folder,
        hooks=hooks,
        data_fingerprint=parts.items.fingerprint,
        inputs=inputs or {},
        best=best_of(config["training"]["finetuning"]),
        evaluation_weights=EvaluationWeights(optimizer, params["ema_decay"]),
        precomputes=precomputes(config),
        reference_logps=reference_logps_of(params, parts, order),
    )
    generator = generator_of(config, parts, arguments.per_device_eval_batch_size)
    trainer = ObjectiveTrainer(parts.policy, arguments, task, parts.objective, parts.reference)
    generation = [GenerationCallback(generator, trainer)] if generator is not None else []
    for callback in (EvalSaveCallback(trainer, params["eval_every"]), ProgressBar(), *generation, *parts.callbacks):
        trainer.add_callback(callback)
    return trainer


def _arguments(config: Config, steps: int, folder: Folder) -> TrainingArguments:
    params, devices = config["training"]["training_params"], process_count()
    micro = micro_batch_size(params, devices)
    arguments = TrainingArguments(
        output_dir=str(folder.checkpoints),
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=params["eval_batch_size"] or micro,
        gradient_accumulation_steps=accumulation_steps(params, devices),
        max_steps=steps,
        max_grad_norm=params["max_grad_norm"],
        bf16=params["mixed_precision"] == "bf16",
        fp16=params["mixed_precision"] == "fp16",
        activation_checkpointing=params["gradient_checkpointing"],
        torch_compile=params["compile"],
        logging_steps=params["log_every"],
        save_strategy="steps",
        save_steps=params["save_every"],
        eval_strategy="no",  # gpt_opt.training.callbacks.EvalSaveCallback decides when to evaluate
        train_sampling_strategy="sequential",  # the order is in the data set itself
        seed=config["seed"] % 2**32,
        remove_unused_columns=False,
        use_cpu=not torch.accelerator.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        **sharding_arguments(config, devices),
    )
    if arguments.world_size == 1 and arguments.n_gpu > 1:
        # transformers would split batches with DataParallel and so multiply them by the number of GPUs.
        log.info("using 1 of the %d GPUs that this process sees; torchrun uses them all", arguments.n_gpu)
        arguments._n_gpu = 1
    return arguments
