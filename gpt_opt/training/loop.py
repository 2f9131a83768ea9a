"""One training from config to result: build everything, restore what there is, train, measure."""

from __future__ import annotations

import copy
import gc
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from accelerate.utils import broadcast_object_list
from torch.optim.lr_scheduler import LambdaLR
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from gpt_opt.config.checks.constraints import accumulation_steps, micro_batch_size
from gpt_opt.config.checks.losses import has_reference, keeps_reference
from gpt_opt.config.inputs import Inputs
from gpt_opt.errors import DataError, Problem
from gpt_opt.training.callbacks import Bar, Flow
from gpt_opt.training.checkpoint_compat import require_continuable
from gpt_opt.training.checkpointing import latest_checkpoint, link_final, remove_unfinished
from gpt_opt.training.data.collect import Data
from gpt_opt.training.data.mixture import build_dataset
from gpt_opt.training.data.order import Collate, Collator, ExampleCollator, ExampleOrder, TrainingOrder
from gpt_opt.training.data.prepare import prepare
from gpt_opt.training.data.records import Example, ExampleData, PairData
from gpt_opt.training.data.tokenize import Limits, Tokenized, start_of
from gpt_opt.training.data.unpaired import mismatched, targets, unpaired
from gpt_opt.training.distributed import close, processes
from gpt_opt.training.failures import memory_advice, memory_failures_named
from gpt_opt.training.generation import Sampler
from gpt_opt.training.instantiate import build_target, call_target, require_kind
from gpt_opt.training.interface import Folder, Hooks, Result
from gpt_opt.training.losses import KTO, SFT
from gpt_opt.training.memory import PeakMemory, estimate_mb
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
from gpt_opt.training.models.lora import add_adapters
from gpt_opt.training.objectives.trainers import KTOTrainer, PreferenceTrainer, SFTTrainer
from gpt_opt.training.optimizers import build_optimizer, lr_factor, phase_steps
from gpt_opt.training.sharding import engine_arguments
from gpt_opt.training.trainer import BaseTrainer, Task, fresh_accelerate

log = logging.getLogger(__name__)

Config = Mapping[str, Any]

_NOT_LOSS_ARGUMENTS = frozenset({"name", "use_ref_model", "ref_model_id"})


@dataclass(frozen=True)
class Parts:
    """Everything a training is made of.

    Attributes:
        tokenizer: Of policy and reference.
        policy: The model that is trained, with its adapters.
        reference: What the policy is compared with, or None.
        loss: The loss function.
        data: The texts.
        train: Tokenized training pairs or examples.
        validation: Likewise for the validation.
        limits: How long sequences may be.
        account: How many records there are, were cut, and were left out, as `Prepared` has it.
        steps: Optimizer steps of the whole training.
        collator: What makes batches for the loss.
        aligner: What makes the trainer: called with model, arguments, task, loss and reference.
        callbacks: The user's own, beside ours.
    """

    tokenizer: PreTrainedTokenizerFast
    policy: PreTrainedModel
    reference: Reference | None
    loss: Any
    data: PairData | ExampleData
    train: Sequence[Tokenized]
    validation: Sequence[Tokenized]
    limits: Limits
    account: dict[str, dict[str, int]]
    steps: int
    collator: Collate
    aligner: Callable[..., BaseTrainer]
    callbacks: list[TrainerCallback]

    @property
    def noun(self) -> str:
        """What the data consists of."""
        return "examples" if isinstance(self.data, ExampleData) else "pairs"

    def items(self, tokenized: Sequence[Tokenized]) -> Sequence[Any]:
        """Returns what the collator takes."""
        return mismatched(cast("Any", tokenized), self.limits) if isinstance(self.loss, KTO) else tokenized

    def order(self, batch_size: int, seed: int) -> TrainingOrder:
        """Returns the items of the whole training in order."""
        if isinstance(self.loss, KTO):
            return ExampleOrder(cast("Any", self.train), batch_size, self.steps, seed, self.limits)
        return TrainingOrder(self.train, batch_size, self.steps, seed)


