"""What each parameter of a model is for: optimizers treat matrices, embeddings, heads, norms and biases apart."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from torch import nn


class Role(StrEnum):
    """What a parameter is for."""

    MATRIX = "matrix"
    """Maps activations to activations: at least two dimensions, of no embedding and no head."""
    EMBEDDING = "embedding"
    """A table that is looked up, of tokens or of positions; a head that is tied to one is that embedding."""
    HEAD = "head"
    """Maps the last hidden state to logits, not tied."""
    NORM = "norm"
    """A gain: of a normalization, or any other parameter with less than two dimensions that is no bias."""
    BIAS = "bias"
    """Is added to activations."""


@dataclass(frozen=True)
class NamedParameter:
    """A trainable parameter.

    Attributes:
        name: As in `model.named_parameters()`; a tied one has the first of its names.
        parameter: Of any shape.
        role: What it is for.
        module: What holds it.
        lr_multiplier: Its learning rate per unit of the optimizer's, as muP sets it.
        decays: Whether weight decay is applied to it.
    """

    name: str
    parameter: nn.Parameter
    role: Role
    module: nn.Module
    lr_multiplier: float = 1.0
    decays: bool = True


def named_parameters(model: nn.Module) -> list[NamedParameter]:
    """Returns the trainable parameters of a model with their roles, in the order of `model.named_parameters()`.

    The role follows from the module that holds the parameter, not from its name, so it holds for every architecture:
    for `nn.Linear` with weights of (out, in) as for GPT-2's Conv1D with (in, out).

    Args:
        model: A causal language model; what transformers' `get_output_embeddings` returns is its head.
    """
    find_head = getattr(model, "get_output_embeddings", None)
    head = find_head() if find_head is not None else None
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}

    def role(name: str, parameter: nn.Parameter) -> Role:
        if parameter.ndim < 2:
            return Role.BIAS if "bias" in name.rpartition(".")[2] else Role.NORM
        if id(parameter) in tables:
            return Role.EMBEDDING
        return Role.HEAD if parameter is getattr(head, "weight", None) else Role.MATRIX

    trained = ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    return [
        NamedParameter(name, parameter, role(name, parameter), model.get_submodule(name.rpartition(".")[0]))
        for name, parameter in trained
    ]
