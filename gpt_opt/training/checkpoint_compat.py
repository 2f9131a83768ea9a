"""Whether a training can be continued from a checkpoint of another run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch.optim import Optimizer
from transformers import PreTrainedModel

from gpt_opt.config.files import WEIGHT_KEYS
from gpt_opt.config.inputs import changed_inputs, changed_since
from gpt_opt.errors import ConfigError, DataError, Problem
from gpt_opt.records.provenance import Inputs
from gpt_opt.records.run_dir import PROGRESS_FILE
from gpt_opt.training.checkpointing import damage
from gpt_opt.training.models.build import saved_weights

log = logging.getLogger(__name__)

_KEY = "training.finetuning.resume_from_checkpoint"
WEIGHTS_ALONE = "start from the weights alone: set model.archive instead"
"""What to do about another run's checkpoint whose training cannot go on."""

_FIX = f"to change it, {WEIGHTS_ALONE}"
_NOT_SETTINGS = {"params", "lr"}
"""Keys of an optimizer's group that no user sets: `lr` is where the schedule is, `initial_lr` what it began with."""


def checkpoint_step(checkpoint: Path) -> int:
    """Returns the optimizer steps before a checkpoint."""
    return int(json.loads((checkpoint / "trainer_state.json").read_text())["global_step"])


def require_resumable(
    checkpoint: Path, progress: Mapping[str, Any], data: str, inputs: Inputs, sharding: str | None, is_own: bool
) -> None:
    """Checks that a training goes on where a checkpoint was saved.

    Args:
        checkpoint: Where to resume.
        progress: What its `PROGRESS_FILE` says.
        data: Fingerprint of the data.
        inputs: Files and modules of the run with their fingerprints.
        sharding: How DeepSpeed shards the training, or None.
        is_own: Whether the checkpoint is of this run, so that `rerun=true` does without it.

    Raises:
        ConfigError: If its optimizer state cannot be read: that of DeepSpeed serves one sharding alone.
        DataError: If it was trained on other data, or from other weights.
    """
    anew = "train from the start: rerun=true" if is_own else WEIGHTS_ALONE
    if (saved := progress.get("engine")) != sharding:
        ways = [way or "without DeepSpeed" for way in (saved, sharding)]
        problem = f"must be as for {checkpoint}, which was saved {ways[0]}; now it is {ways[1]}"
        raise ConfigError([Problem("deepspeed", problem, f"go on as it began, or {anew}")])
    if progress["data_fingerprint"] != data:
        old = progress["data_fingerprint"][:12]
        problem = f"must be the data that {checkpoint.name} was trained on, {old}, but is now {data[:12]}"
        raise DataError([Problem("data.dataset", problem, f"restore the data, or {anew}")])
    require_inputs(checkpoint, progress.get("inputs", {}), inputs, f"restore it, or {anew}")


