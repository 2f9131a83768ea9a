"""From a checkpoint of adapters to a model of its own: the adapters merged into the base."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers

from gpt_opt.config.files import located
from gpt_opt.config.inputs import inputs_of
from gpt_opt.errors import ConfigError, GptOptError, Problem
from gpt_opt.records.run_dir import PROGRESS_FILE
from gpt_opt.training.checkpoint_compat import require_inputs
from gpt_opt.training.checkpointing import (
    WEIGHTS,
    damaged_files,
    final_checkpoint,
    sync_tree,
    usual_modes,
    whole_or_removed,
)
from gpt_opt.training.lazy_deepspeed import without_deepspeed
from gpt_opt.training.models.build import ADAPTERS, merged_model


def merge_adapters(config: Mapping[str, Any], checkpoint: Path, into: Path) -> None:
    """Writes base + adapters as one model with its tokenizer, in Hugging Face format.

    The sum is taken in float32 and stored in `model.policy_dtype`.

    Args:
        config: The config of the run that the checkpoint is of; it says what the base is.
        checkpoint: A checkpoint of the run, or a folder `checkpoints` of which the final one is taken.
        into: The folder to make, complete or not at all; it must not exist, or be empty.

    Raises:
        ConfigError: If `into` is taken already, or the base cannot be built any more.
        DataError: If the base has other weights than those that the adapters were trained on.
        GptOptError: If there is no checkpoint, or it has no adapters, or they do not fit the base.
    """
    transformers.logging.disable_progress_bar()
    newest = final_checkpoint(checkpoint) if checkpoint.name == "checkpoints" else checkpoint
    if newest is None:
        raise GptOptError(f"{checkpoint} must hold a checkpoint, but holds none; let the run train first")
    if not (newest / ADAPTERS).is_file():
        raise GptOptError(f"{newest} has no adapters to merge (no {ADAPTERS}): it is a whole model already, load it so")
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        problem = f"must be a new folder, but {str(into)!r} exists"
        raise ConfigError([Problem("--into", problem, "delete it, or name another one: --into FOLDER")])
    if wrong := "; ".join(damaged_files(newest, *WEIGHTS)):
        raise GptOptError(f"{newest} must have whole adapters, but {wrong}; train the run again: rerun=true")
    config = located(config)
    _require_base(config, newest)
    tokenizer, merged = merged_model(config, newest)
    into.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=into.parent))
    with whole_or_removed(staging):
        with without_deepspeed():
            merged.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        staging.chmod(into.parent.stat().st_mode)  # mkdtemp makes it readable for its owner alone
        usual_modes(staging)
        sync_tree(staging)
        staging.rename(into)


def _require_base(config: Mapping[str, Any], checkpoint: Path) -> None:
    """Checks that the base has the weights that the adapters were trained on.

    Raises:
        DataError: If it has others.
    """
    file = checkpoint / PROGRESS_FILE
    before = json.loads(file.read_text()).get("inputs", {}) if file.is_file() else {}
    require_inputs(checkpoint, before, inputs_of({"model": config["model"]}), "restore it, then merge")
