"""Schedules and optimizers against the stored vectors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    get_linear_schedule_with_warmup,
    get_wsd_schedule,
)

from gpt_opt.config.schedules import SCHEDULES, Phases, lr_factor, phases_of
from gpt_opt.errors import ConfigError
from gpt_opt.training.optimizers import (
    NamedParameter,
    Role,
    build_optimizer,
    load_state_by_name,
    named_parameters,
    state_by_name,
)


def factors(schedule: str, steps: int, phases: Phases) -> list[float]:
    return [lr_factor(schedule, step, phases) for step in range(steps)]


@pytest.mark.parametrize("name", ["linear", "sqrt", "exponential_3_0.5", "warm-up-cosine", "constant-linear"])
def test_schedules_match_the_vectors(vectors: dict[str, Any], name: str) -> None:
    inputs, expected = vectors["lr_schedules"]["inputs"], vectors["lr_schedules"]["expected"]
    phases = phases_of(inputs, None, inputs["total_iterations"])
    assert factors(name, len(expected[name]), phases) == pytest.approx(expected[name], rel=1e-9)
    assert set(expected) == {"linear", "sqrt", "exponential_3_0.5", *("warm-up-cosine", "constant-linear"), DPO_NAME}


DPO_NAME = "dpo_linear_warmup_4"


def test_linear_warm_up_is_that_of_the_dpo_reference(vectors: dict[str, Any]) -> None:
    expected = vectors["lr_schedules"]["expected"][DPO_NAME]
    assert factors("warm-up-constant", len(expected), Phases(4, 100)) == pytest.approx(expected, rel=1e-9)


def test_schedules_are_those_of_transformers() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = {
        "warm-up-linear": get_linear_schedule_with_warmup(optimizer, 3, 20),
        "wsd": get_wsd_schedule(optimizer, 3, 4, num_training_steps=20, decay_type="linear"),
    }
    for name, made in theirs.items():
        expected = [made.lr_lambdas[0](step) for step in range(22)]
        assert factors(name, 22, Phases(3, 20, 4)) == pytest.approx(expected, rel=1e-12)


def test_the_fractions_of_wsd() -> None:
    assert phases_of({"warm_up_fraction": 0.1, "decay_fraction": None}, None, 100) == Phases(10, 100, 20)
    assert phases_of({"warm_up_fraction": 0.1, "decay_fraction": 0.5}, 7, 100) == Phases(7, 100, 50)
    assert phases_of({"warm_up_fraction": 0.1}, None, 100) == Phases(10, 100, 20)


def test_constant_is_constant() -> None:
    assert {*factors("constant", 10, Phases(3, 10))} == {1.0}


@pytest.mark.parametrize("name", [*SCHEDULES, "exponential_60_0.5"])
@pytest.mark.parametrize("phases", [Phases(10, 10, 0), Phases(0, 10, 10), Phases(0, 0, 0), Phases(8, 10, 5)])
def test_no_split_of_the_steps_divides_by_nothing(name: str, phases: Phases) -> None:
    assert all(0 <= factor <= 1 for factor in factors(name, 12, phases))


def test_steps_replace_the_fraction() -> None:
    assert phases_of({"warm_up_fraction": 0.1}, None, 200).first == 20
    assert phases_of({"warm_up_fraction": 0.1}, 150, 200).first == 150
    assert phases_of({"warm_up_fraction": 0.1}, 0, 200).first == 0
    assert phases_of({"warm_up_fraction": None}, None, 200).first == 0


@pytest.mark.parametrize(
    ("case", "target"), [("opt_adamw", "torch.optim.AdamW"), ("opt_rmsprop", "torch.optim.RMSprop")]
)
def test_optimizers_match_the_vectors(vectors: dict[str, Any], case: str, target: str) -> None:
    toy, expected = vectors["toy"]["inputs"], vectors[case]["expected"]
    inputs = {key: value for key, value in vectors[case]["inputs"].items() if key != "note"}
    tensors = [torch.tensor(values, dtype=torch.float64) for values in toy["params"]]
    model = torch.nn.ParameterList(tensors)
    parameters = list(model.parameters())
    schedule = {"name": "x", "lr_schedule": "constant", "warm_up_fraction": 0.1}
    optimizer = build_optimizer({"_target_": target, **schedule, **inputs}, model)
    for step, grads in enumerate(toy["grads_per_step"]):
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = torch.tensor(grad, dtype=torch.float64)
        optimizer.step()
        if step == 0:
            _compare(parameters, expected["params_after_step_1"])
    _compare(parameters, expected["params_after_last_step"])


def _compare(parameters: list[torch.nn.Parameter], expected: list[Any]) -> None:
    for parameter, values in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), torch.tensor(values, dtype=torch.float64), rtol=1e-9, atol=1e-10)


def test_frozen_parameters_are_not_given_to_the_optimizer() -> None:
    model = torch.nn.Linear(2, 2)
    model.weight.requires_grad = False
    optimizer = build_optimizer({"name": "x", "_target_": "torch.optim.AdamW", "lr": 0.1}, model)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]


class TwoGroups(torch.optim.SGD):
    """Momentum for matrices alone, the others first."""

    def __init__(self, named_parameters: list[NamedParameter], lr: float, order: int = 1) -> None:
        matrices = [item.parameter for item in named_parameters if item.role is Role.MATRIX]
        others = [item.parameter for item in named_parameters if item.role is not Role.MATRIX]
        super().__init__([{"params": others[::order]}, {"params": matrices[::order], "momentum": 0.9}], lr=lr)


class Forgetful(torch.optim.SGD):
    def __init__(self, named_parameters: list[NamedParameter], lr: float) -> None:
        super().__init__([item.parameter for item in named_parameters if item.role is not Role.NORM], lr=lr)


def model_of(**settings: Any) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=11, n_positions=16, **settings)).eval()


def two_groups(model: torch.nn.Module, target: str = "TwoGroups", **settings: Any) -> torch.optim.Optimizer:
    return build_optimizer({"name": "x", "_target_": f"{__name__}.{target}", "lr": 0.1, **settings}, model)


def step(model: GPT2LMHeadModel, optimizer: torch.optim.Optimizer) -> None:
    ids = torch.arange(10)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("tied", [True, False])
def test_roles_of_gpt2(tied: bool) -> None:
    roles = {
        item.name.removeprefix("transformer."): item.role
        for item in named_parameters(model_of(tie_word_embeddings=tied))
    }
    embeddings = {"wte.weight", "wpe.weight"}
    assert {name for name, role in roles.items() if role is Role.EMBEDDING} == embeddings
    assert {name for name, role in roles.items() if role is Role.HEAD} == (set() if tied else {"lm_head.weight"})
    layers = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert {name for name, role in roles.items() if role is Role.MATRIX} == {f"h.0.{name}.weight" for name in layers}
    norms = {"h.0.ln_1.weight", "h.0.ln_2.weight", "ln_f.weight"}
    assert {name for name, role in roles.items() if role is Role.NORM} == norms
    assert {name for name, role in roles.items() if role is Role.BIAS} == {
        name for name in roles if name.endswith(".bias")
    }


def test_roles_where_names_say_nothing() -> None:
    config = LlamaConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=11)
    roles = {item.name: item.role for item in named_parameters(LlamaForCausalLM(config))}
    assert roles["model.embed_tokens.weight"] is Role.EMBEDDING
    assert roles["lm_head.weight"] is Role.HEAD
    assert roles["model.norm.weight"] is roles["model.layers.0.input_layernorm.weight"] is Role.NORM
    assert roles["model.layers.0.self_attn.q_proj.weight"] is roles["model.layers.0.mlp.up_proj.weight"] is Role.MATRIX


def test_an_optimizer_that_takes_names_makes_its_groups() -> None:
    model = model_of()
    optimizer = two_groups(model)
    assert [group["momentum"] for group in optimizer.param_groups] == [0, 0.9]
    assert [len(group["params"]) for group in optimizer.param_groups] == [len(list(model.parameters())) - 4, 4]


def test_an_optimizer_that_leaves_parameters_out_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"every trainable parameter, but leaves out transformer\.h\.0\.ln_1\.weight"):
        two_groups(model_of(), "Forgetful")


def test_what_is_no_optimizer_is_refused() -> None:
    with pytest.raises(ConfigError, match="must give an Optimizer"):
        build_optimizer({"name": "x", "_target_": "builtins.list"}, model_of())


def test_a_state_goes_on_by_names_in_any_order() -> None:
    """Two steps in one go are two steps with a save between, though the second optimizer counts in reverse."""
    whole, half = model_of(), model_of()
    optimizer = two_groups(whole)
    step(whole, optimizer)
    step(whole, optimizer)
    first = two_groups(half)
    step(half, first)
    saved = state_by_name(half, first)
    assert set(saved["state"]) == {item.name for item in named_parameters(half) if item.role is Role.MATRIX}
    second = two_groups(half, order=-1)
    load_state_by_name(half, second, saved)
    step(half, second)
    for own, other in zip(half.parameters(), whole.parameters(), strict=True):
        assert torch.equal(own, other)


def test_a_state_by_number_goes_on() -> None:
    model = model_of()
    model.transformer.wpe.weight.requires_grad = False
    optimizer = build_optimizer({"name": "x", "_target_": "torch.optim.AdamW", "lr": 0.1}, model)
    step(model, optimizer)
    again = build_optimizer({"name": "x", "_target_": "torch.optim.AdamW", "lr": 0.1}, model)
    load_state_by_name(model, again, optimizer.state_dict())
    bias = model.transformer.ln_f.bias
    assert torch.equal(again.state[bias]["exp_avg"], optimizer.state[bias]["exp_avg"])
    assert len(again.state) == len(optimizer.state)


def test_a_state_of_other_groups_is_refused() -> None:
    model = model_of()
    optimizer = build_optimizer({"name": "x", "_target_": "torch.optim.AdamW", "lr": 0.1}, model)
    step(model, optimizer)
    with pytest.raises(ConfigError, match="in the same 1 groups, but they are in other groups"):
        load_state_by_name(model, two_groups(model), state_by_name(model, optimizer))


@pytest.mark.parametrize("target", ["torch.optim.AdamW", "gpt_opt.training.optimizers.dap.DAP"])
def test_parameters_with_rates_of_their_own_have_groups(target: str) -> None:
    model = model_of()
    named = [
        replace(item, lr_multiplier=0.25 if item.role is Role.MATRIX else 1.0, decays=item.parameter.ndim > 1)
        for item in named_parameters(model)
    ]
    params = {"name": "x", "_target_": target, "lr": 0.4, "weight_decay": 0.1}
    groups = build_optimizer(params, model, named).param_groups
    found = {(group["lr"], group["weight_decay"], len(group["params"])) for group in groups}
    assert found == {(0.1, 0.1, 4), (0.4, 0.1, 2), (0.4, 0.0, 10)}


def test_without_rates_of_their_own_there_is_one_group_as_ever() -> None:
    model = model_of()
    params = {"name": "x", "_target_": "torch.optim.AdamW", "lr": 0.4, "weight_decay": 0.1}
    (group,) = build_optimizer(params, model, named_parameters(model)).param_groups
    assert [id(item) for item in group["params"]] == [id(item) for item in model.parameters()]
