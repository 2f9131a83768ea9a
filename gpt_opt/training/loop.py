"""One training from config to result: restore what there is, train, choose the final checkpoint, measure."""

from __future__ import annotations

import gc
import json
import logging
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import transformers
from accelerate.utils import broadcast_object_list
from torch.optim import Optimizer
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PreTrainedModel, TrainerState

from gpt_opt.records.provenance import Inputs
from gpt_opt.records.run_dir import PROGRESS_FILE
from gpt_opt.training.build import build, build_trainer
from gpt_opt.training.checkpoint_compat import checkpoint_step, require_continuable, require_resumable
from gpt_opt.training.checkpointing import (
    WEIGHTS,
    checkpoint_path,
    damaged_files,
    latest_checkpoint,
    link_final,
    remove_unfinished,
)
from gpt_opt.training.distributed import close, fresh_accelerate
from gpt_opt.training.failures import memory_advice, memory_failures_named
from gpt_opt.training.interface import Folder, Hooks, Result
from gpt_opt.training.memory import PeakMemory
from gpt_opt.training.model_selection import Best
from gpt_opt.training.optimizers import named_parameters, routing_table
from gpt_opt.training.parts import Parts
from gpt_opt.training.sharding import load_weights, sharding_of
from gpt_opt.training.trainer import ObjectiveTrainer

log = logging.getLogger(__name__)


def train(config: Mapping[str, Any], folder: Folder, hooks: Hooks, inputs: Inputs | None = None) -> Result | None:
    """Trains to the end, from the last checkpoint where there is one.

    Args:
        config: The resolved config as plain containers.
        folder: Where to write checkpoints and metrics.
        hooks: Of whoever runs the training.
        inputs: Files and modules of the run with their fingerprints, for the first process to compare and record.

    Returns:
        The result, or None when `hooks.stop_requested` ended it early, with a checkpoint.

    Raises:
        GptOptError: If the parts cannot be built, or `hooks.fence` raises.
    """
    transformers.logging.set_verbosity_warning()
    transformers.logging.disable_progress_bar()
    folder.checkpoints.mkdir(exist_ok=True)
    remove_unfinished(folder.checkpoints, folder.attempt)
    memory = PeakMemory()
    with fresh_accelerate(), _bar_friendly():
        parts = build(config, inputs)
        trainer = build_trainer(config, parts, folder, hooks, inputs)
        _log_sizes(parts, trainer.task.optimizer, config["optimizer"]["optimizer_params"]["lr"])
        params = config["training"]["training_params"]
        advice = memory_advice(params, trainer.args.per_device_train_batch_size, bool(config["lora"]))
        with memory_failures_named(trainer.forwards.describe, advice), trainer.saving:
            _run(trainer, config["training"]["finetuning"]["resume_from_checkpoint"])
        try:
            best = trainer.task.best
            if trainer.state.global_step < parts.steps and not (best and best.over):
                return None
            return Result(
                step=trainer.state.global_step,
                final_step=_choose_final(trainer),
                metrics=trainer.progress.last_metrics,
                time_s=round(trainer.progress.time_s(), 3),
                tokens=trainer.progress.tokens,
                peak_memory_mb=memory.peak_mb(),
                device=memory.device,
                data_fingerprint=parts.items.fingerprint,
                data=parts.items.report,
            )
        finally:
            del trainer, parts
            gc.collect()
            close()


def _log_sizes(parts: Parts, optimizer: Optimizer, lr: float) -> None:
    log.info(
        "%s parameters, %d training and %d validation %s (data %s), %d steps",
        f"{sum(weight.numel() for weight in parts.policy.parameters()):,}",
        len(parts.items.train),
        len(parts.items.validation),
        parts.objective.item_name,
        parts.items.fingerprint[:12],
        parts.steps,
    )
    if len(optimizer.param_groups) > 1:
        log.info("%s:\n%s", type(optimizer).__name__, routing_table(named_parameters(parts.policy), optimizer, lr))


