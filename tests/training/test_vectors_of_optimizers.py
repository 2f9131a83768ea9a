"""The project's own optimizers against the stored vectors, in float64, none skipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from gpt_opt.training.optimizers.momo import Momo, MomoAdam
from gpt_opt.training.optimizers.muon_legacy import MuonLegacy
from gpt_opt.training.optimizers.nesgd import NESGD, TruncatedNESGD
from gpt_opt.training.optimizers.orthogonalize import orthogonalize
from gpt_opt.training.optimizers.roles import NamedParameter, Role
from gpt_opt.training.optimizers.sign_gd import SignGD

Inputs = dict[str, Any]
ROLES = (Role.MATRIX, Role.MATRIX, Role.EMBEDDING, Role.NORM)

POLAR = {
    "polar": {"PolarExpress gptopt, 5 steps": "polar_express_deflated"},
    "polar_variant": {"gptopt": "polar_express_deflated"},
}
RENAMED = {
    "wd": "weight_decay",
    "prod_norm": "product_norm",
    "embed_norm": "other_norm",
    "truncate_loss": "fstar",
    "adamw_betas": "betas",
    "polar": "polar_method",
    "polar_variant": "polar_method",
}


def settings(inputs: Inputs) -> Inputs:
    named = {key: POLAR[key][value] if key in POLAR else value for key, value in inputs.items() if key != "losses"}
    return {RENAMED.get(key, key): tuple(value) if isinstance(value, list) else value for key, value in named.items()}


def plain(kind: type[Optimizer]) -> Callable[[list[NamedParameter], Inputs], Optimizer]:
    return lambda named, inputs: kind([item.parameter for item in named], **settings(inputs))


def by_name(kind: Callable[..., Optimizer]) -> Callable[[list[NamedParameter], Inputs], Optimizer]:
    return lambda named, inputs: kind(named, **settings(inputs))


def nesgd(named: list[NamedParameter], inputs: Inputs) -> Optimizer:
    made = settings(inputs)
    return TruncatedNESGD(named, **made) if made["fstar"] is not None else by_name(NESGD)(named, without(inputs))


def without(inputs: Inputs) -> Inputs:
    return {key: value for key, value in inputs.items() if key != "truncate_loss"}


FAMILIES = {
    "opt_sign_gd": plain(SignGD),
    "opt_momo_adam": plain(MomoAdam),
    "opt_momo": plain(Momo),
    "opt_muon_legacy": by_name(MuonLegacy),
    "opt_muon": nesgd,
    "opt_scion": nesgd,
    "opt_nesgd": nesgd,
    "opt_muonmax": nesgd,
}
CASES = [
    *(f"opt_sign_gd_{name}" for name in ("lmo1_nesterov0", "lmo0_nesterov0", "lmo1_nesterov1")),
    *(f"opt_momo_{name}" for name in ("default", "lb3.4_wd", "bias_corr", "fstar")),
    *(f"opt_momo_adam_{name}" for name in ("default", "capped_divide", "fstar")),
    *("opt_muon", "opt_scion", "opt_muon_momo_not_truncated", "opt_muonmax_momo_not_truncated"),
    *("opt_nesgd_l2_nonlmo", "opt_nesgd_linfty_nonlmo", "opt_muon_legacy_nesterov1", "opt_muon_legacy_nesterov0"),
]
"""Of this file; opt_adamw and opt_rmsprop are in test_optimizers, opt_dap_* in test_dap."""


def toy(vectors: dict[str, Any], dtype: torch.dtype = torch.float64) -> list[NamedParameter]:
    inputs = vectors["toy"]["inputs"]
    made = zip(inputs["names"], inputs["params"], ROLES, strict=True)
    module = torch.nn.Module()
    return [
        NamedParameter(name, torch.nn.Parameter(torch.tensor(values, dtype=dtype)), role, module)
        for name, values, role in made
    ]


def trajectory(
    vectors: dict[str, Any], named: list[NamedParameter], optimizer: Optimizer, losses: list[float] | None = None
) -> list[list[torch.Tensor]]:
    """Returns the parameters after each of the three steps."""
    inputs, after = vectors["toy"]["inputs"], []
    for loss, grads in zip(losses or inputs["losses"], inputs["grads_per_step"], strict=True):
        for item, values in zip(named, grads, strict=True):
            item.parameter.grad = torch.tensor(values, dtype=item.parameter.dtype)
        if hasattr(optimizer, "observe_loss"):
            optimizer.observe_loss(torch.tensor(loss, dtype=torch.float64))
        optimizer.step()
        after.append([item.parameter.detach().clone() for item in named])
    return after


def family(case: str) -> Callable[[list[NamedParameter], Inputs], Optimizer]:
    return next(make for name, make in FAMILIES.items() if case.startswith(name))


@pytest.mark.parametrize("case", CASES)
def test_three_steps_in_float64(vectors: dict[str, Any], case: str) -> None:
    named = toy(vectors)
    inputs, expected = vectors[case]["inputs"], vectors[case]["expected"]
    after = trajectory(vectors, named, family(case)(named, inputs), inputs.get("losses"))
    for found, wanted in ((after[0], "params_after_step_1"), (after[-1], "params_after_last_step")):
        for own, values in zip(found, expected[wanted], strict=True):
            torch.testing.assert_close(own, torch.tensor(values, dtype=torch.float64), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_three_steps_in_other_types(vectors: dict[str, Any], case: str, dtype: torch.dtype) -> None:
    """The states are in float32 at least, so weights of 16 bits lose no more than their own rounding."""
    named = toy(vectors, dtype)
    optimizer = family(case)(named, vectors[case]["inputs"])
    after = trajectory(vectors, named, optimizer, vectors[case]["inputs"].get("losses"))
    tolerance = 2e-5 if dtype is torch.float32 else 3e-2
    for own, values in zip(after[-1], vectors[case]["expected"]["params_after_last_step"], strict=True):
        assert own.dtype is dtype
        torch.testing.assert_close(own.float(), torch.tensor(values), rtol=tolerance, atol=tolerance)
    kept = [value for item in named for value in optimizer.state[item.parameter].values() if torch.is_tensor(value)]
    assert {value.dtype for value in kept} <= {torch.float32}


def test_no_vector_is_left_out(vectors: dict[str, Any]) -> None:
    elsewhere = {"opt_adamw", "opt_rmsprop", "opt_muon_momo_negative"}
    own = {name for name in vectors if name.startswith("opt_") and not name.startswith("opt_dap")}
    assert own == {*CASES, *elsewhere}


def test_a_step_below_the_lower_bound_stays_where_it_is(vectors: dict[str, Any]) -> None:
    """The reference steps uphill there, with a rate below zero: opt_muon_momo_negative."""
    case = vectors["opt_muon_momo_negative"]
    rates = case["expected"]["effective_lr"]
    assert rates[0] > 0 > rates[-1]
    named = toy(vectors)
    after = trajectory(vectors, named, nesgd(named, case["inputs"]), case["inputs"]["losses"])
    for own, values in zip(after[0], case["expected"]["params_after_step_1"], strict=True):
        torch.testing.assert_close(own, torch.tensor(values, dtype=torch.float64), rtol=1e-9, atol=1e-11)
    kept = 1 - case["inputs"]["lr"] * case["inputs"]["wd"]
    for before, own in zip(after[1], after[2], strict=True):
        torch.testing.assert_close(own, before * kept, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["opt_momo_lb3.4_wd", "opt_momo_fstar", "opt_momo_adam_fstar"])
def test_the_lower_bound_of_momo(vectors: dict[str, Any], name: str) -> None:
    named = toy(vectors)
    optimizer = family(name)(named, vectors[name]["inputs"])
    assert isinstance(optimizer, Momo | MomoAdam)
    bounds = []
    losses = iter(vectors["toy"]["inputs"]["losses"])
    for grads in vectors["toy"]["inputs"]["grads_per_step"]:
        for item, values in zip(named, grads, strict=True):
            item.parameter.grad = torch.tensor(values, dtype=torch.float64)
        optimizer.observe_loss(torch.tensor(next(losses), dtype=torch.float64))
        optimizer.step()
        bounds.append(float(optimizer.shared["lb"]))
    assert bounds == pytest.approx(vectors[name]["expected"]["lb_after_step"], rel=1e-9)


POLAR_CASES = {
    "polar_express_gptopt_steps": "polar_express_deflated",
    "polar_express_official_steps": "polar_express",
    "newton_schulz_jordan_steps": "jordan",
}


@pytest.mark.parametrize("case", ["polar_wide_2x3", "polar_diag_illcond"])
def test_orthogonal_factors(vectors: dict[str, Any], case: str) -> None:
    matrix = torch.tensor(vectors[case]["inputs"]["G"], dtype=torch.float64)
    tested = set()
    for name, values in vectors[case]["expected"].items():
        prefix = name.rstrip("0123456789")
        expected = torch.tensor(values, dtype=torch.float64)
        if prefix in POLAR_CASES:
            found = orthogonalize(matrix, POLAR_CASES[prefix], int(name.removeprefix(prefix)))
            # The official iteration adds 1e-7 to the norm of its start, ours nothing.
            torch.testing.assert_close(
                found, expected, rtol=2e-6 if "official" in name or "jordan" in name else 1e-9, atol=1e-10
            )
        elif name == "svd_polar":
            torch.testing.assert_close(orthogonalize(matrix, "svd"), expected, rtol=1e-9, atol=1e-11)
        else:
            steps = 5 if "polar_express" in name else 0
            factor = orthogonalize(matrix, "polar_express_deflated" if steps else "svd", steps)
            assert float((matrix * factor).sum()) == pytest.approx(values, rel=1e-9)
        tested.add(name)
    assert tested == set(vectors[case]["expected"])


@pytest.mark.parametrize("method", ["jordan", "polar_express", "polar_express_deflated", "svd"])
def test_orthogonal_factors_of_a_batch_and_of_zeros(method: str) -> None:
    torch.manual_seed(0)
    tall = torch.randn(3, 8, 5, dtype=torch.float64)
    each = torch.stack([orthogonalize(item, method) for item in tall])
    torch.testing.assert_close(orthogonalize(tall, method), each, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(orthogonalize(tall.mT, method).mT, each, rtol=1e-12, atol=1e-12)
    gram = each.mT @ each
    assert (torch.linalg.eigvalsh(gram) - 1).abs().max() < 0.6
    if method != "svd":
        assert (orthogonalize(torch.zeros(4, 3), method) == 0).all()
    rough = orthogonalize(tall.bfloat16(), method).double()
    assert (rough - each).norm() / each.norm() < 0.12  # the steep polynomials amplify the rounding of 16 bits


@pytest.mark.parametrize("case", CASES)
def test_a_step_without_gradients_and_one_of_zeros_gives_no_nan(vectors: dict[str, Any], case: str) -> None:
    named = toy(vectors)
    optimizer = family(case)(named, vectors[case]["inputs"])
    for grads in (False, True):
        for item in named[1:]:
            item.parameter.grad = torch.zeros_like(item.parameter) if grads else None
        if hasattr(optimizer, "observe_loss"):
            optimizer.observe_loss(torch.tensor(3.0, dtype=torch.float64))
        optimizer.step()
    assert all(item.parameter.isfinite().all() for item in named)
    before = [item.parameter.detach().clone() for item in named]
    for item in named:
        item.parameter.grad = torch.ones_like(item.parameter)
    if hasattr(optimizer, "observe_loss"):
        optimizer.observe_loss(torch.tensor(40.0, dtype=torch.float64))
    optimizer.step()
    for item, value in zip(named, before, strict=True):
        assert item.parameter.isfinite().all()
        assert not torch.equal(item.parameter, value), "the state of zeros leads on"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_state_goes_on_bit_equal(vectors: dict[str, Any], case: str, dtype: torch.dtype) -> None:
    whole, inputs = toy(vectors, dtype), vectors[case]["inputs"]
    expected = trajectory(vectors, whole, family(case)(whole, inputs), inputs.get("losses"))
    half = toy(vectors, dtype)
    optimizer = family(case)(half, inputs)
    losses, grads = (
        inputs.get("losses") or vectors["toy"]["inputs"]["losses"],
        vectors["toy"]["inputs"]["grads_per_step"],
    )
    for number in range(3):
        for item, values in zip(half, grads[number], strict=True):
            item.parameter.grad = torch.tensor(values, dtype=dtype)
        if hasattr(optimizer, "observe_loss"):
            optimizer.observe_loss(torch.tensor(losses[number], dtype=torch.float64))
        optimizer.step()
        saved, optimizer = optimizer.state_dict(), family(case)(half, inputs)
        optimizer.load_state_dict(saved)
    for item, values in zip(half, expected[-1], strict=True):
        assert torch.equal(item.parameter, values)
