"""Time and memory of one optimizer step on the shapes of GPT-2 small, for every option of hydra_conf/optimizer.

Run as `python benchmarks/optimizers/step.py`; `README.md` beside it has results. Gradients are random and fixed: the
time of a step does not depend on them. Every time is the median over `--steps` after one step that is discarded.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gpt_opt.config.schema import register
from gpt_opt.errors import GptOptError
from gpt_opt.plan.compose.composer import Composer
from gpt_opt.run.resolvers import register_resolvers
from gpt_opt.training.models.gpt import GPT, GPTConfig
from gpt_opt.training.optimizers import build_optimizer
from gpt_opt.training.optimizers.dap import DAP
from gpt_opt.training.optimizers.orthogonalize import orthogonalize, orthogonalize_all
from gpt_opt.training.optimizers.protocols import HasModes, UsesLoss

CONFIG_DIR = Path(__file__).resolve().parents[2] / "hydra_conf"
FUSED = "adamw (torch, fused)"
SPECTRAL = ("muon", "scion", "muon-momo", "muonmax-momo")
STEPS_OF_ITERATION = 5


def options() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the name and the keys of every optimizer, torch's fused AdamW first."""
    composer = Composer(CONFIG_DIR)
    for name in [FUSED, *sorted(file.stem for file in (CONFIG_DIR / "optimizer").glob("*.yaml"))]:
        option = "adamw" if name == FUSED else name
        params = composer.compose(["loss.beta=0.1", f"optimizer={option}"]).config["optimizer"]["optimizer_params"]
        extra = {"fused": True} if name == FUSED else {"fstar": 0.0} if "fstar" in params else {}
        yield name, {**params, **extra}


def model_of(layers: int, device: str) -> nn.Module:
    """Returns GPT-2 small's parameters, with gradients."""
    torch.manual_seed(0)
    model: nn.Module = GPT(GPTConfig(n_layer=layers))
    model.to(device).train()
    for parameter in model.parameters():
        parameter.grad = 0.01 * torch.randn_like(parameter)
    return model


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def seconds(action: Callable[[], Any], repeats: int, device: str, clock: str, discard: int = 1) -> float:
    """Returns the median time of a call."""
    times, now = [], CLOCKS[clock]
    for _ in range(repeats + discard):
        started = now()
        action()
        if device != "cpu":
            torch.accelerator.synchronize()
        times.append(now() - started)
    return statistics.median(times[discard:])


def state_bytes(optimizer: Optimizer) -> int:
    """Returns the bytes of the tensors of an optimizer's state."""
    values = (value for state in optimizer.state.values() for value in dict(state).values())
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


def step_of(optimizer: Optimizer, device: str) -> Callable[[], None]:
    """Returns what makes one step; for DAP with second moments of inputs as a batch would leave them."""
    if isinstance(optimizer, DAP):
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if (inputs := optimizer._inputs.get(id(weight))) is not None:
                    rows = torch.randn(2 * weight.shape[1], weight.shape[1], device=device)
                    inputs.total, inputs.rows = rows.mT @ rows, len(rows)
    loss = torch.tensor(10.0, device=device)
    if isinstance(optimizer, HasModes):
        optimizer.train()

    def step() -> None:
        if isinstance(optimizer, UsesLoss):
            optimizer.observe_loss(loss)
        optimizer.step()

    return step


def matrices(model: nn.Module) -> list[Tensor]:
    """Returns the gradients of what the muon family orthogonalizes."""
    layers = [item for name, item in model.named_modules() if isinstance(item, nn.Linear) and "head" not in name]
    return [item.weight.grad for item in layers if item.weight.grad is not None]


def products(gradients: list[Tensor]) -> Callable[[], None]:
    """Returns what makes the matrix products that five steps of the iteration need, and nothing else."""
    dtype = torch.bfloat16 if gradients[0].is_cuda else torch.float32
    shapes: dict[tuple[int, int], int] = {}
    for item in gradients:
        shape = (min(item.shape), max(item.shape))
        shapes[shape] = shapes.get(shape, 0) + 1
    made = [torch.randn(count, *shape, dtype=dtype, device=gradients[0].device) for shape, count in shapes.items()]

    def run() -> None:
        for x in made:
            for _ in range(STEPS_OF_ITERATION):
                gram = torch.bmm(x, x.mT)
                torch.bmm(torch.bmm(gram, gram), x)

    return run


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="blocks of the model")
    parser.add_argument("--dap-layers", type=int, default=1, help="blocks for DAP, whose time is scaled to --layers")
    parser.add_argument("--steps", type=int, default=3, help="steps whose median counts")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of this process, beside other work")
    parser.add_argument("--only", nargs="*", help="options to measure; fused AdamW is always one")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    register()
    register_resolvers()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model_of(asked.layers, device)
    count = sum(item.numel() for item in model.parameters())
    print(
        f"{count:,} parameters on {device}, {asked.threads} threads, load {os.getloadavg()[0]:.1f} of {os.cpu_count()}"
    )

    gradients = matrices(model)
    needed = seconds(products(gradients), asked.steps, device, asked.clock)
    batched = seconds(partial(orthogonalize_all, gradients), asked.steps, device, asked.clock)
    alone = seconds(lambda: [orthogonalize(item) for item in gradients], asked.steps, device, asked.clock)
    print(f"orthogonalizing {len(gradients)} matrices, s: its products alone {needed:.2f}", end=", ")
    print(f"batched {batched:.2f}, one by one {alone:.2f}")

    print(f"{'optimizer':<22}{'step, s':>10}{'/ fused':>9}{'state, bytes a parameter':>26}{'/ products':>12}")
    fused = 0.0
    for name, params in [*options()]:
        if asked.only and name not in (FUSED, *asked.only):
            continue
        is_dap = params["_target_"].endswith(".DAP")
        used = model_of(asked.dap_layers, device) if is_dap else model
        try:
            optimizer = build_optimizer(params, used)
        except GptOptError as error:
            print(f"{name:<22} {str(error).splitlines()[0][:90]}")
            continue
        step = step_of(optimizer, device)
        spent = seconds(step, 1 if is_dap else asked.steps, device, asked.clock, discard=0 if is_dap else 1)
        spent *= asked.layers / asked.dap_layers if is_dap else 1
        fused = fused or spent
        size = state_bytes(optimizer) / sum(item.numel() for item in used.parameters())
        ratio = f"{spent / needed:.2f}" if name in SPECTRAL else ""
        print(f"{name:<22}{spent:>10.3f}{spent / fused:>9.1f}{size:>26.2f}{ratio:>12}", flush=True)
        del optimizer, step, used
        gc.collect()


if __name__ == "__main__":
    main()
