"""What must hold in `model.config`, the sizes of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpt_opt.errors import Problem

_EMBEDDED = {"vocab_size": 258, "n_positions": 256, "n_embd": 128, "n_layer": 4}
"""Keys of the architecture that the shipped weights, gpt_opt/training/models/tiny_gpt2, fix."""


def length_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks that the sequences fit the model."""
    model, params = config["model"], config["training"]["training_params"]
    positions = (model.get("config") or {}).get("n_positions")
    key = "max_length" if params["context_length"] is None else "context_length"
    if positions is not None and params[key] is not None and params[key] > positions:
        yield Problem(
            f"training.training_params.{key}",
            f"must fit the model: {key}={params[key]}, but model.config.n_positions={positions}",
            f"set {key} to {positions} or less, or raise n_positions",
        )


def shape_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks the sizes of a model that is built here."""
    model = config["model"]
    shape, embedded = model.get("config") or {}, model.get("archive") == "embedded"
    width, heads = shape.get("n_embd"), shape.get("n_head")
    if width is not None and heads is not None and (heads < 1 or width % heads):
        yield Problem("model.config.n_head", f"must divide n_embd, but {width} / {heads} leaves a remainder")
    for key, value in _EMBEDDED.items() if embedded else ():
        if shape.get(key, value) != value:
            problem = f"must be {value} with model.archive=embedded, the weights that are shipped, but is {shape[key]}"
            yield Problem(f"model.config.{key}", problem, "set model.archive=null to start from random weights")
