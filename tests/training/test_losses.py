"""Losses against the stored vectors, and log-probabilities against torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gpt_opt.training.losses import DPO, IGNORED, SFT, PairLogps, sequence_kl, token_logps
from gpt_opt.training.losses import logprob as logprob_module


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
    close(SFT()(found) / (shifted != IGNORED).sum(), case["expected"]["sft_token_mean_loss"])


CASES = {
    "dpo_sigmoid_beta0.1": DPO(beta=0.1),
    "cdpo_ls0.1_beta0.5": DPO(beta=0.5, label_smoothing=0.1),
    "dpo_reference_free_beta0.5": DPO(beta=0.5, reference_free=True),
}


def pair_logps(inputs: dict[str, Any]) -> PairLogps:
    def tensor(name: str) -> Tensor:
        return torch.tensor(inputs[name], dtype=torch.float64, requires_grad=True)

    names = ("policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
    return PairLogps(*(tensor(name) for name in names))


@pytest.mark.parametrize("name", CASES)
def test_dpo_matches_the_vectors(vectors: dict[str, Any], name: str) -> None:
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
        DPO(beta=0.1)(PairLogps(logps, logps))


def test_dpo_survives_large_margins() -> None:
    logps = torch.tensor([-5000.0, 0.0])
    found = DPO(beta=1.0)(PairLogps(logps, -logps - 5000, torch.zeros(2), torch.zeros(2)))
    assert torch.isfinite(found.losses).all()


def test_sft_matches_the_vector_of_shifted_labels(vectors: dict[str, Any]) -> None:
    case = vectors["causal_lm_preshifted"]
    logits = torch.tensor(case["inputs"]["logits"], dtype=torch.float64)
    labels = torch.tensor(case["inputs"]["targets_y"])
    labels = labels.masked_fill(labels < 0, IGNORED)
    total = SFT()(token_logps(logits, labels)) / (labels != IGNORED).sum()
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


def test_sequence_kl_is_the_divergence_summed_over_answer_tokens() -> None:
    torch.manual_seed(0)
    policy, reference = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    labels = torch.tensor([[1, 2, IGNORED], [IGNORED, 0, 4]])
    p = torch.distributions.Categorical(logits=policy)
    q = torch.distributions.Categorical(logits=reference)
    expected = (torch.distributions.kl_divergence(p, q) * (labels != IGNORED)).sum(-1)
    torch.testing.assert_close(sequence_kl(policy, reference, labels), expected)
    assert sequence_kl(policy, policy, labels).abs().max() == 0
