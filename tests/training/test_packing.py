"""Packed batches and logits in chunks: the same numbers and gradients as of padded batches and whole logits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from gpt_opt.training.data.order import Collator
from gpt_opt.training.data.packing import pack
from gpt_opt.training.data.records import TokenizedPair
from gpt_opt.training.losses import IGNORED, logprob, token_logps
from gpt_opt.training.losses.predictions import Head, Predictions
from gpt_opt.training.models import packed as attention
from gpt_opt.training.packed_forwards import Ways, predict, prove, worth_packing

IDS = torch.arange(61)
SIZES = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
GPT = {"vocab_size": 61, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 40}
PACKS: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", **GPT, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "gpt": {"model_type": "gpt", **GPT},
    "gpt-rotary-mup": {
        "model_type": "gpt", **GPT, "positions": "rotary", "mlp": "swiglu", "enable_mup_with_base_n_embd": 8,
    },
    "llama": {"model_type": "llama", **SIZES, "num_key_value_heads": 2},
    "qwen2": {"model_type": "qwen2", **SIZES, "num_key_value_heads": 2},
    "mistral": {"model_type": "mistral", **SIZES, "num_key_value_heads": 4, "sliding_window": 5},
    "gpt_neox": {"model_type": "gpt_neox", **SIZES},
}  # fmt: skip
PLAIN: dict[str, dict[str, Any]] = {
    "bloom": {"model_type": "bloom", "vocab_size": 61, "hidden_size": 16, "n_layer": 2, "n_head": 4},
    "falcon": {"model_type": "falcon", **SIZES, "attn_implementation": "sdpa"},
    "eager": {**PACKS["llama"], "attn_implementation": "eager"},
    "softcap": {"model_type": "gemma2", **SIZES, "num_key_value_heads": 2, "head_dim": 4},
    "mamba": {"model_type": "mamba", "vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 2},
}
PAIRS = [
    TokenizedPair([1, 2, 3, 4, 5, 6, 7, 8, 9], [10, 11, 12], [10, 13]),  # which begin alike
    TokenizedPair([20], [21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31], [33]),
    TokenizedPair([1, 2, 3, 4], [5, 6], [5, 6]),
    TokenizedPair([1, 2, 3, 4], [7], [7, ~8, 9]),
]


def model_of(settings: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    own = {name: value for name, value in settings.items() if name not in ("model_type", "attn_implementation")}
    config = AutoConfig.for_model(settings["model_type"], **own)
    how = {"attn_implementation": settings["attn_implementation"]} if "attn_implementation" in settings else {}
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, **how)
    for parameter in model.parameters():  # as trained ones: what a token looks at shows
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def logps_and_gradients(model: PreTrainedModel, found: Predictions) -> tuple[Tensor, list[Tensor]]:
    logps = found.logps()
    weights = torch.arange(1.0, 1.0 + len(logps), dtype=logps.dtype)
    gradients = torch.autograd.grad((weights * logps).sum(), list(model.parameters()))
    return logps, list(gradients)


@pytest.mark.parametrize("devices", [("cpu",), ()], ids=["one by one", "as one padded batch"])
@pytest.mark.parametrize("name", PACKS)
def test_a_packed_batch_has_the_numbers_and_gradients_of_a_padded_one(
    monkeypatch: pytest.MonkeyPatch, name: str, devices: tuple[str, ...]
) -> None:
    monkeypatch.setattr(attention, "ONE_BY_ONE", devices)
    model, batch = model_of(PACKS[name]).double(), Collator()(PAIRS)
    ways = prove(model, IDS, 30, half=False)
    assert ways.packs
    assert ways.head is not None
    assert worth_packing(batch)
    plain, gradients = logps_and_gradients(model, predict(model, batch, None, None))
    for head in (None, ways.head):
        found, others = logps_and_gradients(model, predict(model, batch, batch["packed"], head))
        torch.testing.assert_close(found, plain, rtol=1e-6, atol=1e-5)  # some norms are of float32
        for gradient, other in zip(gradients, others, strict=True):
            torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PLAIN)
def test_a_model_that_cannot_is_computed_padded(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    model = model_of(PLAIN[name])
    before, expected = model.config._attn_implementation, model(torch.tensor([[3, 4, 5]]), use_cache=False).logits
    assert not prove(model, IDS, 30, half=False).packs
    assert "batches are padded" in caplog.text
    assert model.config._attn_implementation == before
    torch.testing.assert_close(model(torch.tensor([[3, 4, 5]]), use_cache=False).logits, expected)


def test_a_head_that_caps_its_logits_is_left_whole() -> None:
    assert prove(model_of(PLAIN["softcap"]), IDS, 30, half=False).head is None


def test_a_model_with_a_config_of_its_own_for_text_packs_too() -> None:
    small = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    text = {**small, "vocab_size": 61, "num_key_value_heads": 1, "head_dim": 8}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config={**small, "image_size": 28})
    model = AutoModelForCausalLM.from_config(config)
    ways = prove(model, IDS, 30, half=False)
    assert ways.packs
    assert ways.head is model.lm_head
    config.text_config.final_logit_softcapping = 30.0
    assert prove(model, IDS, 30, half=False).head is None


class Deaf(LlamaForCausalLM):
    """Ignores what it does not know."""

    def forward(self, input_ids: Tensor, attention_mask: Any = None, packed: Any = None, **known: Any) -> Any:
        return super().forward(input_ids, **known)


class Scaled(LlamaForCausalLM):
    """Its logits are not what its head gives."""

    def forward(self, *given: Any, **named: Any) -> Any:
        output = super().forward(*given, **named)
        output.logits = 2 * output.logits
        return output


def test_weights_that_begin_at_zero_hide_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    config = LlamaConfig(**SIZES)
    deaf, scaled = Deaf(config), Scaled(config)
    for name, weight in deaf.named_parameters():
        weight.data *= not name.endswith("o_proj.weight")
    assert not prove(deaf, IDS, 30, half=False).packs
    assert "Deaf does not heed which tokens belong together" in caplog.text
    assert prove(scaled, IDS, 30, half=False).head is None
    scaled.lm_head.weight.data.zero_()
    assert prove(scaled, IDS, 30, half=False) == Ways()
    assert "all tokens are alike" in caplog.text


def test_positions_without_the_mask_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a trained model, of a new one, whose tokens are nearly all alike, and of one with 16 bits."""
    wider = AutoConfig.for_model("llama", **{**SIZES, "hidden_size": 128})
    new = AutoModelForCausalLM.from_config(wider)
    rounded = AutoModelForCausalLM.from_config(wider).bfloat16()
    models = (model_of(PACKS["llama"]), False), (new, False), (rounded, True)
    assert all(prove(model, IDS, 30, half).packs for model, half in models)
    monkeypatch.setattr(attention, "_allowed", lambda branches, *_: torch.ones(2 * branches.shape[-1:]).tril().bool())
    assert not any(prove(model, IDS, 30, half).packs for model, half in models)


