"""From a run to a folder for everybody: weights, tokenizer and model card in Hugging Face format."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.auto_mappings import CONFIG_MAPPING_NAMES

from gpt_opt.config.files import located
from gpt_opt.config.inputs import inputs_of
from gpt_opt.errors import ConfigError, GptOptError, Problem
from gpt_opt.records.io import read_json_object
from gpt_opt.records.run_dir import PROGRESS_FILE, RunPaths, checkpoints, result_checkpoint, step_of
from gpt_opt.records.state import State, read_run
from gpt_opt.training.checkpoint_compat import require_inputs
from gpt_opt.training.checkpointing import WEIGHTS, damaged_files, sync_tree, usual_modes, whole_or_removed
from gpt_opt.training.lazy_deepspeed import without_deepspeed
from gpt_opt.training.models.build import ADAPTERS, build_tokenizer, merged_model
from gpt_opt.training.models.model_card import model_card

_FILES = (*WEIGHTS, "*.index.json", "config.json", "generation_config.json")
"""What of a checkpoint is the model; the rest is for going on with the training."""


def export_run(paths: RunPaths, config: Mapping[str, Any], checkpoint: Path | None, into: Path) -> None:
    """Writes the model of a run as a folder that `from_pretrained` opens, with a model card (README.md).

    Adapters are merged into their base: the sum is taken in float32 and stored in `model.policy_dtype`.

    Args:
        paths: The run.
        config: Its config.
        checkpoint: A checkpoint of the run; None for its result.
        into: The folder to make, complete or not at all; it must not exist, or be empty.

    Raises:
        ConfigError: If `into` is taken already, or the base of adapters cannot be built any more.
        DataError: If that base has other weights than those that the adapters were trained on.
        GptOptError: If there is no checkpoint, it is damaged, or its adapters do not fit their base.
    """
    transformers.logging.disable_progress_bar()
    chosen = checkpoint or result_checkpoint(paths.checkpoints)
    if chosen is None or not chosen.is_dir():
        wanted = "a checkpoint" if chosen is None else chosen.name
        kept = ", ".join(folder.name for folder in checkpoints(paths.checkpoints)) or "none"
        raise GptOptError(f"{paths.checkpoints} must hold {wanted}, but holds {kept}; {_to_have_one(paths)}")
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        problem = f"must be a new folder, but {str(into)!r} exists"
        raise ConfigError([Problem("--output", problem, "delete it, or name another one: -o FOLDER")])
    if wrong := "; ".join(damaged_files(chosen, *WEIGHTS)):
        raise GptOptError(f"{chosen} must have whole weights, but {wrong}; train the run again: rerun=true")
    config = located(config)
    has_adapters = (chosen / ADAPTERS).is_file()
    if has_adapters:
        _require_base(config, chosen)
    into.parent.mkdir(parents=True, exist_ok=True)
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=into.parent))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(into)) from error
    with whole_or_removed(staging):
        if has_adapters:
            tokenizer, merged = merged_model(config, chosen)
            with without_deepspeed():
                merged.save_pretrained(staging)
        else:
            tokenizer = build_tokenizer(config["model"])
            for file in (file for pattern in _FILES for file in chosen.glob(pattern)):
                shutil.copyfile(file, staging / file.name)
        tokenizer.save_pretrained(staging)
        known = read_json_object(staging / "config.json").get("model_type") in CONFIG_MAPPING_NAMES
        is_result = chosen.resolve() == (result_checkpoint(paths.checkpoints) or chosen).resolve()
        card = model_card(paths, config, step_of(chosen.resolve()), is_result=is_result, is_known=known)
        (staging / "README.md").write_text(card, encoding="utf-8")
        staging.chmod(into.parent.stat().st_mode)  # mkdtemp makes it readable for its owner alone
        usual_modes(staging)
        sync_tree(staging)
        staging.rename(into)


def _to_have_one(paths: RunPaths) -> str:
    """Returns what to do about a run without the checkpoint that is to be exported."""
    state = read_run(paths).state
    if state is State.COMPLETED:
        return "train the run again: rerun=true"
    if state is State.RUNNING:
        return "the run is RUNNING: wait for its next checkpoint"
    return f"the run is {state}: start it again, by gptopt retry or submit of its sweep, or the command that began it"


def _require_base(config: Mapping[str, Any], checkpoint: Path) -> None:
    """Checks that the base has the weights that the adapters were trained on.

    Raises:
        DataError: If it has others.
    """
    file = checkpoint / PROGRESS_FILE
    before = json.loads(file.read_text()).get("inputs", {}) if file.is_file() else {}
    require_inputs(checkpoint, before, inputs_of({"model": config["model"]}), "restore it, then export")
