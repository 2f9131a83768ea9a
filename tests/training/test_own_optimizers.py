"""The options of the project's own optimizers: in two processes, with micro-batches, after a kill; and their routing.

The defects of the reference that algorithms were taken from are named where a test holds that they are absent.
"""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from gpt_opt.records.run_dir import RunPaths, find_run_dirs
from gpt_opt.training.build import build
from gpt_opt.training.describe import describe
from gpt_opt.training.loop import train
from gpt_opt.training.models.gpt import GPT, GPTConfig
from gpt_opt.training.optimizers import NamedParameter, Role, build_optimizer, named_parameters, routing_table
from gpt_opt.training.optimizers.dap import DAP
from gpt_opt.training.optimizers.momo import Momo, MomoAdam
from gpt_opt.training.optimizers.muon_legacy import MuonLegacy
from gpt_opt.training.optimizers.nesgd import NESGD
from gpt_opt.training.optimizers.sign_gd import SignGD
from tests.conftest import CONFIG_DIR, ROOT, Runner
from tests.helpers import two_processes
from tests.helpers.forked import ForkServer
from tests.training.test_training import DPO, config, equal, final_weights, folder, hooks, rows

NO_CLIPPING = "training.training_params.max_grad_norm=0"
TRUNCATED = [NO_CLIPPING, "optimizer.optimizer_params.fstar=0"]
OPTIONS: dict[str, list[str]] = {
    **{name: [NO_CLIPPING] for name in ("momo", "momo-star", "momo-adam", "momo-adam-star")},
    **{name: [] for name in ("sign-gd", "sign-gd-nonlmo", "muon", "scion", "dap-ns-nadam", "dap-ns-nadam-accel")},
    **{name: TRUNCATED for name in ("muon-momo", "muonmax-momo")},
    **{name: [] for name in ("adam", "nadam", "nadamw", "sgd", "sgd-m", "sgd-nesterov", "rmsprop")},
}


@pytest.fixture(scope="module")
def optimizers() -> dict[str, dict[str, Any]]:
    """optimizer_params of each option."""
    files = {name: CONFIG_DIR / "optimizer" / f"{name}.yaml" for name in OPTIONS}
    found = {name: OmegaConf.to_container(OmegaConf.load(file).optimizer_params) for name, file in files.items()}
    return {name: {**params, "fstar": 0.0} if "fstar" in params else params for name, params in found.items()}


def test_every_own_option_is_tried() -> None:
    texts = {file.stem: file.read_text() for file in (CONFIG_DIR / "optimizer").glob("*.yaml")}
    own = {name for name, text in texts.items() if "_target_: gpt_opt.training.optimizers." in text}
    assert {name for name in own if any(f".{kind}." in texts[name] for kind in KINDS)} <= OPTIONS.keys()


KINDS = ("momo", "sign_gd", "nesgd", "dap")


