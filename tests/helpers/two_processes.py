"""One of two processes that train one model with each of several optimizers: `two_processes.py REQUEST RANK`.

REQUEST is a JSON file {"store": file to meet at, "steps", "optimizers": {name: optimizer_params}}. The weights of every
optimizer are written to REQUEST.RANK.pt, with what each rank saw of the losses.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gpt_opt.training.models.gpt import GPT, GPTConfig
from gpt_opt.training.optimizers import build_optimizer
from gpt_opt.training.optimizers.protocols import SeesMicroBatches, UsesLoss

ROWS, LENGTH, MICRO_BATCHES = 8, 6, 2


def batches(steps: int) -> Tensor:
    """Returns the tokens of all steps, (steps, ROWS, LENGTH)."""
    return torch.randint(0, 13, (steps, ROWS, LENGTH), generator=torch.Generator().manual_seed(1))


def train(params: dict[str, Any], steps: int, rank: int = 0, world: int = 1) -> list[Tensor]:
    """Returns the weights after some steps, of a process that takes its share of each batch."""
    torch.manual_seed(0)
    policy = GPT(GPTConfig(vocab_size=13, n_positions=LENGTH, n_embd=16, n_layer=1, n_head=2)).double()
    optimizer = build_optimizer(params, policy)
    model: nn.Module = DistributedDataParallel(policy) if world > 1 else policy
    model.train()
    for rows in batches(steps):
        parts = rows[rank::world].chunk(MICRO_BATCHES if world > 1 else 1)
        seen = torch.zeros((), dtype=torch.float64)
        optimizer.zero_grad()
        for number, part in enumerate(parts):
            if isinstance(optimizer, SeesMicroBatches):
                optimizer.begin_micro_batch(number, len(parts))
            logits = model(input_ids=part).logits[:, :-1]
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten()) / len(parts)
            loss.backward()
            seen += loss.detach()
        if isinstance(optimizer, UsesLoss):
            if world > 1:
                torch.distributed.all_reduce(seen)
            optimizer.observe_loss(seen / world)
        optimizer.step()
        model.eval()
        with torch.no_grad():
            model(input_ids=rows[rank::world])  # of an evaluation: no optimizer takes note of it
        model.train()
    return [parameter.detach().clone() for parameter in policy.parameters()]


def main() -> None:
    request, rank = Path(sys.argv[1]), int(sys.argv[2])
    asked = json.loads(request.read_text())
    torch.distributed.init_process_group("gloo", f"file://{asked['store']}", rank=rank, world_size=2)
    weights = {name: train(params, asked["steps"], rank, 2) for name, params in asked["optimizers"].items()}
    torch.save(weights, f"{request}.{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
