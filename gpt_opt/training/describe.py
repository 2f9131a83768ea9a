"""What a dry run says of a training: its sizes, without a step of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpt_opt.config.checks.constraints import micro_batch_size
from gpt_opt.training.build import build
from gpt_opt.training.memory import estimate_mb
from gpt_opt.training.optimizers import build_optimizer, named_parameters, routing_table


def describe(config: Mapping[str, Any]) -> str:
    """Builds all parts without training and returns their sizes as lines of text.

    Raises:
        GptOptError: As `gpt_opt.training.build.build`.
    """
    parts = build(config)
    params, items, objective = config["training"]["training_params"], parts.items, parts.objective
    total = sum(weight.numel() for weight in parts.policy.parameters())
    trained = sum(weight.numel() for weight in parts.policy.parameters() if weight.requires_grad)
    optimizer_params = config["optimizer"]["optimizer_params"]
    optimizer = build_optimizer(optimizer_params, parts.policy)
    order = parts.order(config)
    rows = [parts.collator.rows(item) for item in objective.arrange(items.train)]
    lengths = [len(prompt) + len(completion) for item in rows for prompt, completion in item]
    tokens, longest = int(sum(lengths) / len(rows) * len(order)), max(lengths)
    sequences, mixed = micro_batch_size(params) * len(rows[0]), params["mixed_precision"] != "no"
    reference = parts.reference.model if parts.reference is not None else None
    memory = estimate_mb(parts.policy, reference, sequences, longest, mixed)
    lines = {
        "parameters": f"{total:,} ({trained:,} trained)",
        "optimizer": f"{type(optimizer).__name__}, {optimizer_params['lr_schedule']}",
        "data": f"{len(items.train):,} training and {len(items.validation):,} validation {objective.item_name}",
        "steps": f"{parts.steps:,} of {params['batch_size']} ({len(order) / len(items.train):.2f} epochs)",
        "tokens": f"{tokens:,} in all, {longest} in the longest sequence",
        "peak memory": f"about {memory:,.0f} MiB (estimated)",
    }
    table = routing_table(named_parameters(parts.policy), optimizer, optimizer_params["lr"])
    return "\n".join([*(f"{name:<14} {text}" for name, text in lines.items()), "", table])
