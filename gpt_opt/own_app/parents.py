"""What must hold between a run and the run that it starts from, which may be planned but not made yet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from gpt_opt.config.checks.architecture import is_fixed
from gpt_opt.config.files import BYTES, references, starts
from gpt_opt.config.nested import Config, value_at
from gpt_opt.config.remember import Remembered
from gpt_opt.errors import GptOptError, Problem, RequestError
from gpt_opt.records.best_run import BEST, best_run
from gpt_opt.records.io import read_json_or_empty
from gpt_opt.records.run_reference import RunIndex, RunReference, checkpoint_of


def parent_problems(
    config: Config, planned: Mapping[str, Config], index: RunIndex, memo: Remembered
) -> Iterator[Problem]:
    """Checks what a run starts from.

    Args:
        config: The resolved config of the run, with real paths.
        planned: The configs of runs that will be made before it, by id.
        index: Finds those that exist.
        memo: What was found for other configs of the same request.
    """
    for key, value in memo.of(starts, config):
        if value.startswith(BEST):  # which has become a reference where there is such a run
            try:
                best_run(key, value)
            except GptOptError as error:
                yield from error.problems if isinstance(error, RequestError) else [Problem(key, str(error))]
    for key, reference in references(config, memo):
        parent = planned.get(reference.run_id)
        if parent is not None:
            yield from _planned_problems(key, reference, config, parent)
        else:
            output_dir = config["paths"]["output_dir"]
            try:
                checkpoint_of(key, reference, output_dir, index)
            except RequestError as error:
                yield from error.problems
                continue
            paths = index.find(output_dir, reference.run_id)
            parent = None if paths is None else read_json_or_empty(paths.config)
        if parent:
            yield from _misfits(reference, config["model"], parent["model"])


def _planned_problems(key: str, reference: RunReference, config: Config, parent: Config) -> Iterator[Problem]:
    """Checks that a run which is planned will leave what is started from."""
    folders = [value_at(item, "paths.output_dir") for item in (parent, config)]
    if folders[0] != folders[1]:
        problem = f"must be that of the run it starts from, {folders[0]}, but is {folders[1]}"
        yield Problem("paths.output_dir", problem, "give it in the base of the file, for all stages")
    if reference.step is None:
        return
    params = parent["training"]["training_params"]
    every, steps, limit = params["save_every"], params["max_steps"], params["save_total_limit"]
    saved = (bool(every) and reference.step % every == 0) or reference.step == steps
    if not saved or (steps is not None and reference.step > steps):
        problem = f"must be a step at which run {reference.run_id} saves, every {every or 'no'} steps"
        problem += f" up to {steps}" if steps is not None else ""
        yield Problem(key, f"{problem}, but is {reference.step}", "change step, or save_every of the stage before")
    elif limit is not None and steps is not None and every and -(-(steps - reference.step) // every) >= limit:
        problem = f"keeps {limit} checkpoints, so that of step {reference.step} of {steps} would be gone by its end"
        fix = "set training.training_params.save_total_limit=null in the stage before"
        yield Problem("training.training_params.save_total_limit", problem, fix)


def _misfits(reference: RunReference, own: Config, parent: Config) -> Iterator[Problem]:
    """Yields the keys of the model in which a run cannot differ from the one that it starts from."""
    tokenizers = {item["tokenizer_name_or_path"] for item in (own, parent)}
    keys = ["tokenizer_name_or_path"] if BYTES in tokenizers else []  # two other names may be of one tokenizer
    if own.get("config") is not None and parent.get("config") is not None:
        names = sorted({*own["config"], *parent["config"]})
        keys += [f"config.{name}" for name in names if is_fixed(name, own["config"])]
    else:
        keys += ["_target_", "name_or_path"]
    for key in keys:
        here, there = value_at(own, key), value_at(parent, key)
        if here != there:
            parent_value, own_value = json.dumps(there), json.dumps(here)  # as YAML says them: null, true
            problem = (
                f"must be that of run {reference.run_id}, which it starts from, {parent_value}, but is {own_value}"
            )
            yield Problem(f"model.{key}", problem, f"set model.{key}={parent_value}")
