"""How many sequences of how many tokens a step, a forward and an evaluation take; pure functions of containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpt_opt.errors import Problem

Params = Mapping[str, Any]
"""`training.training_params`."""

_TRAINING = "training.training_params"


def sequence_length(params: Params) -> int:
    """Returns the tokens of the longest sequence: of every one in pretraining."""
    return int(params["max_length"] if params["context_length"] is None else params["context_length"])


def prompt_length(params: Params) -> int:
    """Returns what a prompt is truncated to; in pretraining generations continue the first half of a sequence."""
    return int(sequence_length(params) // 2 if params["max_prompt_length"] is None else params["max_prompt_length"])


def batch_size(params: Params) -> int:
    """Returns the sequences of an optimizer step over all devices."""
    if params["batch_size"] is not None:
        return int(params["batch_size"])
    return int(params["tokens_processed"] // params["context_length"])


def micro_batch_size(params: Params, devices: int = 1) -> int:
    """Returns the sequences per device per forward that `training_params` ask for."""
    micro = params["micro_batch_size"]
    return int(micro) if micro is not None else max(1, batch_size(params) // devices)


def accumulation_steps(params: Params, devices: int = 1) -> int:
    """Returns the forwards per optimizer step that `training_params` ask for."""
    return batch_size(params) // (micro_batch_size(params, devices) * devices)


def batch_problems(params: Params, devices: int = 1) -> Iterator[Problem]:
    """Checks that a step is micro_batch_size x devices x gradient_accumulation_steps sequences, in integers."""
    if params["batch_size"] is None:
        yield from _token_problems(params, devices)
        return
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
            "batch_size must be micro_batch_size x devices x an integer number of accumulation steps, but "
            f"{batch} / ({micro} x {devices}) = {batch / (micro * devices):g}",
            f"set batch_size to a multiple of {micro * devices}, or change micro_batch_size",
        )
        return
    yield from _accumulation_problems(params, devices)


def _accumulation_problems(params: Params, devices: int) -> Iterator[Problem]:
    batch, micro = batch_size(params), micro_batch_size(params, devices)
    given, follows = params["gradient_accumulation_steps"], accumulation_steps(params, devices)
    if given is not None and given != follows:
        yield Problem(
            f"{_TRAINING}.gradient_accumulation_steps",
            f"must equal batch_size / (micro_batch_size x devices) = {batch} / ({micro} x {devices}) = {follows}, "
            f"but is {given}",
            "leave it null: it follows from the batch sizes",
        )


def _token_problems(params: Params, devices: int) -> Iterator[Problem]:
    """Checks tokens_processed = devices x micro_batch_size x context_length x gradient_accumulation_steps."""
    tokens, context, micro = params["tokens_processed"], params["context_length"], params["micro_batch_size"]
    if micro is not None and micro < 1:
        yield Problem(f"{_TRAINING}.micro_batch_size", f"must be at least 1, but is {micro}")
        return
    unit = context * devices * (1 if micro is None else micro)
    if tokens < unit or tokens % unit:
        factors = f"{devices} x {'' if micro is None else f'{micro} x '}{context}"
        names = "devices x micro_batch_size x context_length" if micro is not None else "devices x context_length"
        yield Problem(
            f"{_TRAINING}.tokens_processed",
            f"must be {names} x an integer, but {tokens} / ({factors}) = {tokens / unit:g}",
            f"set it to {nearest(tokens, unit)}" + (", or change micro_batch_size" if micro is not None else ""),
        )
        return
    yield from _accumulation_problems(params, devices)


def nearest(value: int, unit: int) -> str:
    """Returns the multiples of `unit` next to a value that is none: `4096 or 8192`."""
    below = value // unit * unit
    return f"{below} or {below + unit}" if below else f"{unit}"
