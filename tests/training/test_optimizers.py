"""Schedules and optimizers against the stored vectors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from gpt_opt.training.optimizers import build_optimizer, lr_factor, phase_steps

NAMES = {"warm-up-cosine": "warm-up-cosine", "constant-linear": "constant-linear"}


@pytest.mark.parametrize("name", NAMES)
def test_schedules_match_the_vectors(vectors: dict[str, Any], name: str) -> None:
    case = vectors["lr_schedules"]
    total = case["inputs"]["total_iterations"]
    first = phase_steps(total, case["inputs"]["warm_up_fraction"], None)
    expected = case["expected"][NAMES[name]]
    found = [lr_factor(name, step, first, total) for step in range(len(expected))]
    assert found == pytest.approx(expected, rel=1e-9)


def test_linear_warm_up_is_that_of_the_dpo_reference(vectors: dict[str, Any]) -> None:
    expected = vectors["lr_schedules"]["expected"]["dpo_linear_warmup_4"]
    found = [lr_factor("warm-up-constant", step, 4, 100) for step in range(len(expected))]
    assert found == pytest.approx(expected, rel=1e-9)


def test_linear_is_that_of_transformers() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, 3, 10).lr_lambdas[0]
    assert [lr_factor("warm-up-linear", step, 3, 10) for step in range(12)] == [theirs(step) for step in range(12)]


def test_constant_is_constant() -> None:
    assert {lr_factor("constant", step, 3, 10) for step in range(10)} == {1.0}


@pytest.mark.parametrize("name", ["warm-up-constant", "warm-up-cosine", "warm-up-linear", "constant-linear"])
def test_a_first_phase_as_long_as_the_run_divides_by_nothing(name: str) -> None:
    assert all(0 <= lr_factor(name, step, 10, 10) <= 1 for step in range(12))


def test_steps_replace_the_fraction() -> None:
    assert phase_steps(200, 0.1, None) == 20
    assert phase_steps(200, 0.1, 150) == 150
    assert phase_steps(200, 0.1, 0) == 0
    assert phase_steps(200, None, None) == 0


@pytest.mark.parametrize(
    ("case", "target"), [("opt_adamw", "torch.optim.AdamW"), ("opt_rmsprop", "torch.optim.RMSprop")]
)
def test_optimizers_match_the_vectors(vectors: dict[str, Any], case: str, target: str) -> None:
    toy, expected = vectors["toy"]["inputs"], vectors[case]["expected"]
    inputs = {key: value for key, value in vectors[case]["inputs"].items() if key != "note"}
    parameters = [torch.nn.Parameter(torch.tensor(values, dtype=torch.float64)) for values in toy["params"]]
    schedule = {"name": "x", "lr_schedule": "constant", "warm_up_fraction": 0.1}
    optimizer = build_optimizer({"_target_": target, **schedule, **inputs}, parameters)
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
    frozen, free = torch.nn.Parameter(torch.zeros(1), requires_grad=False), torch.nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer({"name": "x", "_target_": "torch.optim.AdamW", "lr": 0.1}, [frozen, free])
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]
