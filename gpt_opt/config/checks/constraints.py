"""What must hold between the keys of one resolved config; pure functions of plain containers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt_opt.config.checks.complete import completeness_problems, type_problems
from gpt_opt.config.checks.data import data_problems
from gpt_opt.config.checks.finetuning import finetuning_problems
from gpt_opt.config.checks.losses import loss_problems
from gpt_opt.config.checks.models import (
    ALL_LINEAR,
    listed_problems,
    source_problems,
    weight_problems,
)
from gpt_opt.config.checks.sampling import sampling_problems
from gpt_opt.config.checks.targets import target_problems
from gpt_opt.config.checks.trackers import tracker_problems
from gpt_opt.config.remember import Remembered
from gpt_opt.config.schema.sharding import engine_problems
from gpt_opt.config.suggest import UNKNOWN_KEY
from gpt_opt.errors import Problem

Config = Mapping[str, Any]

SCHEDULES = ("constant", "warm-up-constant", "warm-up-cosine", "warm-up-linear", "constant-linear")
"""Learning rate schedules; `gpt_opt.training.optimizers.schedules` has their formulas."""

_TRAINING = "training.training_params"
_OPTIMIZER = "optimizer.optimizer_params"


def micro_batch_size(params: Mapping[str, Any], devices: int = 1) -> int:
    """Returns the sequences per device per forward that `training_params` ask for."""
    micro = params["micro_batch_size"]
    return int(micro) if micro is not None else max(1, params["batch_size"] // devices)


def accumulation_steps(params: Mapping[str, Any], devices: int = 1) -> int:
    """Returns the forwards per optimizer step that `training_params` ask for."""
    return int(params["batch_size"]) // (micro_batch_size(params, devices) * devices)


def batch_problems(params: Mapping[str, Any], devices: int = 1) -> Iterator[Problem]:
    """Checks that batch_size = micro_batch_size x devices x gradient_accumulation_steps, in whole numbers."""
    batch, micro = params["batch_size"], micro_batch_size(params, devices)
    if batch < 1 or micro < 1:
        yield Problem(
            f"{_TRAINING}.batch_size",
            f"batch_size and micro_batch_size must be at least 1, but are {batch} and {micro}",
        )
        return
    if batch % (micro * devices):
        yield Problem(
            f"{_TRAINING}.batch_size",
            "batch_size must be micro_batch_size x devices x a whole number of accumulation steps, but "
            f"{batch} / ({micro} x {devices}) = {batch / (micro * devices):g}",
            f"set batch_size to a multiple of {micro * devices}, or change micro_batch_size",
        )
        return
    given, follows = params["gradient_accumulation_steps"], accumulation_steps(params, devices)
    if given is not None and given != follows:
        yield Problem(
            f"{_TRAINING}.gradient_accumulation_steps",
            f"must equal batch_size / (micro_batch_size x devices) = {batch} / ({micro} x {devices}) = {follows}, "
            f"but is {given}",
            "leave it null: it follows from the batch sizes",
        )


def _training(config: Config) -> Iterator[Problem]:
    params = config["training"]["training_params"]
    yield from batch_problems(params)
    longest, prompt = params["max_length"], params["max_prompt_length"]
    if not 0 < prompt < longest:
        yield Problem(
            f"{_TRAINING}.max_prompt_length",
            f"0 < max_prompt_length < max_length must hold, but max_prompt_length={prompt} and max_length={longest}",
        )
    completion = params["max_completion_length"]
    if completion is not None and completion >= longest:
        problem = f"must be below max_length={longest}, or it truncates nothing, but is {completion}"
        yield Problem(f"{_TRAINING}.max_completion_length", problem, "leave it null")
    lengths = {key: params[key] for key in ("max_steps", "num_epochs", "n_examples")}
    if sum(value is not None for value in lengths.values()) != 1:
        yield Problem(
            f"{_TRAINING}.max_steps",
            "exactly one of max_steps, num_epochs and n_examples must be given, but they are "
            + ", ".join(str(value) for value in lengths.values()),
            "set the others to null",
        )
    examples, epochs = lengths["n_examples"], lengths["num_epochs"]
    if examples is not None and examples < params["batch_size"]:
        problem = f"must be at least batch_size={params['batch_size']}, one optimizer step, but is {examples}"
        yield Problem(f"{_TRAINING}.n_examples", problem)
    for key, least in _LEAST.items():
        if params[key] is not None and not params[key] >= least:
            yield Problem(f"{_TRAINING}.{key}", f"must be at least {least}, but is {params[key]}")
    if epochs is not None and not epochs > 0:
        yield Problem(f"{_TRAINING}.num_epochs", f"must be above 0, but is {epochs}")


_LEAST = {
    "eval_batch_size": 1,
    "max_completion_length": 1,
    "max_steps": 1,
    "warmup_steps": 0,
    "max_grad_norm": 0,
    "log_every": 1,
    "eval_every": 1,
    "save_every": 1,
    "save_total_limit": 1,
}


def _model(config: Config) -> Iterator[Problem]:
    model, params = config["model"], config["training"]["training_params"]
    positions = (model.get("config") or {}).get("n_positions")
    if positions is not None and params["max_length"] > positions:
        yield Problem(
            f"{_TRAINING}.max_length",
            f"must fit the model: max_length={params['max_length']}, but model.config.n_positions={positions}",
            f"set max_length to {positions} or less, or raise n_positions",
        )


EMBEDDED_SHAPE = {"vocab_size": 258, "n_positions": 256, "n_embd": 128, "n_layer": 4}
"""Keys of the architecture that the shipped weights, gpt_opt/training/models/tiny_gpt2, fix."""


def _architecture(config: Config) -> Iterator[Problem]:
    model = config["model"]
    shape, embedded = model.get("config") or {}, model.get("archive") == "embedded"
    width, heads = shape.get("n_embd"), shape.get("n_head")
    if width is not None and heads is not None and (heads < 1 or width % heads):
        yield Problem("model.config.n_head", f"must divide n_embd, but {width} / {heads} leaves a rest")
    for key, value in EMBEDDED_SHAPE.items() if embedded else ():
        if shape.get(key, value) != value:
            problem = f"must be {value} with model.archive=embedded, the weights that are shipped, but is {shape[key]}"
            yield Problem(f"model.config.{key}", problem, "set model.archive=null to start from random weights")


def _gpu(config: Config) -> Iterator[Problem]:
    ids, ddp = config["gpu"]["device_ids"], config["gpu"]["use_ddp"]
    if ids is None:
        return
    if not ids or min(ids) < 0 or len(set(ids)) < len(ids):
        yield Problem("gpu.device_ids", f"must be null or different indices from 0, as [0,1], but is {ids}")
    elif len(ids) > 1 and not ddp:
        problem = f"must be one GPU where gpu.use_ddp=false, which makes one process, but is {ids}"
        yield Problem("gpu.device_ids", problem, "set gpu.use_ddp=true for a process on each of them")


def _output(config: Config) -> Iterator[Problem]:
    folder = Path(config["paths"]["output_dir"]).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        problem = f"must be a folder that can be written to, but {str(existing)!r} is not"
        yield Problem("paths.output_dir", problem)


def _moments(config: Config) -> Iterator[Problem]:
    params = config["optimizer"]["optimizer_params"]
    betas = params.get("betas")
    if betas is not None and (len(betas) != 2 or not all(0 <= value < 1 for value in betas)):
        yield Problem(f"{_OPTIMIZER}.betas", f"must be two numbers, each at least 0 and below 1, but is {betas}")
    alpha = params.get("alpha")
    if alpha is not None and not 0 <= alpha < 1:
        yield Problem(f"{_OPTIMIZER}.alpha", f"must be at least 0 and below 1, but is {alpha}")
    for key in ("eps", "weight_decay"):
        if params.get(key) is not None and not 0 <= params[key] < float("inf"):
            yield Problem(f"{_OPTIMIZER}.{key}", f"must be a finite number of at least 0, but is {params[key]}")


def _optimizer(config: Config) -> Iterator[Problem]:
    params = config["optimizer"]["optimizer_params"]
    if not 0 <= params["lr"] < float("inf"):
        yield Problem(f"{_OPTIMIZER}.lr", f"must be a finite number of at least 0, but is {params['lr']}")
    if params["lr_schedule"] not in SCHEDULES:
        yield Problem(
            f"{_OPTIMIZER}.lr_schedule", f"must be one of {', '.join(SCHEDULES)}, but is {params['lr_schedule']!r}"
        )
    fraction = params["warm_up_fraction"]
    if fraction is not None and not 0 <= fraction <= 1:
        yield Problem(f"{_OPTIMIZER}.warm_up_fraction", f"0 <= warm_up_fraction <= 1 must hold, but it is {fraction}")
    warmup_steps = config["training"]["training_params"]["warmup_steps"]
    if params["lr_schedule"] != "constant" and fraction is None and warmup_steps is None:
        yield Problem(
            f"{_OPTIMIZER}.warm_up_fraction",
            f"the schedule {params['lr_schedule']} needs the length of its first phase, but warm_up_fraction and "
            f"{_TRAINING}.warmup_steps are both null",
        )


def _lora(config: Config) -> Iterator[Problem]:
    lora = config["lora"]
    targets = lora.get("target_modules") if lora else None
    named = isinstance(targets, list) and all(isinstance(name, str) for name in targets)
    if not (named or targets in (None, ALL_LINEAR)):
        problem = f"must be null, {ALL_LINEAR} or a list of names, but is {targets!r}"
        yield Problem("lora.target_modules", problem, "write lora.target_modules=[q_proj,v_proj]")
    if lora and not 0 <= lora["lora_dropout"] < 1:
        yield Problem("lora.lora_dropout", f"0 <= lora_dropout < 1 must hold, but it is {lora['lora_dropout']}")
    for key in ("r", "lora_alpha"):
        if lora and lora[key] < 1:
            yield Problem(f"lora.{key}", f"must be at least 1, but is {lora[key]}")


CHECKS: tuple[Callable[[Config], Iterator[Problem]], ...] = (
    _training,
    finetuning_problems,
    sampling_problems,
    _model,
    _architecture,
    _gpu,
    listed_problems,
    weight_problems,
    loss_problems,
    _optimizer,
    _moments,
    data_problems,
    _lora,
    engine_problems,
    _output,
    tracker_problems,
    target_problems,
)


def constraint_problems(config: Config, memo: Remembered | None = None) -> list[Problem]:
    """Returns everything that contradicts itself in a resolved config that has no missing keys.

    Args:
        config: The config as plain containers. Parts of a user's own making, without the keys that a check reads,
            pass that check.
        memo: What was found for other configs of the same request.
    """
    memo = memo or Remembered()
    problems = list(memo.of(_incomplete, config))
    if any(problem.message != UNKNOWN_KEY for problem in problems):  # without a key there is nothing to check
        return problems
    for check in _ANSWERED:
        found, error = memo.of(check, config)
        problems += found
        if error is not None:
            if mistyped := list(type_problems(config)):
                return mistyped
            raise error
    return [*problems, *source_problems(config, memo)]


def _incomplete(config: Config) -> list[Problem]:
    return list(completeness_problems(config))


_Answer = tuple[list[Problem], Exception | None]


def _answered(check: Callable[[Config], Iterator[Problem]]) -> Callable[[Config], _Answer]:
    """Returns a check that always answers: what it finds until it lacks a key, or meets a value of a wrong type."""

    def answered(config: Config) -> _Answer:
        found: list[Problem] = []
        try:
            found.extend(check(config))
        except KeyError:
            pass
        except TypeError as error:
            return found, error
        return found, None

    return answered


_ANSWERED = tuple(map(_answered, CHECKS))
