"""Whether a model computes packed batches, and from the states of its head, exactly; and those forwards."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gpt_opt.errors import first_line
from gpt_opt.training.data.order import Batch, pad
from gpt_opt.training.data.packing import Packed, pack
from gpt_opt.training.losses import IGNORED
from gpt_opt.training.losses.predictions import Head, Predictions
from gpt_opt.training.models.packed import PACKED_SDPA

log = logging.getLogger(__name__)

LOGITS_BYTES = 1 << 26
"""Float32 logits of a batch up to this size are kept whole: larger ones are computed in chunks, and twice."""

_SAVED = 0.9
"""Share of the padded tokens that a packed batch may have: its attention is slower than that of plain rows."""

_TOLERANCE = {torch.float32: (1e-3, 1e-3), torch.float64: (1e-8, 1e-8)}
_TOLERANCE_16_BITS = (0.15, 0.03)
"""Largest difference of the log-probability of a token between two ways to compute it, in nats, and as a part of what
tokens differ by: of a new model, whose tokens are nearly all alike, no difference is large."""


@dataclass(frozen=True)
class Ways:
    """How a model may be computed.

    Attributes:
        packs: Whether packed batches give what padded ones do.
        head: Where its states times its weights are the logits; else None.
    """

    packs: bool = False
    head: nn.Linear | None = None


def worth_packing(batch: Batch) -> bool:
    """Returns whether a packed batch has so many tokens less than the padded one that it is faster."""
    return "packed" in batch and batch["packed"].ids.numel() <= _SAVED * batch["input_ids"].numel()


def forward_logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Returns the logits (R, K, V) of the last K positions, any float type: what the model computes with."""
    keep = batch["logits_to_keep"]
    output = model(input_ids=batch["input_ids"], use_cache=False, logits_to_keep=keep)
    return cast("Tensor", output.logits[:, -keep:])


def predict(model: PreTrainedModel, batch: Batch, packed: Packed | None, head: nn.Linear | None) -> Predictions:
    """Returns what a model says of the completions of a batch.

    Args:
        model: As gradients want it called.
        batch: As padded.
        packed: The same batch; None computes it padded.
        head: Of the model, where its logits are to be computed in chunks.
    """
    with _states_of(head) as states:
        if packed is None:
            labels = batch["labels"]
            logits = forward_logits(model, batch)
            places: tuple[Any, ...] = labels.reshape(-1), tuple(labels.shape)
        else:
            # A mask of four dimensions is taken as it is; of none transformers would make one of N x N.
            mask, options = packed.ids.new_ones(1, 1, 1, 1), {"packed": packed, "use_cache": False}
            where = {"position_ids": packed.positions, "logits_to_keep": packed.predictors}
            logits = model(input_ids=packed.ids, attention_mask=mask, **where, **options).logits
            places = packed.targets, packed.shape, packed.cells
    if head is None:
        return Predictions(logits.reshape(-1, logits.shape[-1]), *places)
    [given] = states
    weight = head.weight if torch.is_grad_enabled() else head.weight.detach()
    return Predictions(Head(given.reshape(-1, given.shape[-1]), weight.to(given.dtype)), *places)


@contextmanager
def _states_of(head: nn.Linear | None) -> Iterator[list[Tensor]]:
    """Collects what a head is given, in the type that it computes with, and has it compute one position only."""
    states: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Tensor]:
        given, device = arguments[0], arguments[0].device.type
        autocast = torch.is_autocast_enabled(device)
        states.append(given.to(torch.get_autocast_dtype(device)) if autocast else given)
        return (given[:, :1],)

    handle = None if head is None else head.register_forward_pre_hook(keep)
    try:
        yield states
    finally:
        if handle is not None:
            handle.remove()


def prove(model: PreTrainedModel, tokens: Tensor, longest: int, half: bool) -> Ways:
    """Finds out what a model can do by comparing two sequences of the longest length, computed in each way.

    Args:
        model: Without wrappers; it is left as it was, but that its attention takes packed batches where it can.
        tokens: Ids (N,), int64, that it takes: what its vocabulary is, a model of no family does not say.
        longest: Tokens of the longest sequence of the training.
        half: Whether it computes with 16 bits.
    """
    base = cast("PreTrainedModel", getattr(model, "get_base_model", lambda: model)())
    rows = _example(tokens, longest)
    device = next(base.parameters()).device
    padded: Batch = pad([rows])
    batch = {name: value if name == "logits_to_keep" else value.to(device) for name, value in padded.items()}
    packed, training, attention = pack([rows]).to(device), model.training, base.config._attn_implementation
    nats, part = _TOLERANCE_16_BITS if half else _TOLERANCE.get(base.dtype, _TOLERANCE_16_BITS)
    model.eval()
    try:
        with torch.no_grad():
            expected = predict(model, batch, None, None).token_logps()[batch["labels"].reshape(-1) != IGNORED]
            tolerance = min(nats, part * (expected.max() - expected.min()).item())
            head = _head_of(base) if tolerance else None
            if head is not None:
                found = predict(model, batch, None, head).token_logps()[batch["labels"].reshape(-1) != IGNORED]
                head = head if bool((found - expected).abs().max() <= tolerance) else None
            alike = "all tokens are alike to it yet, so that a wrong one would not show"
            why = _refusal(model, packed, expected, tolerance, base) if tolerance else alike
    finally:
        model.train(training)
    if why is not None:
        base.config._attn_implementation = attention
        log.info("batches are padded, and prompts computed for each completion: %s", why)
    return Ways(why is None, head)


def _refusal(
    model: PreTrainedModel, packed: Packed, expected: Tensor, tolerance: float, base: PreTrainedModel
) -> str | None:
    """Returns why a model cannot compute packed batches; None if it can."""
    if base.config._attn_implementation not in ("sdpa", PACKED_SDPA):
        return f"packed batches need attention by sdpa, not {base.config._attn_implementation}"
    base.config._attn_implementation = PACKED_SDPA
    try:
        off = (predict(model, {}, packed, None).token_logps() - expected).abs().max().item()
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return f"{type(base).__name__} does not take packed ones ({first_line(error)})"
    if not packed.masks:
        return f"{type(base).__name__} does not heed which tokens belong together"
    if off <= tolerance:
        return None
    return f"{type(base).__name__} computes something else of packed ones, by {off:.2g} nats a token"


def _head_of(base: PreTrainedModel) -> nn.Linear | None:
    """Returns the head of a model where it is a matrix and nothing more, as far as can be told from outside."""
    head = base.get_output_embeddings()
    # Of models of text and images the config has one of its own for text.
    settings = vars(base.config.get_text_config())
    capped = any("cap" in name and "logit" in name and value for name, value in settings.items())
    plain = isinstance(head, nn.Linear) and type(head) is nn.Linear and head.bias is None
    return cast("nn.Linear", head) if plain and not capped else None


def _example(known: Tensor, longest: int) -> list[tuple[list[int], list[int]]]:
    """Returns two rows with a long prompt in common."""
    drawn = torch.randint(len(known), (longest + 64,), generator=torch.Generator().manual_seed(0))
    tokens = known.cpu()[drawn].tolist()
    completion = min(64, max(longest // 2, 1))
    prompt = tokens[: max(longest - completion, 1)]
    return [(prompt, tokens[-completion:]), (prompt, tokens[-completion:][::-1][: completion // 2 + 1])]