def settings_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Returns the settings of each group of parameters as JSON values.

    Args:
        optimizer: Before its first step: some optimizers count steps, or keep what they have found, in their groups.
    """
    return [{key: _plain(value) for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def require_inputs(checkpoint: Path, before: Inputs, now: Inputs, fix: str) -> None:
    """Checks that a training goes on from the weights that it began with; other code of the user's is logged.

    Args:
        checkpoint: Where to resume.
        before: The inputs that the checkpoint was trained with; empty for those of a version that recorded none.
        now: The inputs now.
        fix: What to do where it does not.

    Raises:
        DataError: If weights or a tokenizer are other ones: start and reference of the training come from them.
    """
    changed = changed_inputs(before, now)
    problems = [
        Problem(
            name,
            f"must be what {checkpoint.name} was trained with, {before[name]['sha256'][:12]}, "
            f"but {now[name]['path']} is now {now[name]['sha256'][:12]}",
            fix,
        )
        for name in changed
        if name in WEIGHT_KEYS
    ]
    if problems:
        raise DataError(problems)
    code = {name: item for name, item in now.items() if item["path"].endswith(".py")}
    if words := changed_since(before, code):
        log.warning("%s: the training goes on with it as it is now", words)


def require_continuable(
    checkpoint: Path, model: PreTrainedModel, optimizer: Optimizer, order: Mapping[str, Any], data: str, steps: int
) -> None:
    """Checks that a checkpoint is of the model and the optimizer of a training, and not beyond its end.

    Args:
        checkpoint: The folder that training.finetuning.resume_from_checkpoint names.
        model: What is trained.
        optimizer: Of its parameters, with a schedule.
        order: What decides which rows each step takes, as `TrainingOrder.settings` has it.
        data: Fingerprint of the data; who loads the checkpoint refuses others.
        steps: Optimizer steps of the whole training.

    Raises:
        ConfigError: If it is not; an optimizer goes on with the settings of the checkpoint, so others are refused.
    """
    if wrong := damage(checkpoint):
        raise ConfigError([Problem(_KEY, f"must be a whole checkpoint, but of {checkpoint}: {wrong}")])
    progress = json.loads((checkpoint / PROGRESS_FILE).read_text())
    problems = [*_length(checkpoint, steps), *_weights(checkpoint, model)]
    problems += [*_settings(checkpoint, progress, optimizer), *_order(checkpoint, progress, order, data)]
    if problems:
        raise ConfigError(problems)


def _order(checkpoint: Path, progress: Mapping[str, Any], order: Mapping[str, Any], data: str) -> Iterator[Problem]:
    """Checks that the steps to come take the rows that come next, none twice and none left out."""
    saved = progress.get("order", {}) if progress["data_fingerprint"] == data else {}
    for key, value in saved.items():
        if order.get(key) != value:
            problem = f"must be that of {checkpoint}, {value}, whose order of rows goes on; is {order.get(key)}"
            yield Problem(key, problem, _FIX)


def _length(checkpoint: Path, steps: int) -> Iterator[Problem]:
    if (step := checkpoint_step(checkpoint)) >= steps:
        problem = f"must leave steps to do, but {checkpoint.name} has done {step} of {steps}"
        yield Problem(_KEY, problem, "raise training.training_params.max_steps, which counts from the very start")


def _weights(checkpoint: Path, model: PreTrainedModel) -> Iterator[Problem]:
    has_adapters, wants_adapters = (checkpoint / "adapter_model.safetensors").is_file(), hasattr(model, "peft_config")
    if has_adapters != wants_adapters:
        kinds = ("a whole model", "adapters")
        yield Problem(_KEY, f"must hold {kinds[wants_adapters]}, as lora says, but holds {kinds[has_adapters]}")
        return
    own = {name: list(value.shape) for name, value in model.state_dict().items()}
    for name, value in ({} if has_adapters else saved_weights(model, checkpoint)).items():
        if own.get(name) != (shape := list(value.shape)):
            problem = f"must have weights of the model's shape, but {name} is {shape}, in the model {own.get(name)}"
            yield Problem(_KEY, problem, "take a checkpoint of the same model")
            return


def _settings(checkpoint: Path, progress: Mapping[str, Any], optimizer: Optimizer) -> Iterator[Problem]:
    saved = progress["optimizer"]
    if len(saved) != len(optimizer.param_groups):
        yield Problem(_KEY, "must have the optimizer's groups of parameters, but has others", _FIX)
        return
    for own, theirs in zip(optimizer.param_groups, saved, strict=True):
        if differing := sorted((own.keys() ^ theirs.keys()) - _NOT_SETTINGS):
            problem = f"must be that of {checkpoint}, whose state goes on, but only one of the two has"
            yield Problem("optimizer", f"{problem} {', '.join(differing)}", _FIX)
            return
        for key in sorted(own.keys() - _NOT_SETTINGS):
            if _plain(own.get(key)) != _plain(theirs.get(key)):
                name = "lr" if key == "initial_lr" else key
                problem = f"must be that of {checkpoint}, {theirs.get(key)}, with which it goes on; is {own.get(key)}"
                yield Problem(f"optimizer.optimizer_params.{name}", problem, _FIX)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)