def test_a_model_that_takes_packed_batches_computes_others_as_before() -> None:
    model, ids = model_of(PACKS["mistral"]), torch.tensor([[3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 5, 6, 7]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    expected = [copy.deepcopy(model)(ids, attention_mask=given).logits for given in (None, mask)]
    assert prove(model, IDS, 30, half=False).packs
    for given, other in zip((None, mask), expected, strict=True):
        assert torch.equal(model(ids, attention_mask=given).logits[:, 2:], other[:, 2:])


def test_a_packed_batch_holds_each_token_once() -> None:
    packed = pack([[(pair.prompt, own) for own in (pair.chosen, pair.rejected)] for pair in PAIRS])
    assert packed.sizes == (11, 11, 5, 6)
    assert packed.ids.tolist()[0][-11:] == [1, 2, 3, 4, 5, 1, 2, 3, 4, 7, 8]
    assert packed.positions.tolist()[0][:11] == [*range(11)]
    assert packed.branches.tolist()[:23] == [0] * 10 + [1] + [0] + [1] * 10 + [0]
    assert packed.targets.tolist() == [
        *[10, 11, 12], *[21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31], *[5, 6], 7, *[10, 13], 33, *[5, 6], *[7, 9],
    ]  # fmt: skip
    assert packed.shape == (8, 11)


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
def test_logits_in_chunks_have_the_numbers_and_gradients_of_whole_ones(
    monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr(logprob, "_CHUNK_BYTES", chunk_bytes)
    torch.manual_seed(0)
    states, weight = torch.randn(5, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    labels = torch.tensor([3, IGNORED, 0, 6, 2])

    def chunked(states: Tensor, weight: Tensor) -> Tensor:
        return Predictions(Head(states, weight), labels, (1, 5)).token_logps()

    assert torch.autograd.gradcheck(chunked, (states.requires_grad_(), weight.requires_grad_()))
    torch.testing.assert_close(chunked(states, weight), token_logps((states @ weight.T)[None], labels[None])[0])
    other = Head(torch.randn_like(states), weight)
    given, whole = (Predictions(logits, labels, (1, 5)) for logits in (Head(states, weight), states @ weight.T))
    reference = Predictions(other, labels, (1, 5))
    unchunked = Predictions(other.states @ weight.T, labels, (1, 5))
    torch.testing.assert_close(given.kl(reference), whole.kl(unchunked))


def test_chunks_of_16_bits_have_float32_logits_and_never_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprob, "_CHUNK_BYTES", 1 << 14)
    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.shape[:1] == (512,):
                sizes.append(result.numel())
            return result

    torch.manual_seed(0)
    states = torch.randn(512, 8).to(torch.bfloat16).requires_grad_()
    weight = torch.randn(300, 8).to(torch.bfloat16).requires_grad_()
    labels = torch.randint(300, (512,))
    with Watch():
        logps = Predictions(Head(states, weight), labels, (1, 512)).token_logps()
        logps.sum().backward()
    assert max(sizes) <= 512 * 8
    exact = torch.log_softmax(states.double() @ weight.double().T, -1).gather(-1, labels[:, None])[:, 0]
    assert (logps - exact).abs().max() < 1e-4
    rounded = token_logps((states @ weight.T)[None], labels[None])[0]
    assert (rounded - exact).abs().max() > 1e-3  # which whole logits of 16 bits have


def test_a_head_that_is_not_trained_costs_no_gradient() -> None:
    shapes: list[torch.Size] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            shapes.append(getattr(result, "shape", torch.Size()))
            return result

    states, weight = torch.randn(5, 3, requires_grad=True), torch.randn(7, 3)
    logps = Predictions(Head(states, weight), torch.arange(5), (1, 5)).token_logps()
    with Watch():
        (gradient,) = torch.autograd.grad(logps.sum(), states)
    assert torch.Size((7, 3)) not in shapes
    expected = token_logps((states @ weight.T)[None], torch.arange(5)[None])
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), states)[0])
