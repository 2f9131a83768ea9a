"""Optimizers that ask for more than `step`: to be told of evaluations, and of the loss of their batch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gpt_opt.records.run_dir import checkpoints
from gpt_opt.training.loop import train
from tests.conftest import Runner
from tests.run.test_distributed import two_as_one
from tests.training.test_training import DPO, config, equal, final_weights, folder, hooks, rows

FEW = [*DPO, "training.training_params.log_every=1"]


class Averaging(torch.optim.SGD):
    """SGD whose weights to evaluate are the mean of all weights that it has trained with."""

    def __init__(self, params: Any, lr: float, **others: Any) -> None:
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            group["mode"] = "eval"  # until the first step, as Schedule-Free has it

    def _swap(self, mode: str) -> None:
        for group in self.param_groups:
            if group["mode"] != mode:
                group["mode"] = mode
                for weight in group["params"]:
                    if "other" in self.state[weight]:
                        kept = weight.detach().clone()
                        weight.data.copy_(self.state[weight]["other"])
                        self.state[weight]["other"] = kept

    def train(self) -> None:
        self._swap("train")

    def eval(self) -> None:
        self._swap("eval")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        assert {group["mode"] for group in self.param_groups} == {"train"}
        super().step()
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                count = state["count"] = state.get("count", 0) + 1
                state["other"] = weight.clone() if count == 1 else state["other"].lerp(weight, 1 / count)


class Observing(torch.optim.SGD):
    """SGD that keeps the losses it was told, those of all processes."""

    def __init__(self, params: Any, lr: float, **others: Any) -> None:
        super().__init__(params, lr=lr)
        self.losses: list[Tensor] = []
        self.micro_batches: list[tuple[int, int]] = []
        self.steps = 0

    def begin_micro_batch(self, number: int, count: int) -> None:
        self.micro_batches.append((number, count))

    def observe_loss(self, loss: Tensor) -> None:
        assert len(self.losses) == self.steps
        self.losses.append(loss)

    def step(self, closure: Any = None) -> None:
        assert len(self.losses) == self.steps + 1
        self.steps += 1
        super().step()


class Polyak(Observing):
    """A step of loss / |gradient|^2, at most `lr`: as with one process only where each knows the loss of all."""

    def step(self, closure: Any = None) -> None:
        norm = torch.stack([weight.grad.pow(2).sum() for weight in self.param_groups[0]["params"]]).sum()
        longest = self.param_groups[0]["lr"]
        self.param_groups[0]["lr"] = min(longest, float(self.losses[-1] / norm))
        super().step()
        self.param_groups[0]["lr"] = longest


def with_optimizer(overrides: list[str], kind: type) -> dict[str, Any]:
    made = config(overrides)
    target = f"{kind.__module__}.{kind.__qualname__}"
    schedule = {"lr_schedule": "constant", "warm_up_fraction": None}
    made["optimizer"]["optimizer_params"] = {"name": "mine", "_target_": target, "lr": 0.05, **schedule}
    return made


def of_training(found: list[dict[str, Any]], prefix: str = "") -> list[float]:
    return [row[f"{prefix}loss"] for row in found if f"{prefix}loss" in row]


def test_evaluations_checkpoints_and_generations_have_the_weights_to_evaluate(tmp_path: Path, small: list[str]) -> None:
    """The steps are those of SGD, so every training loss is; what is evaluated and saved is the mean of the weights."""
    overrides = [*small, *FEW, "training.sampling.sample_during_eval=true"]
    plain, averaged = folder(tmp_path / "plain"), folder(tmp_path / "averaged")
    every = [f"training.training_params.{item}" for item in ("save_every=1", "save_total_limit=null")]
    assert train(with_optimizer([*overrides, *every], torch.optim.SGD), plain, hooks()) is not None
    assert train(with_optimizer(overrides, Averaging), averaged, hooks()) is not None
    assert of_training(rows(averaged)) == of_training(rows(plain))
    first, *later = zip(of_training(rows(averaged), "eval/"), of_training(rows(plain), "eval/"), strict=True)
    assert first[0] == first[1]
    assert len(later) == 3
    assert all(mine != its for mine, its in later)
    steps = [load_file(path / "model.safetensors") for path in checkpoints(plain.checkpoints)]
    assert len(steps) == 12
    for name, weight in final_weights(averaged).items():
        mean = torch.stack([step[name] for step in steps]).mean(0)
        torch.testing.assert_close(weight, mean, rtol=1e-5, atol=1e-6)


def test_an_interrupted_run_with_modes_ends_like_an_undisturbed_one(tmp_path: Path, small: list[str]) -> None:
    made = with_optimizer([*small, *FEW], Averaging)
    whole, broken = folder(tmp_path / "whole"), folder(tmp_path / "broken")
    assert train(made, whole, hooks()) is not None
    assert train(made, broken, hooks(stop_at=6)) is None
    assert train(made, broken, hooks()) is not None
    assert rows(whole) == rows(broken)
    assert equal(final_weights(whole), final_weights(broken))


@pytest.mark.parametrize("micro", [8, 2])
def test_a_step_sees_the_mean_loss_of_its_batch(
    tmp_path: Path, small: list[str], micro: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Observing] = []
    first = Observing.__init__

    def remember(own: Observing, *args: Any, **settings: Any) -> None:
        made.append(own)
        first(own, *args, **settings)

    monkeypatch.setattr(Observing, "__init__", remember)
    place = folder(tmp_path / "run")
    overrides = [*small, *FEW, f"training.training_params.micro_batch_size={micro}"]
    assert train(with_optimizer(overrides, Observing), place, hooks()) is not None
    losses = made[-1].losses
    assert made[-1].micro_batches == [(number, 8 // micro) for number in range(8 // micro)] * 12
    assert [loss.shape for loss in losses] == [torch.Size([])] * 12
    assert not any(loss.requires_grad for loss in losses)
    assert [float(loss) for loss in losses] == pytest.approx(of_training(rows(place)), rel=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_every_process_sees_the_loss_of_all(tmp_path: Path, run_hydra: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    target = f"optimizer.optimizer_params._target_={Polyak.__module__}.{Polyak.__qualname__}"
    own = [*FEW, target, "optimizer.optimizer_params.lr=0.05"]
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]), prepend=os.pathsep)
    one = two_as_one(tmp_path, run_hydra, own)
    found = [json.loads(line) for line in one.metrics.read_text().splitlines()]
    assert of_training(found)[-1] < of_training(found)[0]
