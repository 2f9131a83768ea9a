"""What must hold of pretraining, loss=lm, and of the keys and data that are its own; pure functions of containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt_opt.config.checks.batches import batch_size, nearest
from gpt_opt.config.nested import Config
from gpt_opt.config.shards import TRAIN, VALIDATION, Meta, find_shards, read_meta
from gpt_opt.errors import DataError, Problem

LM = "gpt_opt.training.losses.LM"
SHARDS = "gpt_opt.training.data.build_shards"
_TOKEN_DATA = frozenset({SHARDS, "gpt_opt.training.data.build_pydoc_text"})
_BYTES = "bytes"

_TRAINING = "training.training_params"
_IGNORED = {
    "max_length": None,
    "max_prompt_length": None,
    "max_completion_length": None,
    "truncation": "keep_start",
    "add_bos": True,
    "group_by_length": False,
}
"""Keys of sequences that differ, with the values at which pretraining has nothing to ignore."""


def is_pretraining(config: Config) -> bool:
    """Returns whether a training learns every token of rows of tokens: it has neither prompts nor records."""
    return bool(config["loss"].get("_target_") == LM)


def unset_problems(config: Config) -> Iterator[Problem]:
    """Yields the sizes of batches and sequences that are null where they are needed, or given twice."""
    params, lm, own = config["training"]["training_params"], is_pretraining(config), config["aligner"] is not None
    if lm or (own and params["batch_size"] is None):
        given = [key for key in ("batch_size", "tokens_processed") if params[key] is not None]
        if len(given) != 1:
            problem = f"exactly one of tokens_processed and batch_size must be given, but {len(given)} are"
            yield Problem(f"{_TRAINING}.tokens_processed", problem, "set the other to null")
    elif params["batch_size"] is None:
        yield Problem(f"{_TRAINING}.batch_size", f"must be given for {_name(config)}, but is null", "16, for example")
    if lm or (own and params["max_length"] is None):
        context = params["context_length"]
        if context is None or context < 1:
            problem = f"must be at least 1 for {_name(config)}, the tokens of a sequence, but is {_shown(context)}"
            yield Problem(f"{_TRAINING}.context_length", problem, "choose training=shards, which sets it, or set it")
        return
    for key in ("max_length", "max_prompt_length"):
        if params[key] is None:
            yield Problem(f"{_TRAINING}.{key}", f"must be given for {_name(config)}, but is null")


def pretraining_problems(config: Config) -> Iterator[Problem]:
    """Checks that loss=lm has token data and its own keys, and that no other loss has them."""
    dataset, lm = config["data"]["dataset"], is_pretraining(config)
    is_token_data = dataset["_target_"] in _TOKEN_DATA
    if config["aligner"] is not None:
        pass
    elif lm and not is_token_data and str(dataset["_target_"]).startswith("gpt_opt."):
        problem = f"must be token data for loss=lm, but data={dataset['name']} has records of prompts and completions"
        yield Problem("data", problem, "choose data=shards data.dataset.path=FOLDER, or loss=sft for these records")
    elif not lm and is_token_data:
        problem = (
            f"is data={dataset['name']}, rows of tokens, from which only loss=lm learns, but {_name(config)} is set"
        )
        yield Problem("data", problem, "set loss=lm, or choose data with prompts and completions")
    yield from _lm_keys(config) if lm else _other_keys(config)
    if dataset["_target_"] == SHARDS:
        yield from _shard_problems(config)


def _lm_keys(config: Config) -> Iterator[Problem]:
    params = config["training"]["training_params"]
    for key, unset in _IGNORED.items():
        if params[key] != unset:
            problem = f"is {_shown(params[key])}, but loss=lm, which has no prompts and completions, ignores it"
            yield Problem(f"{_TRAINING}.{key}", problem, f"set it to {_shown(unset)}, or choose training=shards")
    tokens, context = params["val_tokens_processed"], params["context_length"]
    if tokens is not None and context is not None and (tokens < context or tokens % context):
        problem = f"must be context_length={context} x an integer, but {tokens} / {context} = {tokens / context:g}"
        fix = f"set it to {nearest(tokens, context)}, or to null for all validation tokens"
        yield Problem(f"{_TRAINING}.val_tokens_processed", problem, fix)


def _other_keys(config: Config) -> Iterator[Problem]:
    params = config["training"]["training_params"]
    for key in ("tokens_processed", "context_length", "val_tokens_processed") if config["aligner"] is None else ():
        if params[key] is not None:
            problem = f"is {params[key]}, but {_name(config)} ignores it: only loss=lm has it"
            instead = f"set {_TRAINING}.max_length" if key == "context_length" else "choose training=default"
            yield Problem(f"{_TRAINING}.{key}", problem, f"set it to null, or {instead}")


def _shard_problems(config: Config) -> Iterator[Problem]:
    """Checks that the shards are there and whole, and that they are of the model's tokenizer as far as names say."""
    dataset, params = config["data"]["dataset"], config["training"]["training_params"]
    folder, command = Path(dataset["path"]), dataset["prepare"] or ""
    try:
        counts = find_shards(folder, TRAIN, command)
        find_shards(folder, VALIDATION, command)
        meta = read_meta(folder)
    except DataError as error:
        yield from error.problems
        return
    if params["context_length"] is not None and not any(unset_problems(config)):
        needed, most = batch_size(params) * params["context_length"] + 1, max(counts.values())
        if most < needed:
            yield too_small(f"{_TRAINING}.tokens_processed", needed, len(counts), most)
    if meta is not None:
        yield from _tokenizer_problems(config["model"], meta)


def too_small(key: str, needed: int, shards: int, most: int) -> Problem:
    """Returns what is wrong with shards of which none holds the tokens of one optimizer step.

    Args:
        key: What the problem is about.
        needed: Tokens of a step, and the one after them.
        shards: How many there are.
        most: Tokens of the largest.
    """
    problem = f"must fit a training shard: a step needs {needed:,} tokens, the one after its last included, but the "
    return Problem(key, problem + f"largest of {shards} has {most:,}", "take smaller steps, or prepare more tokens")


def _tokenizer_problems(model: Mapping[str, Any], meta: Meta) -> Iterator[Problem]:
    name, vocabulary = model["tokenizer_name_or_path"], (model.get("config") or {}).get("vocab_size")
    if (name == _BYTES) != (meta.tokenizer == _BYTES):
        yield other_tokenizer(name, meta)
    elif vocabulary is not None and vocabulary < meta.vocab_size:
        problem = f"must be at least {meta.vocab_size:,}, the tokens of the shards' tokenizer {meta.tokenizer}, but is "
        yield Problem("model.config.vocab_size", problem + f"{vocabulary:,}", f"set it to {meta.vocab_size}")


def other_tokenizer(name: str, meta: Meta) -> Problem:
    """Returns what is wrong with shards of another tokenizer than the model's."""
    problem = f"must be the tokenizer of the shards, {meta.tokenizer} ({meta.vocab_size:,} tokens), but is {name}"
    fix = f"set model.tokenizer_name_or_path={meta.tokenizer}"
    fix += f" (a model from a config also needs model.config.vocab_size of {meta.vocab_size} or more)"
    return Problem("model.tokenizer_name_or_path", problem, f"{fix}, or prepare shards with --tokenizer {name}")


def _name(config: Config) -> str:
    return f"loss={config['loss'].get('name')}"


def _shown(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
