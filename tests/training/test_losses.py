"""Losses against the stored vectors, and log-probabilities against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt_opt.config.checks.losses import LOSS_TYPES
from gpt_opt.errors import ConfigError
from gpt_opt.training.losses import (
    DPO,
    IGNORED,
    IPO,
    KTO,
    ORPO,
    SFT,
    Hinge,
    IPOSum,
    KTOPair,
    PairLogps,
    PairLoss,
    PreferenceLoss,
    Robust,
    build_dpo,
    reference_point,
    token_logps,
)
from gpt_opt.training.losses import logprob as logprob_module
from gpt_opt.training.losses.orpo import log_odds
from gpt_opt.training.losses.predictions import Predictions


def close(found: Tensor, expected: Any) -> None:
    torch.testing.assert_close(found.detach(), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 25])
def test_sequence_logps_match_the_vectors(
    vectors: dict[str, Any], monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr(logprob_module, "_CHUNK_BYTES", chunk_bytes)
    case = vectors["seq_logprob"]
    logits = torch.tensor(case["inputs"]["logits"], dtype=torch.float64)
    labels = torch.tensor(case["inputs"]["labels"])
    shifted = torch.cat([labels[:, 1:], torch.full((len(labels), 1), IGNORED)], dim=1)
    found = token_logps(logits, shifted)
    close(found[:, :-1], case["expected"]["per_token_logp_shifted"])
    close(found.sum(-1), case["expected"]["sum_logp"])
    tokens = (shifted != IGNORED).sum(-1)
    assert tokens.tolist() == case["expected"]["valid_counts"]
    close(found.sum(-1) / tokens, case["expected"]["avg_logp"])
    names = {"token_mean": "sft_token_mean_loss", "sequence_sum": "sft_seqsum_batchmean_loss(eric)"}
    for reduction, name in {**names, "sequence_mean": "sft_seqmean_batchmean_loss"}.items():
        loss = SFT(reduction)  # type: ignore[arg-type]
        close(loss(found.sum(-1), tokens) / loss.denominator(tokens), case["expected"][name])


def test_the_means_of_sft_differ_where_lengths_do() -> None:
    logps, tokens = torch.tensor([-6.0, -2.0], dtype=torch.float64), torch.tensor([3, 4])
    found = {name: float(SFT(name)(logps, tokens) / SFT(name).denominator(tokens)) for name in REDUCTIONS}
    assert found == pytest.approx({"token_mean": 8 / 7, "sequence_sum": 4.0, "sequence_mean": 1.25})


REDUCTIONS = ("token_mean", "sequence_sum", "sequence_mean")
CASES = {
    "dpo_sigmoid_beta0.1": DPO(beta=0.1),
    "cdpo_ls0.1_beta0.5": DPO(beta=0.5, label_smoothing=0.1),
    "dpo_reference_free_beta0.5": DPO(beta=0.5, reference_free=True),
    "robust_eps0.1_beta0.5": Robust(beta=0.5, label_smoothing=0.1),
    "hinge_beta0.5": Hinge(beta=0.5),
    "ipo_sum_eric_beta0.5": IPOSum(beta=0.5),
    "ipo_avg_trl_beta0.5": IPO(beta=0.5),
}
LOGPS = ("policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
TOKENS = {"n_chosen_tokens": [5, 12, 3, 8], "n_rejected_tokens": [6, 11, 4, 9]}


def pair_logps(inputs: dict[str, Any]) -> PairLogps:
    logps = [torch.tensor(inputs[name], dtype=torch.float64, requires_grad=True) for name in LOGPS]
    tokens = [torch.tensor(inputs.get(name, default)) for name, default in TOKENS.items()]
    return PairLogps(*logps[:2], *tokens, *logps[2:])


@pytest.mark.parametrize("name", CASES)
def test_losses_over_pairs_match_the_vectors(vectors: dict[str, Any], name: str) -> None:
    case = vectors[name]
    logps, expected = pair_logps(case["inputs"]), case["expected"]
    found = CASES[name](logps)
    close(found.losses, expected["losses"])
    close(found.losses.mean(), expected["mean"])
    found.losses.mean().backward()
    assert logps.chosen.grad is not None
    assert logps.rejected.grad is not None
    close(logps.chosen.grad, expected["grad_policy_chosen"])
    close(logps.rejected.grad, expected["grad_policy_rejected"])
    if name == "dpo_sigmoid_beta0.1":
        close(found.rewards_chosen, expected["rewards_chosen"])
        close(found.rewards_rejected, expected["rewards_rejected"])


def test_reference_free_rewards_leave_the_reference_out_as_the_loss_does(vectors: dict[str, Any]) -> None:
    """The DPO reference subtracts it from the logged rewards all the same; the vectors hold that (see DPO)."""
    inputs = vectors["dpo_reference_free_beta0.5"]["inputs"]
    found = CASES["dpo_reference_free_beta0.5"](pair_logps(inputs))
    close(found.rewards_chosen, [0.5 * value for value in inputs["policy_chosen_logps"]])
    close(found.rewards_rejected, [0.5 * value for value in inputs["policy_rejected_logps"]])


def test_dpo_without_a_reference_says_so() -> None:
    logps = torch.zeros(2)
    with pytest.raises(ValueError, match="no reference"):
        DPO(beta=0.1)(PairLogps(logps, logps, torch.ones(2), torch.ones(2)))


def test_dpo_survives_large_margins() -> None:
    logps = torch.tensor([-5000.0, 0.0])
    found = DPO(beta=1.0)(PairLogps(logps, -logps - 5000, torch.ones(2), torch.ones(2), torch.zeros(2), torch.zeros(2)))
    assert torch.isfinite(found.losses).all()


def test_kto_pair_matches_the_vector_with_no_gradient_through_its_means(vectors: dict[str, Any]) -> None:
    """TRL lets the gradient through; the vector holds both, and ours is the one of the KTO paper."""
    case = vectors["kto_pair_beta0.5"]
    logps, expected = pair_logps(case["inputs"]), case["expected"]
    found = KTOPair(beta=0.5)(logps)
    both = torch.tensor(expected["losses"], dtype=torch.float64)
    close(found.losses, both.view(2, -1).mean(0).tolist())
    close(found.losses.mean(), expected["mean"])
    found.losses.mean().backward()
    assert logps.chosen.grad is not None
    assert logps.rejected.grad is not None
    close(logps.chosen.grad, expected["grad_policy_chosen_if_z_detached"])
    close(logps.rejected.grad, expected["grad_policy_rejected_if_z_detached"])


def test_kto_matches_the_vector(vectors: dict[str, Any]) -> None:
    inputs, expected = vectors["kto_z_positive"]["inputs"], vectors["kto_z_positive"]["expected"]
    policy, reference, policy_kl, reference_kl = (
        torch.tensor(inputs[name], dtype=torch.float64, requires_grad=name == "policy_logps")
        for name in ("policy_logps", "ref_logps", "policy_kl_logps", "ref_kl_logps")
    )
    z = reference_point((policy_kl - reference_kl).mean())
    close(z, expected["z0"])
    loss = KTO(inputs["beta"], inputs["desirable_weight"], inputs["undesirable_weight"])
    found = loss(policy, reference, torch.tensor(inputs["label_desirable"]), z)
    close(found.losses, expected["losses_in_input_order"])
    close(found.losses.mean(), expected["mean_loss"])
    close(found.rewards, expected["rewards"])
    found.losses.mean().backward()
    assert policy.grad is not None
    close(policy.grad, expected["grad_policy_logps"])
    assert found.correct.tolist() == [True, True, True, False, False]


def test_margins_within_rounding_are_ties_and_ties_are_wrong() -> None:
    rewards = torch.tensor([0.0, 9e-7, -9e-7, 2e-6, -2e-6])
    assert PreferenceLoss(rewards, rewards, torch.zeros(5)).correct.tolist() == [False, False, False, True, False]
    judged = KTO(0.1)(10 * rewards, torch.zeros(5), torch.tensor([True, True, False, True, False]), torch.tensor(0.0))
    assert judged.correct.tolist() == [False, False, False, True, True]


def test_the_reference_point_is_never_negative() -> None:
    assert reference_point(torch.tensor(-3.0)).item() == 0
    z = torch.tensor(0.5, requires_grad=True)
    assert not reference_point(z).requires_grad


def test_orpo_matches_the_vector(vectors: dict[str, Any]) -> None:
    inputs, expected = vectors["orpo_beta0.1"]["inputs"], vectors["orpo_beta0.1"]["expected"]
    chosen, rejected = (
        torch.tensor(inputs[f"avg_logp_{side}"], dtype=torch.float64) for side in ("chosen", "rejected")
    )
    close(log_odds(chosen) - log_odds(rejected), expected["log_odds"])
    tokens = torch.tensor([4, 1, 7]), torch.tensor([2, 3, 5])
    logps = PairLogps(chosen * tokens[0], rejected * tokens[1], *tokens)
    alone, whole = ORPO(0.1, sft_term=False)(logps), ORPO(0.1)(logps)
    close(alone.losses.mean(), expected["or_term_mean"])
    close(alone.losses.mean() + inputs["nll_chosen"], expected["total_loss"])
    close(whole.losses - alone.losses, [1.2, 0.05, 2.5])
    close(whole.rewards_chosen, expected["rewards_chosen"])
    close(whole.rewards_rejected, expected["rewards_rejected"])


def test_odds_are_finite_and_exact_from_never_to_certain() -> None:
    logps = torch.tensor([-100.0, -1e-3, -1e-7, 0.0], requires_grad=True)
    found = log_odds(logps)
    found.sum().backward()
    assert logps.grad is not None
    assert torch.isfinite(logps.grad).all()
    exact = torch.logit(logps.detach().double().clamp(max=-1e-7).exp())
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)


GRADCHECKED: dict[str, PairLoss] = {
    **CASES,
    "hinge_reference_free": Hinge(beta=0.5, reference_free=True),
    "ipo_reference_free": IPO(beta=0.5, reference_free=True),
    "kto_pair": KTOPair(beta=0.5),
    "orpo": ORPO(beta=0.5),
    "orpo_alone": ORPO(beta=0.5, sft_term=False),
}


@pytest.mark.parametrize("name", GRADCHECKED)
def test_gradients_of_losses_over_pairs(name: str) -> None:
    loss = GRADCHECKED[name]
    chosen = torch.tensor([-3.0, -9.5, -4.2], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-6.1, -2.0, -4.1], dtype=torch.float64, requires_grad=True)
    reference = [torch.tensor(values, dtype=torch.float64) for values in ([-4.0, -9.0, -6.0], [-5.0, -2.5, -4.0])]
    tokens = torch.tensor([2, 5, 3]), torch.tensor([4, 1, 2])
    # What no gradient goes through is held, or the numerical derivative would see it move.
    held = KTOPair(0.5)(PairLogps(chosen, rejected, *tokens, *reference)) if name == "kto_pair" else None

    def losses(first: Tensor, second: Tensor) -> Tensor:
        if held is None:
            return loss(PairLogps(first, second, *tokens, *reference)).losses
        return kto_pair_with_fixed_means(first - reference[0], second - reference[1])

    assert torch.autograd.gradcheck(losses, (chosen, rejected))
    if held is not None:
        torch.testing.assert_close(held.losses, losses(chosen, rejected))
        ours = torch.autograd.grad(held.losses.sum(), (chosen, rejected))
        theirs = torch.autograd.grad(losses(chosen, rejected).sum(), (chosen, rejected))
        torch.testing.assert_close(ours, theirs)


def kto_pair_with_fixed_means(chosen: Tensor, rejected: Tensor) -> Tensor:
    """KTOPair(0.5) for the log-ratios of the test above, whose means are 2.3 / 3 and -0.7 / 3."""
    return (2 - torch.sigmoid(0.5 * chosen) - torch.sigmoid(0.5 * (2.3 / 3 - rejected))) / 2


def test_gradients_of_kto() -> None:
    logps = torch.tensor([-3.0, -9.5, -4.2], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-4.0, -9.0, -6.0], dtype=torch.float64)
    desirable, z = torch.tensor([True, False, True]), torch.tensor(0.4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: KTO(0.5, 1.0, 1.3)(x, reference, desirable, z).losses, (logps,))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_of_sft(reduction: Any) -> None:
    logps = torch.tensor([-3.0, -9.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: SFT(reduction)(x, torch.tensor([2, 5])), (logps,))


VARIANTS: dict[str, Callable[..., PairLoss]] = {
    "sigmoid": DPO,
    "hinge": Hinge,
    "ipo": IPO,
    "ipo_sum": IPOSum,
    "kto_pair": KTOPair,
}


def test_loss_type_names_the_loss() -> None:
    for name, kind in VARIANTS.items():
        assert build_dpo(name, 0.2) == kind(0.2)
    assert build_dpo("robust", 0.2, 0.1) == Robust(0.2, 0.1)
    assert build_dpo("sigmoid", 0.2, 0.1, True) == DPO(0.2, 0.1, True)
    assert VARIANTS.keys() | {"robust"} == LOSS_TYPES.keys()


@pytest.mark.parametrize("name", LOSS_TYPES)
def test_what_a_loss_would_ignore_is_refused(name: str) -> None:
    for key, value in (("label_smoothing", 0.1), ("reference_free", True)):
        settings = {"label_smoothing": 0.1 if name == "robust" else 0.0, key: value}
        if key in LOSS_TYPES[name]:
            assert getattr(build_dpo(name, 0.1, **settings), key) == value  # type: ignore[arg-type]
        else:
            with pytest.raises(ConfigError, match=rf"loss\.{key}: is {value}, but loss.loss_type={name} would ignore"):
                build_dpo(name, 0.1, **settings)  # type: ignore[arg-type]


def test_robust_needs_a_share_and_no_other_type_is_known() -> None:
    with pytest.raises(ConfigError, match="must be above 0 for"):
        build_dpo("robust", 0.1)
    with pytest.raises(ConfigError, match="must be one of sigmoid, robust, hinge"):
        build_dpo("sigmod", 0.1)


def test_sft_matches_the_vector_of_shifted_labels(vectors: dict[str, Any]) -> None:
    case = vectors["causal_lm_preshifted"]
    logits = torch.tensor(case["inputs"]["logits"], dtype=torch.float64)
    labels = torch.tensor(case["inputs"]["targets_y"])
    labels = labels.masked_fill(labels < 0, IGNORED)
    tokens = (labels != IGNORED).sum(-1)
    total = SFT()(token_logps(logits, labels).sum(-1), tokens) / SFT().denominator(tokens)
    close(total, case["expected"]["mean_loss"])


@pytest.mark.parametrize("chunk_bytes", [1, 100, 1 << 25])
def test_gradients_of_token_logps(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    monkeypatch.setattr(logprob_module, "_CHUNK_BYTES", chunk_bytes)
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 7, (2, 5))
    labels[0, 2] = IGNORED
    assert torch.autograd.gradcheck(lambda x: token_logps(x, labels), (logits,))


def test_half_precision_logits_are_summed_in_float32() -> None:
    torch.manual_seed(0)
    logits = (torch.randn(3, 4, 1000) * 5).to(torch.bfloat16)
    labels = torch.randint(0, 1000, (3, 4))
    found = token_logps(logits, labels)
    exact = logits.double().log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_no_float32_copy_of_half_precision_logits_is_made() -> None:
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.dtype is torch.float32:
                sizes.append(result.numel())
            return result

    logits = torch.randn(1, 256, 65536).to(torch.bfloat16).requires_grad_()
    labels = torch.randint(0, 65536, (1, 256))
    with Watch():
        token_logps(logits, labels).sum().backward()
    assert max(sizes) <= logits.numel() // 2


def kl(policy: Tensor, reference: Tensor, labels: Tensor) -> Tensor:
    """Returns the divergence (B,) of logits (B, T, V) and (B, T, W)."""
    own, other = (Predictions(item.flatten(0, 1), labels.flatten(), labels.shape) for item in (policy, reference))
    return own.kl(other)


def test_kl_is_the_divergence_summed_over_answer_tokens() -> None:
    torch.manual_seed(0)
    policy, reference = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    labels = torch.tensor([[1, 2, IGNORED], [IGNORED, 0, 4]])
    p = torch.distributions.Categorical(logits=policy)
    q = torch.distributions.Categorical(logits=reference)
    expected = (torch.distributions.kl_divergence(p, q) * (labels != IGNORED)).sum(-1)
    torch.testing.assert_close(kl(policy, reference, labels), expected)
    assert kl(policy, policy, labels).abs().max() == 0


@pytest.mark.parametrize("more", [7, -2])
def test_kl_of_padded_vocabularies_is_over_the_tokens_that_both_have(more: int) -> None:
    torch.manual_seed(0)
    policy, reference = torch.randn(1, 2, 5, dtype=torch.float64), torch.randn(1, 2, 5 + more, dtype=torch.float64)
    labels = torch.zeros(1, 2, dtype=torch.int64)
    p, q, common = policy.softmax(-1), reference.softmax(-1), min(5, 5 + more)
    terms = p[..., :common] * (p[..., :common] / q[..., :common]).log()
    torch.testing.assert_close(kl(policy, reference, labels), terms.sum((-1, -2)))
    padded = torch.cat([policy, torch.full((1, 2, 3), -1e9, dtype=torch.float64)], dim=-1)
    torch.testing.assert_close(kl(policy, padded, labels), torch.zeros(1, dtype=torch.float64))
