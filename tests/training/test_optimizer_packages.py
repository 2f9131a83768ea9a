"""Optimizers of other packages: as those alone, resumed, in bfloat16; cautious weight decay; averages of weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import prodigyopt
import pytest
import pytorch_optimizer
import schedulefree
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim import Optimizer
from transformers import GPT2Config, GPT2LMHeadModel

from gpt_opt.errors import ConfigError
from gpt_opt.records.run_dir import checkpoints
from gpt_opt.training.loop import train
from gpt_opt.training.optimizers import build_optimizer, load_state_by_name, named_parameters, state_by_name
from gpt_opt.training.optimizers.evaluation_weights import EvaluationWeights
from gpt_opt.training.optimizers.muon_torch import MuonTorch
from gpt_opt.training.optimizers.protocols import HasModes
from tests.conftest import Runner
from tests.run.test_distributed import two_as_one
from tests.training.test_training import DPO, config, equal, final_weights, folder, hooks, rows

KEY = "optimizer.optimizer_params"
MATRICES = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
NAMES = (
    *("soap", "normuon", "adamuon", "muon-torch", "ademamix", "schedule-free-adamw"),
    *("lion", "mars", "adopt", "prodigy", "psgd-kron"),
)
CAUTIOUS = (
    *("adamw", "nadamw", "sign-gd", "muon", "scion", "dap-ns-nadam"),
    *("soap", "normuon", "adamuon", "muon-torch", "ademamix", "lion", "adopt"),
)


def model_of(dtype: torch.dtype = torch.float32) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    settings = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 11, "n_positions": 16}
    without = {f"{where}_pdrop": 0.0 for where in ("resid", "embd", "attn")}
    return GPT2LMHeadModel(GPT2Config(**settings, **without, bos_token_id=0, eos_token_id=0)).train().to(dtype)


@cache
def option(name: str) -> dict[str, Any]:
    return dict(config(["loss.beta=0.1", f"optimizer={name}"])["optimizer"]["optimizer_params"])


def params_of(name: str, **changed: Any) -> dict[str, Any]:
    assert changed.keys() <= option(name).keys()
    return {**option(name), **changed}


def steps(model: GPT2LMHeadModel, optimizer: Optimizer, count: int) -> None:
    for start in range(count):
        if isinstance(optimizer, HasModes):
            optimizer.train()
        ids = ((torch.arange(10) * (start + 1)) % 11)[None]
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def two_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    named = list(model.named_parameters())
    return [p for name, p in named if name.endswith(MATRICES)], [p for name, p in named if not name.endswith(MATRICES)]


def for_muon(model: nn.Module) -> list[dict[str, Any]]:
    matrices, others = two_groups(model)
    return [{"params": matrices, "use_muon": True}, {"params": others, "use_muon": False}]


class Seeded(pytorch_optimizer.Kron):
    """PSGD Kron whose draws of a step are those of seeds 0, 1, 2, ..."""

    def step(self, closure: Any = None) -> None:
        torch.manual_seed(self.param_groups[0].get("step", 0))
        super().step()


class Both:
    """torch.optim's Muon and AdamW one after the other."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        matrices, others = two_groups(model)
        self.parts = [torch.optim.Muon(matrices, lr=0.02, weight_decay=decay)]
        self.parts += [torch.optim.AdamW(others, lr=3e-4, betas=(0.9, 0.95), weight_decay=0)]  # type: ignore[list-item]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()


ALONE: dict[str, Callable[[nn.Module, float], Any]] = {
    "soap": lambda model, decay: pytorch_optimizer.SOAP(model.parameters(), weight_decay=decay),
    "normuon": lambda model, decay: pytorch_optimizer.NorMuon(for_muon(model), weight_decay=decay),
    "adamuon": lambda model, decay: pytorch_optimizer.AdaMuon(for_muon(model), weight_decay=decay),
    "muon-torch": Both,
    "ademamix": lambda model, decay: pytorch_optimizer.AdEMAMix(
        model.parameters(), weight_decay=decay, weight_decouple=True
    ),
    "schedule-free-adamw": lambda model, decay: schedulefree.AdamWScheduleFree(model.parameters(), weight_decay=decay),
    "lion": lambda model, decay: pytorch_optimizer.Lion(model.parameters(), weight_decay=decay),
    "mars": lambda model, decay: pytorch_optimizer.MARS(model.parameters(), weight_decay=decay, weight_decay_1d=0),
    "adopt": lambda model, decay: pytorch_optimizer.ADOPT(model.parameters(), weight_decay=decay, weight_decouple=True),
    "prodigy": lambda model, decay: prodigyopt.Prodigy(model.parameters(), weight_decay=decay),
    "psgd-kron": lambda model, decay: Seeded(model.parameters(), weight_decay=decay),
}
"""Each package used by hand, with its own defaults but for the decay, and for what hydra_conf changes on purpose."""


