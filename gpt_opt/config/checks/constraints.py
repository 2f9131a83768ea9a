"""What must hold between the keys of one resolved config: the checks of all groups; pure functions of containers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from gpt_opt.config.checks.architecture import length_problems, mup_problems, number_problems, shape_problems
from gpt_opt.config.checks.batches import batch_problems, batch_size
from gpt_opt.config.checks.complete import completeness_problems, type_problems
from gpt_opt.config.checks.data import data_problems
from gpt_opt.config.checks.finetuning import finetuning_problems
from gpt_opt.config.checks.lora import lora_problems
from gpt_opt.config.checks.losses import loss_problems
from gpt_opt.config.checks.models import listed_problems, source_problems, weight_problems
from gpt_opt.config.checks.optimizer import moment_problems, schedule_problems
from gpt_opt.config.checks.optimizer_combinations import combination_problems, own_problems
from gpt_opt.config.checks.optimizer_packages import average_problems, cautious_problems, package_problems
from gpt_opt.config.checks.pretraining import pretraining_problems, unset_problems
from gpt_opt.config.checks.sampling import sampling_problems
from gpt_opt.config.checks.sharding import sharding_problems
from gpt_opt.config.checks.targets import target_problems
from gpt_opt.config.checks.trackers import tracker_problems
from gpt_opt.config.nested import Config
from gpt_opt.config.remember import Remembered
from gpt_opt.config.suggest import UNKNOWN_KEY
from gpt_opt.errors import OWN_FOLDER, Problem

_TRAINING = "training.training_params"


def _training(config: Config) -> Iterator[Problem]:
    params = config["training"]["training_params"]
    if unset := list(unset_problems(config)):  # without these there is nothing to compute with
        yield from unset
        return
    yield from batch_problems(params)
    longest, prompt = params["max_length"], params["max_prompt_length"]
    if None not in (longest, prompt) and not 0 < prompt < longest:
        yield Problem(
            f"{_TRAINING}.max_prompt_length",
            f"0 < max_prompt_length < max_length must hold, but max_prompt_length={prompt} and max_length={longest}",
        )
    completion = params["max_completion_length"]
    if longest is not None and completion is not None and completion >= longest:
        problem = f"must be below max_length={longest}, or it truncates nothing, but is {completion}"
        yield Problem(f"{_TRAINING}.max_completion_length", problem, "leave it null")
    elif completion is not None and params["truncation"] == "drop":
        problem = f"must be null with truncation=drop, which truncates nothing, but is {completion}"
        yield Problem(f"{_TRAINING}.max_completion_length", problem)
    lengths = {key: params[key] for key in ("max_steps", "num_epochs", "n_examples")}
    if sum(value is not None for value in lengths.values()) != 1:
        yield Problem(
            f"{_TRAINING}.max_steps",
            "exactly one of max_steps, num_epochs and n_examples must be given, but they are "
            + ", ".join(str(value) for value in lengths.values()),
            "set the others to null",
        )
    examples, epochs = lengths["n_examples"], lengths["num_epochs"]
    if examples is not None and examples < (batch := batch_size(params)):
        problem = f"must be at least batch_size={batch}, one optimizer step, but is {examples}"
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


def _seed(config: Config) -> Iterator[Problem]:
    if not 0 <= config["seed"] < _SEEDS:
        yield Problem("seed", f"must be from 0 to {_SEEDS - 1}, as numpy takes it, but is {config['seed']}")


_SEEDS = 2**32


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
        yield Problem("paths.output_dir", problem, OWN_FOLDER)


CHECKS: tuple[Callable[[Config], Iterator[Problem]], ...] = (
    _training,
    pretraining_problems,
    finetuning_problems,
    sampling_problems,
    length_problems,
    shape_problems,
    mup_problems,
    _seed,
    _gpu,
    listed_problems,
    weight_problems,
    loss_problems,
    schedule_problems,
    moment_problems,
    own_problems,
    combination_problems,
    package_problems,
    cautious_problems,
    average_problems,
    data_problems,
    lora_problems,
    sharding_problems,
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
            if mistyped := [*type_problems(config), *number_problems(config)]:
                return mistyped
            raise error
    return [*problems, *source_problems(config, memo)]


def _incomplete(config: Config) -> list[Problem]:
    return list(completeness_problems(config))


_Result = tuple[list[Problem], Exception | None]


def _answered(check: Callable[[Config], Iterator[Problem]]) -> Callable[[Config], _Result]:
    """Returns a check that always returns: what it finds until it lacks a key, or meets a value of a wrong type."""

    def guarded(config: Config) -> _Result:
        found: list[Problem] = []
        try:
            found.extend(check(config))
        except KeyError:
            pass
        except TypeError as error:
            return found, error
        return found, None

    return guarded


_ANSWERED = tuple(map(_answered, CHECKS))
