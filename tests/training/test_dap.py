"""DAP and its pseudo-inverses against the stored vectors, and the reference's faults, which must be absent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gpt_opt.training.optimizers.dap import DAP, micro_batch_stride, systematic_rows
from gpt_opt.training.optimizers.pseudo_inverse import accelerated_inverse, largest_eigenvalue, newton_schulz_inverse
from gpt_opt.training.optimizers.roles import named_parameters

CASES = [
    *("ns_nadam", "ns_nadam_accel", "exact_pinv_nadam", "float_eps_no_second_moment", "accel_no_second_moment"),
    *("disable_precond", "accel_adam_no_nesterov", "accel_update_opnorm", "exact_damped_momentum_nesterov"),
    *("accel_ema0.9", "accel_xtx_subsample0.5"),
]


class Toy(nn.Module):
    """The linear layer and the table of dap_toy."""

    def __init__(self, inputs: dict[str, Any], dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2, dtype=dtype)
        self.wte = nn.Embedding(3, 2, dtype=dtype)
        self.fc.weight.data = torch.tensor(inputs["fc.weight"], dtype=dtype)
        self.fc.bias.data = torch.tensor(inputs["fc.bias"], dtype=dtype)
        self.wte.weight.data = torch.tensor(inputs["wte.weight"], dtype=dtype)


def make(vectors: dict[str, Any], case: str, dtype: torch.dtype = torch.float64) -> tuple[Toy, DAP]:
    model = Toy(vectors["dap_toy"]["inputs"], dtype)
    settings = dict(vectors[f"opt_dap_{case}"]["inputs"])
    settings["weight_decay"] = settings.pop("wd")
    if "dap_beta1" not in settings:  # which says of both that they are 0
        settings |= {"dap_beta1": 0.0, "dap_beta2": 0.0}
    settings.setdefault("dap_beta2", 0.0)
    return model, DAP(named_parameters(model), **settings)


def one_step(vectors: dict[str, Any], model: Toy, optimizer: DAP, number: int) -> None:
    inputs, dtype = vectors["dap_toy"]["inputs"], model.fc.weight.dtype
    rows = torch.tensor(inputs["X_per_step"][number], dtype=dtype)
    for micro_batch in (rows[:2], rows[2:]):
        model.fc(micro_batch)
    model.fc.weight.grad = torch.tensor(inputs["grads_fc_weight"][number], dtype=dtype)
    model.fc.bias.grad = torch.tensor(inputs["grads_fc_bias"][number], dtype=dtype)
    model.wte.weight.grad = torch.tensor(inputs["grads_wte"][number], dtype=dtype)
    optimizer.step()


def close(found: torch.Tensor, values: Any, rtol: float = 1e-8) -> None:
    torch.testing.assert_close(found.double(), torch.tensor(values, dtype=torch.float64), rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize("case", CASES)
def test_three_steps_in_float64(vectors: dict[str, Any], case: str) -> None:
    model, optimizer = make(vectors, case)
    expected = vectors[f"opt_dap_{case}"]["expected"]
    for number, values in enumerate(expected["fc_weight_after_each_step"]):
        one_step(vectors, model, optimizer, number)
        close(model.fc.weight.detach(), values)
    close(model.fc.bias.detach(), expected["fc_bias_after_last"])
    close(model.wte.weight.detach(), expected["wte_after_last"])


def test_no_vector_is_left_out(vectors: dict[str, Any]) -> None:
    assert {f"opt_dap_{case}" for case in CASES} == {name for name in vectors if name.startswith("opt_dap_")}


def test_second_moments_are_means_over_all_rows_of_a_step(vectors: dict[str, Any]) -> None:
    model, optimizer = make(vectors, "accel_ema0.9")
    one_step(vectors, model, optimizer, 0)
    close(optimizer.state[model.fc.weight]["second_moment"], vectors["dap_toy"]["expected"]["C_per_step"][0])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_state_goes_on_bit_equal(vectors: dict[str, Any], case: str, dtype: torch.dtype) -> None:
    whole, one = make(vectors, case, dtype)
    half, optimizer = make(vectors, case, dtype)
    for number in range(3):
        one_step(vectors, whole, one, number)
        one_step(vectors, half, optimizer, number)
        saved = optimizer.state_dict()
        _, optimizer = make(vectors, case, dtype)
        fresh, optimizer = half, DAP(named_parameters(half), **{**_settings(vectors, case)})
        optimizer.load_state_dict(saved)
        assert fresh is half
    assert all(torch.equal(own, other) for own, other in zip(whole.parameters(), half.parameters(), strict=True))
    assert all(item.isfinite().all() for item in half.parameters())


def _settings(vectors: dict[str, Any], case: str) -> dict[str, Any]:
    _, optimizer = make(vectors, case)
    names = set(vectors[f"opt_dap_{case}"]["inputs"]) - {"wd"} | {"weight_decay", "dap_beta1", "dap_beta2"}
    return {name: optimizer.param_groups[0][name] for name in names}


def test_evaluation_gathers_nothing(vectors: dict[str, Any]) -> None:
    """Nor does a forward pass without gradients, such as that of a reference with shared weights."""
    model, optimizer = make(vectors, "ns_nadam")
    other, alone = make(vectors, "ns_nadam")
    model.eval()
    model.fc(torch.full((4, 3), 100.0, dtype=torch.float64))
    model.train()
    with torch.no_grad():
        model.fc(torch.full((4, 3), 100.0, dtype=torch.float64))
    one_step(vectors, model, optimizer, 0)
    one_step(vectors, other, alone, 0)
    assert torch.equal(model.fc.weight, other.fc.weight)


def test_inputs_of_zeros_or_none_leave_the_update_as_it_is(vectors: dict[str, Any]) -> None:
    model, optimizer = make(vectors, "ns_nadam")
    plain, without = make(vectors, "disable_precond")
    for item in (model, plain):
        item.fc.weight.grad = torch.ones_like(item.fc.weight)
    model.fc(torch.zeros(5, 3, dtype=torch.float64))
    optimizer.step()
    without.step()
    assert torch.equal(model.fc.weight, plain.fc.weight)
    optimizer.step()
    without.step()
    assert torch.equal(model.fc.weight, plain.fc.weight)


def test_conv1d_is_a_linear_layer_with_its_weight_on_its_side() -> None:
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    linear, conv = nn.Linear(4, 6, bias=False), Conv1D(6, 4)
    conv.bias.requires_grad = False
    conv.weight.data = linear.weight.data.T.clone()
    x, target = torch.randn(10, 4), torch.randn(10, 6)
    for model in (linear, conv):
        optimizer = DAP(named_parameters(model))
        for _ in range(3):
            optimizer.zero_grad()
            (model(x) - target).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(conv.weight.T, linear.weight, rtol=1e-5, atol=1e-6)


def test_a_text_is_no_number() -> None:
    """PyYAML reads 1e-3 as text, which is truthy and would choose another algorithm."""
    with pytest.raises(ValueError, match=r"accelerated must be true, false or a number, but is the text '1e-3'"):
        DAP(named_parameters(nn.Linear(2, 2)), accelerated="1e-3")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["accel_psdFalse_addeps0_max3", "accel_psdFalse_addeps0_max50"])
def test_accelerated_inverse(vectors: dict[str, Any], name: str) -> None:
    _accelerated(vectors, name, 0.0)


@pytest.mark.parametrize("name", ["accel_psdTrue_addeps1e-3_max3", "accel_psdTrue_addeps1e-3_max50"])
def test_accelerated_inverse_of_positive_definite_matrices(vectors: dict[str, Any], name: str) -> None:
    _accelerated(vectors, name, 1e-3)


def _accelerated(vectors: dict[str, Any], name: str, add_eps: float) -> None:
    case = vectors["pinv_fullrank"]
    matrix = torch.tensor(case["inputs"]["C"], dtype=torch.float64)
    largest = torch.linalg.eigvalsh(matrix)[-1]
    steps = int(name.partition("max")[2])
    found, done = accelerated_inverse(matrix, case["inputs"]["rcond"] * largest, 1.2 * largest, steps, add_eps)
    close(found, case["expected"][name]["Cinv"])
    assert done == case["expected"][name]["iterations_done"]


@pytest.mark.parametrize("rcond", ["0.001", "0.1"])
def test_newton_schulz_inverse(vectors: dict[str, Any], rcond: str) -> None:
    case = vectors["pinv_fullrank"]
    matrix = torch.tensor(case["inputs"]["C"], dtype=torch.float64)
    largest = torch.linalg.eigvalsh(matrix)[-1]
    found, _ = newton_schulz_inverse(matrix, float(rcond) * largest, 100)
    close(found, case["expected"][f"ns_pinv_v2_rcond{rcond}"]["Cinv"], rtol=1e-6)


def test_a_small_matrix_with_an_absolute_addition_does_not_diverge(vectors: dict[str, Any]) -> None:
    case = vectors["pinv_small_scale_absolute_eps"]
    inputs, expected = case["inputs"], case["expected"]
    matrix = torch.diag(torch.tensor(inputs["C_diag"], dtype=torch.float64))
    high = torch.tensor(1.2 * inputs["C_diag"][0] + inputs["add_eps"], dtype=torch.float64)
    low = torch.tensor(inputs["l"], dtype=torch.float64)
    found, _ = accelerated_inverse(matrix, low, high, inputs["max_steps"], inputs["add_eps"])
    close(found.diagonal(), expected["diag_with_u=1.2*sigma+add_eps"], rtol=1e-6)
    close(found.diagonal(), expected["exact_1/(C+add_eps)"], rtol=1e-5)
    layer = nn.Linear(3, 3, bias=False, dtype=torch.float64)
    optimizer = DAP(named_parameters(layer), accelerated=inputs["add_eps"], dap_beta1=0, dap_beta2=0, lr=1.0)
    layer(torch.diag(matrix.diagonal().mul(3).sqrt()))
    layer.weight.grad = torch.ones(3, 3, dtype=torch.float64)
    before = layer.weight.detach().clone()
    optimizer.step()
    close((before - layer.weight.detach())[0], expected["exact_1/(C+add_eps)"], rtol=1e-3)


def test_the_largest_eigenvalue_is_the_same_each_time() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 12, dtype=torch.float64)
    matrix = x.T @ x
    found = [float(largest_eigenvalue(matrix, 500, 1e-10)) for _ in range(2)]
    assert found[0] == found[1] == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-9)
    assert largest_eigenvalue(torch.zeros(3, 3)) == 0


def test_systematic_rows(vectors: dict[str, Any]) -> None:
    case, phase = vectors["systematic_row_sampler"], 0
    for rows, expected in zip(case["inputs"]["micro_batch_rows"], case["expected"]["selected_correct"], strict=True):
        taken, phase = systematic_rows(rows, case["inputs"]["fraction"], phase)
        assert taken == expected


def test_micro_batches_that_are_left_out(vectors: dict[str, Any]) -> None:
    case = vectors["microbatch_subsampling"]
    found = [micro_batch_stride(item["rate"], item["micro_batches"]) for item in case["inputs"]["cases"]]
    assert [list(item) for item in found] == case["expected"]["stride_and_row_fraction"]
    used = [
        [step for step in range(1, item["micro_batches"] + 1) if (step - 1) % stride == 0]
        for item, (stride, _) in zip(case["inputs"]["cases"], found, strict=True)
    ]
    assert used == case["expected"]["microsteps_used_first_optimizer_step"]


@pytest.mark.parametrize("sampling", ["first", "systematic"])
def test_few_rows_are_never_none(sampling: str) -> None:
    layer = nn.Linear(2, 2)
    optimizer = DAP(named_parameters(layer), xtx_subsample=0.1, row_sampling=sampling)
    for _ in range(4):
        layer(torch.ones(3, 2))
    (inputs,) = optimizer._inputs.values()
    assert inputs.rows == (4 if sampling == "first" else 1)
