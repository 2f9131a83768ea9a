"""What a dry run says of a training: its sizes, without a step of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpt_opt.config.checks.batches import accumulation_steps, batch_size, micro_batch_size
from gpt_opt.training.build import build
from gpt_opt.training.distributed import process_count
from gpt_opt.training.memory import estimate_mb
from gpt_opt.training.models.mup import mup_parameters, optimizer_with_rates
from gpt_opt.training.optimizers import routing_table


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
    optimizer = optimizer_with_rates(optimizer_params, parts.policy)
    order = parts.order(config)
    sizes, devices = objective.sizes(items, parts.collator), process_count()
    batch, micro = batch_size(params), micro_batch_size(params, devices)
    sequences, mixed = micro * sizes.sequences, params["mixed_precision"] != "no"
    reference = parts.reference.model if parts.reference is not None else None
    memory = estimate_mb(parts.policy, reference, sequences, sizes.longest, mixed)
    lines = {
        "parameters": f"{total:,} ({trained:,} trained)",
        "optimizer": f"{type(optimizer).__name__}, {optimizer_params['lr_schedule']}",
        "data": f"{len(items.train):,} training and {len(items.validation):,} validation {objective.item_name}",
        "steps": f"{parts.steps:,} of {batch} ({len(order) / len(items.train):.2f} epochs)",
        "step": f"{round(sizes.tokens * batch):,} tokens: {accumulation_steps(params, devices)} x {micro} "
        f"{objective.item_name} on {devices} device{'s' * (devices > 1)}",
        "tokens": f"{int(sizes.tokens * len(order)):,} in all, {sizes.longest} in the longest sequence",
        "peak memory": f"about {memory:,.0f} MiB (estimated)",
    }
    table = routing_table(mup_parameters(parts.policy), optimizer, optimizer_params["lr"])
    return "\n".join([*(f"{name:<14} {text}" for name, text in lines.items()), "", table])
