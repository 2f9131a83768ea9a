"""One training from config to result: restore what there is, train, choose the final checkpoint, measure."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import transformers
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import TrainerState

from gpt_opt.config.inputs import Inputs
from gpt_opt.training.build import Parts, build, build_trainer
from gpt_opt.training.checkpointing import link_final, remove_unfinished
from gpt_opt.training.distributed import close, fresh_accelerate
from gpt_opt.training.failures import memory_advice, memory_failures_named
from gpt_opt.training.interface import Folder, Hooks, Result
from gpt_opt.training.memory import PeakMemory
from gpt_opt.training.restore import restore
from gpt_opt.training.trainer import ObjectiveTrainer

log = logging.getLogger(__name__)

Config = Mapping[str, Any]


def train(config: Config, folder: Folder, hooks: Hooks, inputs: Inputs | None = None) -> Result | None:
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
    remove_unfinished(folder.checkpoints)
    memory = PeakMemory()
    with fresh_accelerate(), _bar_friendly():
        parts = build(config)
        trainer = build_trainer(config, parts, folder, hooks, inputs)
        _log_sizes(parts)
        params = config["training"]["training_params"]
        advice = memory_advice(params, trainer.args.per_device_train_batch_size, bool(config["lora"]))
        with memory_failures_named(trainer.forwards.describe, advice):
            _run(trainer, config["training"]["finetuning"]["resume_from_checkpoint"])
        close()
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


def _log_sizes(parts: Parts) -> None:
    log.info(
        "%s parameters, %d training and %d validation %s (data %s), %d steps",
        f"{sum(weight.numel() for weight in parts.policy.parameters()):,}",
        len(parts.items.train),
        len(parts.items.validation),
        parts.objective.item_name,
        parts.items.fingerprint[:12],
        parts.steps,
    )


def _choose_final(trainer: ObjectiveTrainer) -> int:
    """Returns the steps before the final checkpoint, and makes the best one final where that was asked for."""
    best, folder = trainer.task.best, trainer.task.folder.checkpoints
    if best is None or not best.keeps or best.step is None:
        return trainer.state.global_step
    if trainer.is_world_process_zero():
        trainer.task.hooks.fence()
        link_final(folder, best.step)
    trainer.progress.last_metrics.update(best.metrics)
    log.info("the final checkpoint is that of step %d: %s=%g", best.step, best.metric, best.metrics[best.metric])
    return best.step


def _run(trainer: ObjectiveTrainer, resume_from: str | None) -> None:
    checkpoint = restore(trainer, resume_from)
    if checkpoint is None:
        trainer.args.eval_on_start = True
        trainer.train()
    elif trainer.task.best is not None and trainer.task.best.over:
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint))


def _bar_friendly() -> AbstractContextManager[None]:
    return logging_redirect_tqdm() if sys.stderr.isatty() else nullcontext()