@pytest.mark.parametrize("name", NAMES)
def test_the_trajectory_is_that_of_the_package_alone(name: str) -> None:
    mine, alone = model_of(), model_of()
    optimizer = build_optimizer(params_of(name, weight_decay=0.1), mine)
    steps(mine, optimizer, 6)
    steps(alone, ALONE[name](alone, 0.1), 6)
    start = model_of()
    moved = [float((a - b).abs().max()) for a, b in zip(mine.parameters(), start.parameters(), strict=True)]
    assert max(moved) > 1e-6
    for own, other in zip(mine.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-6)


def resumes_bit_for_bit(params: dict[str, Any], dtype: torch.dtype, folder: Path) -> None:
    """Saves after 11 steps, SOAP's first update of its bases, and makes 3 more with and without the file between."""
    whole, again = model_of(dtype), model_of(dtype)
    optimizer = build_optimizer(params, whole)
    steps(whole, optimizer, 11)
    if isinstance(optimizer, HasModes):
        optimizer.eval()
    torch.save(state_by_name(whole, optimizer), folder / "state.pt")
    again.load_state_dict(whole.state_dict())
    resumed = build_optimizer(params, again)
    load_state_by_name(again, resumed, torch.load(folder / "state.pt", weights_only=True))
    for model, own in ((whole, optimizer), (again, resumed)):
        steps(model, own, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert all(weight.isfinite().all() for weight in whole.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_state_goes_on_bit_for_bit_through_a_file(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    resumes_bit_for_bit(params_of(name, weight_decay=0.1), dtype, tmp_path)


def test_any_target_of_a_package_goes_on_bit_for_bit(tmp_path: Path) -> None:
    resumes_bit_for_bit({"name": "x", "_target_": "pytorch_optimizer.Amos", "lr": 1e-2}, torch.bfloat16, tmp_path)


SHORT = [*DPO, *(f"training.training_params.{key}" for key in ("max_steps=4", "eval_every=2", "save_every=2"))]


@pytest.mark.parametrize("name", ["schedule-free-adamw", "muon-torch", "prodigy", "psgd-kron"])
def test_an_interrupted_run_ends_like_an_undisturbed_one(tmp_path: Path, small: list[str], name: str) -> None:
    made = config([*small, *SHORT, f"optimizer={name}"])
    whole, broken = folder(tmp_path / "whole"), folder(tmp_path / "broken")
    assert train(made, whole, hooks()) is not None
    assert train(made, broken, hooks(stop_at=3)) is None
    assert train(made, broken, hooks()) is not None
    assert rows(whole) == rows(broken)
    assert equal(final_weights(whole), final_weights(broken))


def test_schedule_free_evaluates_and_saves_its_average(tmp_path: Path, small: list[str]) -> None:
    place = folder(tmp_path / "run")
    made = config([*small, *SHORT, "optimizer=schedule-free-adamw", f"{KEY}.lr_schedule=constant"])
    assert train(made, place, hooks()) is not None
    saved = torch.load(checkpoints(place.checkpoints)[-1] / "optimizer.pt", weights_only=True)
    (group,) = saved["param_groups"]
    assert group["train_mode"] is False
    assert group["k"] == 4
    name = next(name for name, state in saved["state"].items() if "z" in state)
    assert not torch.equal(final_weights(place)[name], saved["state"][name]["z"])


def test_kron_leaves_the_random_states_as_they_were() -> None:
    model = model_of()
    optimizer = build_optimizer(params_of("psgd-kron"), model)
    torch.manual_seed(7)
    np.random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    steps(model, optimizer, 2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


# -- muon-torch ---------------------------------------------------------------------------------------------------


def test_muon_of_torch_overwrites_its_momentum_in_bfloat16_without_nesterov() -> None:
    """What muon-torch refuses, and its YAML says: when torch mends it, this fails, and both can go."""
    weight = nn.Parameter(torch.ones(4, 6, dtype=torch.bfloat16))
    weight.grad = torch.ones_like(weight)
    plain = torch.optim.Muon([weight], nesterov=False)
    plain.step()
    assert float(plain.state[weight]["momentum_buffer"].norm()) > 5 * 0.05 * float(weight.grad.norm()) / 2
    with pytest.raises(ConfigError, match="nesterov must be true with bfloat16 weights"):
        build_optimizer(params_of("muon-torch", nesterov=False), model_of(torch.bfloat16))


def test_muon_torch_of_a_model_without_matrices_is_adamw() -> None:
    model = nn.LayerNorm(4)
    optimizer = MuonTorch(named_parameters(model), lr=0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [3e-4]


# -- cautious weight decay ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CAUTIOUS)
def test_decay_is_applied_where_update_and_weight_have_one_sign(name: str) -> None:
    """A step with cautious decay is, weight by weight, the one with decay or the one without."""
    ends: dict[str, nn.Module] = {}
    kinds = {"none": (0.0, False), "all": (0.5, False), "cautious": (0.5, True)}
    for kind, (decay, cautious) in kinds.items():
        model = model_of()
        steps(model, build_optimizer(params_of(name), model), 1)  # SOAP and ADOPT only begin in their first step
        optimizer = build_optimizer(params_of(name, weight_decay=decay, cautious_weight_decay=cautious), model)
        if name in ("soap", "adopt"):
            frozen = [weight.detach().clone() for weight in model.parameters()]
            steps(model, optimizer, 1)
            with torch.no_grad():
                for weight, value in zip(model.parameters(), frozen, strict=True):
                    weight.copy_(value)
        ends[f"before {kind}"] = model_of()
        ends[f"before {kind}"].load_state_dict(model.state_dict())
        steps(model, optimizer, 1)
        ends[kind] = model
    decayed = 0
    for before, none, every, mine in zip(
        *(ends[key].parameters() for key in ("before none", "none", "all", "cautious")), strict=True
    ):
        same = (before - none).sign() * before.sign() >= 0
        torch.testing.assert_close(mine, torch.where(same, every, none), rtol=0, atol=1e-5 if name == "soap" else 2e-7)
        decayed += int((mine != none).sum())
    assert 0 < decayed < sum(weight.numel() for weight in model_of().parameters()) * 0.9


@pytest.mark.parametrize(
    ("target", "settings"),
    [
        ("torch.optim.SGD", {"weight_decay": 0.1}),
        ("torch.optim.Adam", {"weight_decay": 0.1}),
        ("pytorch_optimizer.ADOPT", {"weight_decay": 0.1}),
        ("torch.optim.Rprop", {}),
    ],
)
def test_cautious_decay_of_what_has_no_decoupled_one_is_refused(target: str, settings: dict[str, Any]) -> None:
    params = {"name": "x", "_target_": target, "lr": 0.1, "cautious_weight_decay": True, **settings}
    with pytest.raises(ConfigError, match="needs decoupled decay"):
        build_optimizer(params, model_of())


class TwiceHooked(torch.optim.AdamW):
    """Its step is torch's step inside another one, so that hooks are called for both."""

    def step(self, closure: Any = None) -> None:
        super().step()


def test_a_step_inside_a_step_is_one() -> None:
    torch.optim.AdamW([nn.Parameter(torch.ones(1))])  # gives the class its hooks
    ends = []
    for target in ("torch.optim.AdamW", f"{__name__}.TwiceHooked"):
        model = model_of()
        common = {"name": "x", "lr": 0.1, "weight_decay": 0.5, "cautious_weight_decay": True}
        optimizer = build_optimizer({**common, "_target_": target}, model)
        average = EvaluationWeights(optimizer, 0.9)
        steps(model, optimizer, 3)
        ends.append((list(model.parameters()), average.updates))
    assert ends[0][1] == ends[1][1] == 3
    assert all(torch.equal(a, b) for a, b in zip(ends[0][0], ends[1][0], strict=True))


# -- an average of the weights ------------------------------------------------------------------------------------

EMA = "training.training_params.ema_decay=0.3"
EVERY = [f"training.training_params.{key}" for key in ("save_every=1", "save_total_limit=null", "log_every=1")]


def test_evaluations_and_checkpoints_have_the_average(tmp_path: Path, small: list[str]) -> None:
    """The steps are those without it; at the end the model is the average of what they left."""
    plain, averaged = folder(tmp_path / "plain"), folder(tmp_path / "averaged")
    assert train(config([*small, *SHORT, *EVERY]), plain, hooks()) is not None
    result = train(config([*small, *SHORT, "training.training_params.log_every=1", EMA]), averaged, hooks())
    assert result is not None
    losses = [[row["loss"] for row in rows(place) if "loss" in row] for place in (plain, averaged)]
    assert losses[0] == losses[1]
    evaluations = [[row["eval/loss"] for row in rows(place) if "eval/loss" in row] for place in (plain, averaged)]
    assert evaluations[0][0] == evaluations[1][0]
    assert all(a != b for a, b in zip(evaluations[0][1:], evaluations[1][1:], strict=True))
    assert result.metrics["eval/loss"] == evaluations[1][-1]
    saved = [load_file(path / "model.safetensors") for path in checkpoints(plain.checkpoints)]
    for name, found in final_weights(averaged).items():
        mean = saved[0][name]
        for done, weights in enumerate(saved[1:], 1):
            kept = min(0.3, (1 + done) / (10 + done))
            mean = kept * mean + (1 - kept) * weights[name]
        torch.testing.assert_close(found, mean, rtol=1e-6, atol=1e-7)
    in_training = torch.load(checkpoints(averaged.checkpoints)[-1] / "optimizer.pt", weights_only=True)[
        "evaluation_weights"
    ]
    assert all(torch.equal(value, saved[-1][name]) for name, value in in_training["weights"].items())


def test_an_interrupted_average_ends_like_an_undisturbed_one(tmp_path: Path, small: list[str]) -> None:
    """With weights of bfloat16, whose average is float32 and in no other file."""
    made = config([*small, *SHORT, EMA, "model.policy_dtype=bfloat16", f"{KEY}.cautious_weight_decay=true"])
    made["optimizer"]["optimizer_params"]["weight_decay"] = 0.1
    whole, broken = folder(tmp_path / "whole"), folder(tmp_path / "broken")
    assert train(made, whole, hooks()) is not None
    assert train(made, broken, hooks(stop_at=3)) is None
    assert train(made, broken, hooks()) is not None
    assert rows(whole) == rows(broken)
    files = [checkpoints(place.checkpoints)[-1] / "optimizer.pt" for place in (whole, broken)]
    first, second = (torch.load(file, weights_only=True)["evaluation_weights"] for file in files)
    assert equal(first["average"], second["average"])
    assert equal(first["weights"], second["weights"])


def test_an_average_of_an_average_is_refused() -> None:
    model = model_of()
    optimizer = build_optimizer(params_of("schedule-free-adamw"), model)
    with pytest.raises(ConfigError, match="averages the weights itself"):
        EvaluationWeights(optimizer, 0.9)


def test_a_checkpoint_with_an_average_is_not_gone_on_with_without_it() -> None:
    model = model_of()
    optimizers = [torch.optim.SGD(model.parameters()) for _ in range(2)]
    with_average, without = EvaluationWeights(optimizers[0], 0.9), EvaluationWeights(optimizers[1])
    steps(model, optimizers[0], 1)
    with with_average.in_place():
        saved = with_average.state_dict(model)
    with pytest.raises(ConfigError, match="holds an average of the weights"):
        without.load_state_dict(model, saved)
    with pytest.raises(ConfigError, match="has no average of the weights"):
        with_average.load_state_dict(model, {})


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_two_processes_train_as_one(tmp_path: Path, run_hydra: Runner) -> None:
    """With draws in the optimizer, which must be the same in both, and an average, which each has."""
    two_as_one(tmp_path, run_hydra, [*SHORT, EMA, "optimizer=psgd-kron", "training.training_params.log_every=1"])