def build(config: Config) -> Parts:
    """Builds all parts of a training; the same config gives the same parts, whatever the process did before.

    Raises:
        ConfigError: If model, tokenizer or adapters cannot be built as configured.
        DataError: If the data cannot be used.
    """
    set_seed(config["seed"] % 2**32)
    tokenizer = build_tokenizer(config["model"])
    policy = build_model(config["model"], tokenizer)
    loss_config = config["loss"]
    loss = call_target({key: value for key, value in loss_config.items() if key not in _NOT_LOSS_ARGUMENTS})
    collator, aligner = _collator(config["collator"], loss), _aligner(config["aligner"], loss)
    callbacks = [
        build_target(f"callbacks[{place}]", node, TrainerCallback) for place, node in enumerate(config["callbacks"])
    ]
    params = config["training"]["training_params"]
    require_positions(policy, params["max_length"], "model")
    if not isinstance(loss, SFT):
        without_dropout(policy)  # before there are adapters, whose own dropout is a setting of theirs
    reference = _reference(config, policy, tokenizer)
    if config["lora"]:
        policy = add_adapters(policy, config["lora"])
    data = _suited(build_dataset(config["data"]["dataset"]), loss)
    start = start_of(tokenizer) if params["add_bos"] else ()
    keep_end, completion = params["truncation"] == "keep_end", params["max_completion_length"]
    limits = Limits(params["max_length"], params["max_prompt_length"], keep_end, start, completion)
    prepared = prepare(data, tokenizer, limits)
    train, validation = prepared.train, prepared.validation
    steps = _steps(params, len(train))
    if steps < 1:
        problem = f"gives {steps} steps of {params['batch_size']} out of {len(train)}, but at least 1 is needed"
        raise DataError([Problem("training.training_params.num_epochs", problem)])
    return Parts(
        tokenizer=tokenizer,
        policy=policy,
        reference=reference,
        loss=loss,
        data=replace(data, fingerprint=prepared.fingerprint),
        train=train,
        validation=validation,
        limits=limits,
        account=prepared.account,
        steps=steps,
        collator=collator,
        aligner=aligner,
        callbacks=callbacks,
    )


def _collator(node: Config | None, loss: Any) -> Collate:
    if node is not None:
        return cast("Collate", build_target("collator", node, Collate))
    return ExampleCollator() if isinstance(loss, KTO) else Collator()


def _aligner(node: Config | None, loss: Any) -> Callable[..., BaseTrainer]:
    if node is not None:
        return cast("Callable[..., BaseTrainer]", call_target({**node, "_partial_": True}))
    if isinstance(loss, SFT):
        return SFTTrainer
    return KTOTrainer if isinstance(loss, KTO) else PreferenceTrainer