def _choose_final(trainer: ObjectiveTrainer) -> int:
    """Returns the steps before the final checkpoint, and makes the best one final where that was asked for."""
    best, folder = trainer.task.best, trainer.task.folder.checkpoints
    if best is None or not best.keeps or best.step is None:
        return trainer.state.global_step
    if trainer.is_world_process_zero():
        link_final(folder, best.step, trainer.task.hooks.fence)
    trainer.progress.last_metrics.update(best.metrics)
    log.info("the final checkpoint is that of step %d: %s=%g", best.step, best.metric, best.metrics[best.metric])
    return best.step


def _run(trainer: ObjectiveTrainer, resume_from: str | None) -> None:
    checkpoint = _restore(trainer, resume_from)
    if checkpoint is not None and trainer.task.best is not None and trainer.task.best.over:
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        return
    trainer.precompute_reference_logps()
    if checkpoint is not None:
        trainer.forwards.secure_reference(asks=True)
    trainer.args.eval_on_start = checkpoint is None
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def _restore(trainer: ObjectiveTrainer, resume_from: str | None) -> Path | None:
    """Restores everything but what transformers restores, and drops the rows of steps that will be done again.

    Args:
        trainer: Before its first step.
        resume_from: Checkpoint of another run, for a training that has none of its own.

    Returns:
        The checkpoint that transformers is to go on from; None for a new training.

    Raises:
        ConfigError: If the checkpoint is of another model, optimizer or sharding.
        DataError: If it was trained on other data, or from other weights.
        RequestError: If there are checkpoints, but all of them are damaged.
    """
    folder, is_first = trainer.task.folder.checkpoints, trainer.is_world_process_zero()
    # As the first process sees it: a shared folder may look older elsewhere.
    found = [latest_checkpoint(folder) if is_first else None]
    if trainer.args.world_size > 1:
        broadcast_object_list(found)
    checkpoint = found[0]
    if checkpoint is None:
        if resume_from is not None:
            checkpoint = _of_another_run(trainer, Path(resume_from).absolute())
        if is_first:
            trainer.keep_until(-1)
    if checkpoint is not None:
        log.info("resuming from %s", checkpoint.name)
        _restore_progress(trainer, checkpoint)
    return checkpoint


def _of_another_run(trainer: ObjectiveTrainer, checkpoint: Path) -> Path:
    task, model = trainer.task, cast("PreTrainedModel", trainer.model)
    order, steps = task.order.settings(), trainer.args.max_steps
    require_continuable(checkpoint, model, task.optimizer, order, task.data_fingerprint, steps)
    return checkpoint


def _restore_progress(trainer: ObjectiveTrainer, checkpoint: Path) -> None:
    task, is_first = trainer.task, trainer.is_world_process_zero()
    progress = json.loads((checkpoint / PROGRESS_FILE).read_text())
    is_own, sharding = checkpoint.parent == task.folder.checkpoints, sharding_of(trainer.args)
    require_resumable(checkpoint, progress, task.data_fingerprint, task.inputs, sharding, is_own)
    if trainer.is_fsdp_enabled:  # transformers would look for files of FSDP's own, after it has sharded the weights
        load_weights(cast("PreTrainedModel", trainer.model), checkpoint)
    rank, is_alone = trainer.args.process_index, trainer.args.world_size == 1
    trainer.draws_anew = not (checkpoint / ("rng_state.pth" if is_alone else f"rng_state_{rank}.pth")).is_file()
    trainer.progress.load(progress, trainer.args.device, is_first)
    if task.best is not None and is_own:
        _restore_best(task.best, progress["best"], task.folder.checkpoints)
    if is_first:
        trainer.progress.last_metrics = trainer.keep_until(checkpoint_step(checkpoint))


def _restore_best(best: Best, state: dict[str, Any], folder: Path) -> None:
    best.load(state)
    kept = checkpoint_path(folder, best.step)
    if best.keeps and kept is not None and (not kept.is_dir() or any(damaged_files(kept, *WEIGHTS))):
        log.warning(
            "%s, the best so far, is gone or damaged: the best of the evaluations to come is kept instead", kept
        )
        best.forget()


def _bar_friendly() -> AbstractContextManager[None]:
    return logging_redirect_tqdm() if sys.stderr.isatty() else nullcontext()
