"""Failures of a training that say what happened to which batch, and what to change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from gpt_opt.errors import GptOptError, first_line

_SHOWN = 3
_GPU_WORDS = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_HOST_WORDS = "can't allocate memory"
"""How torch's allocator of host memory puts it, and by which a slot knows this failure."""


class LossNotFinite(GptOptError):
    """The loss is NaN or infinite: no further step can mend the weights."""


class GPUOutOfMemoryError(GptOptError):
    """A batch did not fit into the memory of the GPU; slots know this failure by its name."""


class HostMemoryFull(GptOptError):
    """A batch did not fit into the memory of the machine; slots know this failure by the words of its message."""


def require_finite(value: float, what: str, step: int, item_name: str = "", positions: Sequence[int] = ()) -> None:
    """Raises when a loss is no finite number.

    Args:
        value: The loss.
        what: Which loss, for people.
        step: Optimizer step that it belongs to.
        item_name: What the items of the data are called, pairs for example.
        positions: Positions in the training data of all that the step was taken on.

    Raises:
        LossNotFinite: If it is none. The first line has the same form for all batches of more than 3, so that runs of
            a sweep that diverge are one group.
    """
    if math.isfinite(value):
        return
    text = f"{what} is {'NaN' if math.isnan(value) else value} at step {step}"
    if positions:
        more = ", ..." if len(positions) > _SHOWN else ""
        text += f" ({item_name} {', '.join(map(str, positions[:_SHOWN]))}{more})"
        text += f"\n{item_name} of this step, by position in the training data: {', '.join(map(str, positions))}"
    raise LossNotFinite(f"{text}\nlower optimizer.optimizer_params.lr, warm up for longer, or look at the data")


def _memory_failure(error: BaseException) -> type[GptOptError] | None:
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return GPUOutOfMemoryError
    if isinstance(error, RuntimeError) and any(words in text for words in _GPU_WORDS):
        return GPUOutOfMemoryError
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _HOST_WORDS in text):
        return HostMemoryFull
    return None


@contextmanager
def memory_failures_named(batch: Callable[[], str], advice: str) -> Iterator[None]:
    """Turns an out-of-memory error inside the block into a failure that names the batch and says what to lower.

    Args:
        batch: Returns which batch is worked on and its shape.
        advice: What to lower.

    Raises:
        GPUOutOfMemoryError: If the memory of the GPU was full.
        HostMemoryFull: If that of the machine was.
    """
    try:
        yield
    except Exception as error:
        failure = _memory_failure(error)
        if failure is None:
            raise
        says = "the GPU is out of memory" if failure is GPUOutOfMemoryError else f"{_HOST_WORDS}: the host's is full"
        cause = first_line(error) or type(error).__name__
        raise failure(f"{says}, at {batch()}\n{advice}\ncause: {cause}") from error


def memory_advice(params: Mapping[str, Any], micro_batch_size: int, has_lora: bool) -> str:
    """Returns what of a config would save memory, without what it does already.

    Args:
        params: `training_params`.
        micro_batch_size: The one in use.
        has_lora: Whether adapters are trained alone.
    """
    length = "max_length" if params["context_length"] is None else "context_length"
    ways = [f"{length} ({params[length]})"]
    if micro_batch_size > 1:
        ways.insert(0, f"micro_batch_size ({micro_batch_size}; batch_size can stay)")
    advice = f"lower training.training_params: {' or '.join(ways)}"
    if not params["gradient_checkpointing"]:
        advice += "; or set training.training_params.gradient_checkpointing=true"
    return advice + ("" if has_lora else "; or train adapters alone: lora=lora")