def _steps(params: Mapping[str, Any], items: int) -> int:
    """Returns the optimizer steps that max_steps, num_epochs or n_examples ask for."""
    if params["max_steps"] is not None:
        return int(params["max_steps"])
    if params["n_examples"] is not None:
        return int(params["n_examples"] // params["batch_size"])
    return int(params["num_epochs"] * (items // params["batch_size"]))


def _suited(data: Data, loss: Any) -> PairData | ExampleData:
    """Returns the data as the loss takes them: pairs, for KTO single judged answers, for SFT what is to be learned.

    Raises:
        DataError: If the data has records that the loss cannot use.
    """
    if isinstance(loss, SFT):
        return targets(data)
    single = [record for record in (*data.train, *data.validation) if isinstance(record, Example)]
    shown = [record for record in single if record.desirable is None]
    unfit = shown if isinstance(loss, KTO) else single
    if unfit:
        count = len(data.train) + len(data.validation)
        kind = "demonstrations (no rejected answer, no label)" if shown else "single judged answers"
        wants = "judged answers or pairs" if isinstance(loss, KTO) else "pairs of a chosen and a rejected answer"
        first = f", the first: {unfit[0].place}" if unfit[0].place else ""
        problem = f"must give {wants} for this loss, but {len(unfit):,} of {count:,} rows are {kind}{first}"
        fix = "take loss=sft, which learns from demonstrations" if shown else "take loss=kto, which needs no pairs"
        raise DataError([Problem("data.dataset", problem, f"{fix}, or data with {wants}")])
    if not isinstance(loss, KTO):
        return cast("PairData", data)
    judged = unpaired(data)
    good = sum(bool(example.desirable) for example in judged.train)
    bad = len(judged.train) - good
    weighted = loss.desirable_weight * good, loss.undesirable_weight * bad
    log.info("%d desirable and %d undesirable answers, %g to %g with their weights", good, bad, *weighted)
    return judged


def _reference(config: Config, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Reference | None:
    loss = config["loss"]
    if not has_reference(config):
        return None
    if not keeps_reference(config):
        return Reference(None)
    name, how = loss.get("ref_model_id"), config["model"]
    dtype = how.get("reference_dtype", how.get("policy_dtype"))
    if name is None:
        model = cast_weights(copy.deepcopy(policy), dtype)
    else:
        trusted, attention = how.get("trust_remote_code", False), how.get("attn_implementation")
        model = from_pretrained(name, trusted, dtype, attention, key="loss.ref_model_id")
        require_tokens("loss.ref_model_id", name, model, tokenizer)
        require_positions(model, config["training"]["training_params"]["max_length"], "reference model")
    return Reference(cast("PreTrainedModel", without_dropout(model)))


def _arguments(config: Config, parts: Parts, folder: Folder, devices: int) -> TrainingArguments:
    params = config["training"]["training_params"]
    micro = micro_batch_size(params, devices)
    return TrainingArguments(
        output_dir=str(folder.checkpoints),
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=params["eval_batch_size"] or micro,
        gradient_accumulation_steps=accumulation_steps(params, devices),
        max_steps=parts.steps,
        max_grad_norm=params["max_grad_norm"],
        bf16=params["mixed_precision"] == "bf16",
        fp16=params["mixed_precision"] == "fp16",
        activation_checkpointing=params["gradient_checkpointing"],
        torch_compile=params["compile"],
        logging_steps=params["log_every"],
        save_strategy="steps",
        save_steps=params["save_every"],
        eval_strategy="no",  # gpt_opt.training.callbacks.Flow decides when to evaluate
        train_sampling_strategy="sequential",  # the order is in the data set itself
        seed=config["seed"] % 2**32,
        remove_unused_columns=False,
        use_cpu=not torch.accelerator.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        **engine_arguments(config, devices),
    )


def _trainer(config: Config, parts: Parts, folder: Folder, hooks: Hooks, inputs: Inputs | None = None) -> BaseTrainer:
    params, optimizer_params = config["training"]["training_params"], config["optimizer"]["optimizer_params"]
    arguments = _arguments(config, parts, folder, processes())
    if arguments.world_size == 1 and arguments.n_gpu > 1:
        # transformers would split batches with DataParallel and so multiply them by the number of GPUs.
        log.info("using 1 of the %d GPUs that this process sees; torchrun uses them all", arguments.n_gpu)
        arguments._n_gpu = 1
    if config["fsdp"] and params["mixed_precision"] != "no":
        for weight in parts.policy.parameters():  # as FSDP is about to: a resume must find the type that was saved
            weight.data = weight.data.float() if weight.requires_grad else weight.data
    optimizer = build_optimizer(optimizer_params, parts.policy)
    first = phase_steps(parts.steps, optimizer_params["warm_up_fraction"], params["warmup_steps"])
    schedule, steps = optimizer_params["lr_schedule"], parts.steps
    task = Task(
        order=parts.order(params["batch_size"], config["seed"]),
        validation=parts.items(parts.validation),
        collator=parts.collator,
        optimizer=optimizer,
        schedule=LambdaLR(optimizer, lambda step: lr_factor(schedule, step, first, steps)),
        save_total_limit=params["save_total_limit"],
        folder=folder,
        hooks=hooks,
        data_fingerprint=parts.data.fingerprint,
        inputs=inputs or {},
        best=best_of(config["training"]["finetuning"]),
        sampler=_sampler(config, parts, arguments.per_device_eval_batch_size),
    )
    trainer = parts.aligner(parts.policy, arguments, task, parts.loss, parts.reference)
    require_kind("aligner", config["aligner"] or {}, trainer, BaseTrainer)
    return trainer


def _sampler(config: Config, parts: Parts, batch_size: int) -> Sampler | None:
    settings = config["training"]["sampling"]
    return Sampler(settings, parts, batch_size, config["seed"] % 2**32) if settings["sample_during_eval"] else None


def train(config: Config, folder: Folder, hooks: Hooks, inputs: Inputs | None = None) -> Result | None:
    """Trains to the end, from the last checkpoint where there is one.

    Args:
        config: The resolved config as plain containers.
        folder: Where to write checkpoints and metrics.
        hooks: Whom to tell and ask.
        inputs: Files and modules of the run with their fingerprints, for the first process to compare and record.

    Returns:
        The result, or None when `hooks.stop_requested` ended it early, with a checkpoint.

    Raises:
        GptOptError: If the parts cannot be built, or `hooks.fence` raises.
    """
    transformers.logging.set_verbosity_warning()
    transformers.logging.disable_progress_bar()
    folder.checkpoints.mkdir(exist_ok=True)
    remove_unfinished(folder.checkpoints)
    memory = PeakMemory()
    with fresh_accelerate(), _bar_friendly():
        parts = build(config)
        trainer = _trainer(config, parts, folder, hooks, inputs)
        params = config["training"]["training_params"]
        trainer.add_callback(Flow(hooks, params["eval_every"], trainer.on_any, trainer.require_finite_step))
        trainer.add_callback(Bar())
        for callback in parts.callbacks:
            trainer.add_callback(callback)
        log.info(
            "%s parameters, %d training and %d validation %s (data %s), %d steps",
            f"{sum(item.numel() for item in parts.policy.parameters()):,}",
            len(parts.train),
            len(parts.validation),
            parts.noun,
            parts.data.fingerprint[:12],
            parts.steps,
        )
        advice = memory_advice(params, trainer.args.per_device_train_batch_size, bool(config["lora"]))
        with memory_failures_named(trainer.batch, advice):
            _run(trainer, _checkpoint(trainer, folder), config["training"]["finetuning"]["resume_from_checkpoint"])
        close()
        try:
            best = trainer.task.best
            if trainer.state.global_step < parts.steps and not (best and best.over):
                return None
            return Result(
                step=trainer.state.global_step,
                final_step=_choose_final(trainer),
                metrics=trainer.last_metrics,
                time_s=round(trainer.time_s(), 3),
                tokens=trainer.tokens,
                peak_memory_mb=memory.peak_mb(),
                device=memory.device,
                data_fingerprint=parts.data.fingerprint,
                data=parts.account,
            )
        finally:
            del trainer, parts
            gc.collect()


def _checkpoint(trainer: BaseTrainer, folder: Folder) -> Path | None:
    """Returns the checkpoint to resume from as the first process sees it: a shared folder may look older elsewhere."""
    found = [latest_checkpoint(folder.checkpoints) if trainer.is_world_process_zero() else None]
    if trainer.args.world_size > 1:
        broadcast_object_list(found)
    return found[0]


def _choose_final(trainer: BaseTrainer) -> int:
    """Returns the steps before the final checkpoint, and hands over the best one where that was asked for."""
    best, folder = trainer.task.best, trainer.task.folder.checkpoints
    if best is None or not best.keeps or best.step is None:
        return trainer.state.global_step
    if trainer.is_world_process_zero():
        trainer.task.hooks.fence()
        link_final(folder, best.step)
    trainer.last_metrics.update(best.metrics)
    log.info("the final checkpoint is that of step %d: %s=%g", best.step, best.metric, best.metrics[best.metric])
    return best.step


def _run(trainer: BaseTrainer, checkpoint: Path | None, start: str | None) -> None:
    if checkpoint is None and start is not None:
        checkpoint = Path(start).absolute()
        model, task = cast("PreTrainedModel", trainer.model), trainer.task
        order, steps = task.order.settings(), trainer.args.max_steps
        require_continuable(checkpoint, model, task.optimizer, order, task.data_fingerprint, steps)
        if trainer.is_world_process_zero():
            trainer.keep_until(-1)
    if checkpoint is None:
        if trainer.is_world_process_zero():
            trainer.keep_until(-1)
        trainer.args.eval_on_start = True
        trainer.train()
        return
    log.info("resuming from %s", checkpoint.name)
    trainer.restore_progress(checkpoint)
    if trainer.task.best is not None and trainer.task.best.over:
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        return
    trainer.train(resume_from_checkpoint=str(checkpoint))


def _bar_friendly() -> AbstractContextManager[None]:
    return logging_redirect_tqdm() if sys.stderr.isatty() else nullcontext()


def describe(config: Config) -> str:
    """Builds all parts without training and returns their sizes as lines of text.

    Raises:
        GptOptError: As `build`.
    """
    parts = build(config)
    params = config["training"]["training_params"]
    total = sum(item.numel() for item in parts.policy.parameters())
    trained = sum(item.numel() for item in parts.policy.parameters() if item.requires_grad)
    optimizer = build_optimizer(config["optimizer"]["optimizer_params"], parts.policy)
    order = parts.order(params["batch_size"], config["seed"])
    rows_of_items = [parts.collator.rows(item) for item in parts.items(parts.train)]
    lengths = [len(prompt) + len(answer) for item in rows_of_items for prompt, answer in item]
    tokens, longest = int(sum(lengths) / len(parts.train) * len(order)), max(lengths)
    sequences, mixed = micro_batch_size(params) * len(rows_of_items[0]), params["mixed_precision"] != "no"
    rows = {
        "parameters": f"{total:,} ({trained:,} trained)",
        "optimizer": f"{type(optimizer).__name__}, {config['optimizer']['optimizer_params']['lr_schedule']}",
        "data": f"{len(parts.train):,} training and {len(parts.validation):,} validation {parts.noun}",
        "steps": f"{parts.steps:,} of {params['batch_size']} ({len(order) / len(parts.train):.2f} epochs)",
        "tokens": f"{tokens:,} in all, {longest} in the longest sequence",
        "peak memory": f"about {estimate_mb(parts, sequences, longest, mixed):,.0f} MiB (estimated)",
    }
    return "\n".join(f"{name:<14} {text}" for name, text in rows.items())
