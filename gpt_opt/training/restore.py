"""A training goes on from one of its checkpoints, or begins with that of another run, or anew."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, cast

from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel

from gpt_opt.records.run_dir import PROGRESS_FILE
from gpt_opt.training.checkpoint_compat import checkpoint_step, require_continuable, require_resumable
from gpt_opt.training.checkpointing import WEIGHTS, checkpoint_path, damaged_files, latest_checkpoint
from gpt_opt.training.model_selection import Best
from gpt_opt.training.sharding import load_weights, sharding_of
from gpt_opt.training.trainer import ObjectiveTrainer

log = logging.getLogger(__name__)


def restore(trainer: ObjectiveTrainer, resume_from: str | None) -> Path | None:
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
    require_resumable(checkpoint, progress, task.data_fingerprint, task.inputs, sharding_of(trainer.args))
    if trainer.is_fsdp_enabled:  # transformers would look for files of FSDP's own, after it has sharded the weights
        load_weights(cast("PreTrainedModel", trainer.model), checkpoint)
    rank, is_alone = trainer.args.process_index, trainer.args.world_size == 1
    trainer.draws_anew = not (checkpoint / ("rng_state.pth" if is_alone else f"rng_state_{rank}.pth")).is_file()
    trainer.progress.load(progress, trainer.args.device, is_first)
    if task.best is not None and checkpoint.parent == task.folder.checkpoints:
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