def test_two_processes_stay_equal_and_do_what_one_does(
    tmp_path: Path, forks: ForkServer, optimizers: dict[str, dict[str, Any]]
) -> None:
    """Two micro-batches on each of two ranks are one batch: its loss is that of all, DAP sums statistics over ranks.

    The reference never reduces DAP's statistics and has rank 0's buffers broadcast, so that replicas drift apart.
    """
    request, script = tmp_path / "request.json", str(Path(two_processes.__file__))
    request.write_text(json.dumps({"store": str(tmp_path / "store"), "steps": 3, "optimizers": optimizers}))
    assert forks.environment, "the server is there before two threads ask it"
    done: list[subprocess.CompletedProcess[str]] = []
    threads = [
        threading.Thread(target=lambda rank=rank: done.append(forks.run([script, str(request), str(rank)], ROOT, 240)))
        for rank in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [item.returncode for item in done] == [0, 0], done[0].stderr + done[-1].stderr
    first, second = (torch.load(f"{request}.{rank}.pt") for rank in range(2))
    start = two_processes.train(optimizers["adam"], 0)
    for name, params in optimizers.items():
        assert all(torch.equal(*pair) for pair in zip(first[name], second[name], strict=True)), name
        alone = two_processes.train(params, 3)
        assert any(not torch.equal(*pair) for pair in zip(alone, start, strict=True)), name
        for own, other in zip(first[name], alone, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("name", ["dap-ns-nadam", "muonmax-momo", "momo-adam-star"])
def test_a_killed_run_goes_on_bit_equal(
    tmp_path: Path, small: list[str], run_hydra: Runner, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in step 7, between the checkpoints of steps 4 and 8, in the middle of a log window."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "killer.py").write_text(KILLER.format(marker=str(tmp_path / "killed")))
    own = [*small, *DPO, f"optimizer={name}", *OPTIONS[name], "training.training_params.micro_batch_size=4"]
    whole = folder(tmp_path / "whole")
    assert train(config(own), whole, hooks()) is not None
    command = [*own, "callbacks=[{_target_: killer.Kill}]"]
    killed = run_hydra(command, cwd=tmp_path)
    assert (tmp_path / "killed").exists(), killed.stdout + killed.stderr
    assert killed.returncode != 0
    done = run_hydra(command, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming from checkpoint-4" in done.stdout + done.stderr
    (found,) = find_run_dirs(tmp_path / "outputs")
    paths = RunPaths(found)
    broken = type(whole)(paths.checkpoints, paths.metrics, paths.root / "samples.jsonl")
    assert rows(broken) == rows(whole)
    assert equal(final_weights(broken), final_weights(whole))


KILLER = """import os, signal, time
from pathlib import Path
from transformers import TrainerCallback

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        marker = Path("{marker}")
        if state.global_step == 7 and not marker.exists():
            while not Path(args.output_dir, "checkpoint-4").exists():  # it is written meanwhile
                time.sleep(0.01)
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_micro_batches_give_the_steps_of_one_batch(tmp_path: Path, small: list[str]) -> None:
    """Through the trainer: the loss of a step is the mean over its micro-batches."""
    own = [*small, "loss=sft", "optimizer=momo", NO_CLIPPING, "training.training_params.max_steps=3"]
    places = [folder(tmp_path / str(micro)) for micro in (8, 2)]
    for micro, place in zip((8, 2), places, strict=True):
        assert train(config([*own, f"training.training_params.micro_batch_size={micro}"]), place, hooks()) is not None
    first, second = (final_weights(place) for place in places)
    for key, weight in first.items():
        torch.testing.assert_close(second[key], weight, rtol=1e-3, atol=2e-5)


def gpt(**shape: Any) -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(**{"vocab_size": 13, "n_positions": 6, "n_embd": 16, "n_layer": 2, "n_head": 2, **shape}))


def test_the_table_says_where_each_parameter_went(optimizers: dict[str, dict[str, Any]]) -> None:
    model = gpt()
    params = {**optimizers["muon"], "muon_lr_ratio": 2.0, "weight_decay": 0.1}
    lines = routing_table(named_parameters(model), build_optimizer(params, model), params["lr"]).splitlines()
    table = [line.split() for line in lines]
    assert table[0] == ["parameter", "count", "shape", "role", "group", "lr", "x", "decay"]
    assert ["transformer.h.*.attn.c_attn.weight", "2", "48x16", "matrix", "0", "(spectral)", "2", "0.1"] in table
    assert ["transformer.wte.weight", "1", "13x16", "embedding", "1", "(adam_infty)", "1", "0.1"] in table
    assert sum(int(row[1]) for row in table[1:]) == len(list(model.parameters()))
    assert not any("lm_head" in line for line in lines), "tied to the embedding, under whose name it goes"
    legacy = routing_table(named_parameters(model), MuonLegacy(named_parameters(model)), 0.01)
    assert ("(orthogonalized)" in legacy, "(adam)" in legacy) == (True, True)


def test_a_dry_run_shows_the_table(small: list[str]) -> None:
    text = describe(config([*small, *DPO, "optimizer=dap-ns-nadam"]))
    assert "(preconditioned)" in text
    assert "(adam)" in text


def test_roles_follow_from_modules_not_from_parts_of_names(optimizers: dict[str, dict[str, Any]]) -> None:
    """The reference routes by substrings, so that a layer called wpe_proj is none to orthogonalize."""
    model = nn.ModuleDict({"wpe_proj": nn.Linear(3, 4, bias=False), "lm_head_norm": nn.LayerNorm(4)})
    optimizer = build_optimizer(optimizers["muon"], model)
    assert [group["is_matrix"] for group in optimizer.param_groups] == [True, False]
    assert optimizer.param_groups[0]["params"] == [model["wpe_proj"].weight]


def test_matrices_of_experts_are_orthogonalized_each_on_its_own() -> None:
    """The reference fails at weights of three dimensions."""
    torch.manual_seed(0)
    weights, module = torch.randn(3, 4, 5), nn.Module()
    whole = nn.Parameter(weights.clone())
    each = [nn.Parameter(item.clone()) for item in weights]
    for parameters in ([whole], each):
        named = [NamedParameter(str(index), item, Role.MATRIX, module) for index, item in enumerate(parameters)]
        optimizer = NESGD(named, lr=0.1)
        for item in parameters:
            item.grad = item.detach().clone()
        optimizer.step()
    torch.testing.assert_close(whole.detach(), torch.stack([item.detach() for item in each]))


def one_step(named: list[NamedParameter], **settings: Any) -> list[torch.Tensor]:
    """Returns the update of one step of NESGD with fixed gradients."""
    generator = torch.Generator().manual_seed(3)
    before = [item.parameter.detach().clone() for item in named]
    optimizer = NESGD(named, lr=0.1, **settings)
    for item in named:
        item.parameter.grad = torch.randn(item.parameter.shape, generator=generator)
    optimizer.step()
    return [item.parameter.detach() - start for item, start in zip(named, before, strict=True)]


def made(*roles: Role) -> list[NamedParameter]:
    shapes = {Role.MATRIX: (4, 6), Role.NORM: (5,)}
    return [NamedParameter(role.value, nn.Parameter(torch.zeros(shapes[role])), role, nn.Module()) for role in roles]


def test_the_steps_of_the_iteration_are_those_that_were_asked_for() -> None:
    """The reference has 5 of them whatever ns_steps says."""
    few, many = (one_step(made(Role.MATRIX), ns_steps=steps)[0] for steps in (1, 5))
    assert not torch.allclose(few, many)


@pytest.mark.parametrize("norm", ["adam_infty", "adam_2"])
def test_eps_reaches_the_norms_beside_matrices(norm: str) -> None:
    """In the reference adamw_eps never does."""
    small, large = (one_step(made(Role.NORM), other_norm=norm, eps=eps)[0] for eps in (1e-8, 1.0))
    assert not torch.allclose(small, large)


@pytest.mark.parametrize("role", [Role.MATRIX, Role.NORM])
def test_the_hybrid_norm_of_one_kind_alone(role: Role) -> None:
    """The reference fails where there are no matrices, or nothing else."""
    (update,) = one_step(made(role), product_norm="hybrid", lmo=False, other_norm="adam_2")
    assert update.isfinite().all()
    assert update.abs().sum() > 0


@pytest.mark.parametrize("kind", [Momo, MomoAdam])
def test_momo_goes_past_parameters_without_gradient_and_keeps_no_history(kind: type[Momo] | type[MomoAdam]) -> None:
    """The reference's Momo fails at them, and its list of step sizes grows for ever."""
    used, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = kind([used, unused], lr=0.1)
    sizes = []
    for _ in range(3):
        used.grad = torch.ones(3)
        optimizer.observe_loss(torch.tensor(2.0))
        optimizer.step()
        sizes.append(len(repr(sorted(map(str, optimizer.state_dict()["state"]["shared"])))))
    assert torch.equal(unused, torch.ones(2))
    assert not torch.equal(used, torch.ones(3))
    assert len(set(sizes)) == 1
    with pytest.raises(ValueError, match="one step size for all parameters"):
        kind([{"params": [used]}, {"params": [unused]}], lr=0.1)


def test_the_sign_of_zero_is_zero_and_the_decay_has_its_name() -> None:
    """The reference's sign-gd calls its decay `wd`, so that groups with weight_decay fail."""
    parameter = nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = SignGD([{"params": [parameter], "weight_decay": 0.5}], lr=0.1)
    parameter.grad = torch.tensor([0.0, 2.0])
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.tensor([0.95, 0.85]))


def test_dap_computes_its_statistics_in_full_precision_under_autocast() -> None:
    """In the reference X^T X has 16 bits there."""
    torch.manual_seed(0)
    layer = nn.Linear(8, 4)
    optimizer, x = DAP(named_parameters(layer)), torch.randn(64, 8)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    (inputs,) = optimizer._inputs.values()
    assert inputs.total is not None
    torch.testing.assert_close(inputs.total, x.T @ x)


def test_dap_leaves_the_model_as_it_is() -> None:
    """The reference replaces linear layers, which unties the head, and its accumulators become buffers of the model."""
    model = gpt()
    names, kinds = set(model.state_dict()), [type(module) for module in model.modules()]
    DAP(named_parameters(model))
    assert model.lm_head.weight is model.transformer.wte.weight
    assert set(model.state_dict()) == names
    assert [type(module) for module in model.modules()] == kinds
    assert not list(model.buffers()) or {name for name, _ in model.named_buffers()} == {
        name for name, _ in gpt().named_buffers()
    }


def test_dap_says_where_an_inverse_is_not_finite() -> None:
    """The reference ends the process."""
    layer = nn.Linear(3, 2)
    optimizer = DAP(named_parameters(layer))
    layer(torch.full((4, 3), float("nan"))).sum().backward()
    with pytest.raises(RuntimeError, match="pseudo-inverse of a second moment of 3 inputs is not finite"):
        optimizer.step()


def test_dap_takes_the_micro_batches_that_it_is_told() -> None:
    """A second forward of the same micro-batch, as activation checkpointing makes it, counts as the same."""
    layer = nn.Linear(3, 2)
    optimizer = DAP(named_parameters(layer), xtx_subsample=0.5, mb_subsampling=True)
    (inputs,) = optimizer._inputs.values()
    gathered = []
    for number in range(4):
        optimizer.begin_micro_batch(number, 4)
        for _ in range(2):
            layer(torch.ones(5, 3))
        gathered.append(inputs.rows)
    assert gathered == [10, 10, 20, 20]


def test_dap_without_an_addition_has_no_large_inverse_of_what_is_not_there() -> None:
    """The reference's start for positive definite matrices leaves one of 7,000 for diag(1, 0.5, 0) without it."""
    layer = nn.Linear(3, 3, bias=False)
    layer.weight.data.zero_()
    optimizer = DAP(named_parameters(layer), lr=1.0, accelerated=True, dap_beta1=0.0, dap_beta2=0.0)
    layer(torch.diag(torch.tensor([3.0, 1.5, 0.0]).sqrt()))
    layer.weight.grad = torch.ones(3, 3)
    optimizer.step()
    torch.testing.assert_close(-layer.weight.detach()[0], torch.tensor([1.0, 2.0, 0.0]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("lora", [True, False])
def test_dap_trains_adapters_and_layers_of_gpt2(tmp_path: Path, small: list[str], lora: bool) -> None:
    """Its hooks are on the layers that are trained, those of PEFT and Conv1D included."""
    own = [*small, *DPO, "optimizer=dap-ns-nadam", *(["lora=lora"] if lora else [])]
    parts = build(config(own))
    optimizer = build_optimizer(config(own)["optimizer"]["optimizer_params"], parts.policy)
    assert isinstance(optimizer, DAP)
    parts.policy.train()
    parts.policy(input_ids=torch.arange(8)[None]).logits.sum().backward()
    assert all(item.rows == 8 for item in optimizer._inputs.values())
    assert len(optimizer._inputs) == len([item for item in named_parameters(parts.policy) if item.role is Role.MATRIX])
    optimizer.step()
    assert all(item.isfinite().all() for item in parts.policy.parameters())


def test_three_steps_of_a_model_are_near_those_of_double_precision(optimizers: dict[str, dict[str, Any]]) -> None:
    """Of each option; signs of gradients near zero may turn, and weights of 16 bits round by themselves."""
    for name, params in optimizers.items():
        start, exact = _steps(params, torch.float64)
        length = torch.stack([(own - old).norm() for own, old in zip(exact, start, strict=True)]).norm()
        rounding = 2**-8 * torch.stack([own.norm() for own in exact]).norm()
        for dtype, allowed in ((torch.float32, 2e-2 * length), (torch.bfloat16, 0.3 * length + rounding)):
            _, rough = _steps(params, dtype)
            assert all(item.isfinite().all() for item in rough), name
            off = torch.stack([(own.double() - other).norm() for own, other in zip(rough, exact, strict=True)]).norm()
            assert off <= allowed, f"{name}: {off / length:.4f} of the step"


def _steps(params: dict[str, Any], dtype: torch.dtype) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    model = gpt().to(dtype)
    start = [item.detach().double().clone() for item in model.parameters()]
    optimizer = build_optimizer(params, model)
    for rows_of_step in two_processes.batches(3):
        logits = model(input_ids=rows_of_step).logits[:, :-1].double()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), rows_of_step[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        if hasattr(optimizer, "observe_loss"):
            optimizer.observe_loss(loss.detach())
        optimizer.step()
    return start, [item.detach().clone() for item in model.parameters()]
