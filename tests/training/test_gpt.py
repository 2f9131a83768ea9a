"""The GPT of the project: positions, masks, tied weights, muP's scales; and that transformers takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM

from gpt_opt.training.losses import LM
from gpt_opt.training.models import from_config
from gpt_opt.training.models.gpt import GPT, GPTConfig, rotate, rotations
from gpt_opt.training.models.mup import width_multiplier
from gpt_opt.training.objectives.lm import TokenCollator


def made(**settings: Any) -> GPT:
    torch.manual_seed(0)
    shape = {"vocab_size": 50, "n_positions": 16, "n_embd": 24, "n_layer": 2, "n_head": 3}
    return GPT(GPTConfig(**{**shape, **settings})).eval()


IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3]])


def test_rotary_attention_depends_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)

    def score(query: int, key: int) -> float:
        at = [turned(item, place) for item, place in ((q, query), (k, key))]
        return float((at[0] * at[1]).sum())

    def turned(item: torch.Tensor, place: int) -> torch.Tensor:
        return rotate(item[None], *rotations(torch.tensor([place]), 8, 10_000.0))

    for distance in (0, 1, 5, 100):
        first, *others = [score(place + distance, place) for place in (0, 3, 50, 4000)]
        assert others == pytest.approx([first] * 3, rel=1e-9)
    assert score(0, 0) == pytest.approx(float(q @ k), rel=1e-12)
    assert len({round(score(place, 0), 6) for place in range(10)}) == 10
    assert float(turned(q, 77).norm()) == pytest.approx(float(q.norm()), rel=1e-12)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_a_token_sees_none_after_it(positions: str, mlp: str) -> None:
    model, other = made(positions=positions, mlp=mlp), IDS.clone()
    other[:, 5:] = 11
    logits, changed = model(IDS).logits, model(other).logits
    torch.testing.assert_close(logits[:, :5], changed[:, :5])
    assert not torch.allclose(logits[:, 5:], changed[:, 5:])


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(positions: str, side: str) -> None:
    model = made(positions=positions)
    pad = torch.zeros(2, 3, dtype=torch.long)
    left = side == "left"
    ids = torch.cat([pad, IDS] if left else [IDS, pad], dim=1)
    mask = torch.cat([pad, torch.ones_like(IDS)] if left else [torch.ones_like(IDS), pad], dim=1)
    found = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(found[:, 3:] if left else found[:, :-3], model(IDS).logits, rtol=1e-4, atol=1e-5)
    assert found.isfinite().all()


FAMILIES: dict[str, dict[str, Any]] = {
    "gpt": {"n_embd": 16, "n_layer": 1, "n_head": 2},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": None, "eos_token_id": None},
    "qwen2_moe": {
        **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8},
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_are_shifted_once(family: str) -> None:
    torch.manual_seed(0)
    model = from_config({"model_type": family, "vocab_size": 50, **FAMILIES[family]}).eval()
    labels = IDS.clone()
    labels[0, :3] = -100
    with torch.no_grad():
        output = model(input_ids=IDS, labels=labels)
    logps = output.logits[:, :-1].log_softmax(-1).gather(-1, IDS[:, 1:, None]).squeeze(-1)
    targets = labels[:, 1:] != -100
    assert float(output.loss) == pytest.approx(-float(logps[targets].mean()), rel=1e-5)
    assert int(targets.sum()) == 12
    with torch.no_grad():  # as transformers' Trainer asks for it where it accumulates gradients
        divided = model(input_ids=IDS, labels=labels, num_items_in_batch=48).loss
    assert float(divided) == pytest.approx(float(output.loss) / 4, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_pretraining_shifts_labels_as_often_as_the_model_does(family: str) -> None:
    """The loss that loss=lm computes of a row is that of the model with the same tokens as labels."""
    torch.manual_seed(0)
    model = from_config({"model_type": family, "vocab_size": 50, **FAMILIES[family]}).eval()
    batch = TokenCollator()(list(IDS.numpy()))
    with torch.no_grad():
        total = LM()(model(input_ids=batch["input_ids"]).logits, cast("torch.Tensor", batch["labels"]))
        expected = model(input_ids=IDS, labels=IDS).loss
    assert float(total) / 14 == pytest.approx(float(expected), rel=1e-5)


def test_logits_are_kept_of_the_last_tokens() -> None:
    model = made()
    with torch.no_grad():
        torch.testing.assert_close(model(IDS, logits_to_keep=3).logits, model(IDS).logits[:, -3:])
        # The first of the kept tokens has no logits before it.
        kept, labels = model(IDS, labels=IDS, logits_to_keep=3), IDS.clone()
        labels[:, :-2] = -100
        assert float(kept.loss) == pytest.approx(float(model(IDS, labels=labels).loss), rel=1e-6)


def test_embeddings_and_head_are_one() -> None:
    model = made()
    assert model.lm_head.weight is model.transformer["wte"].weight
    names = [name for name, _ in model.named_parameters()]
    assert "transformer.wte.weight" in names
    assert "lm_head.weight" not in names


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_it_is_saved_and_loaded_as_any_other(tmp_path: Path, positions: str) -> None:
    model = made(positions=positions, mlp="swiglu", enable_mup_with_base_n_embd=12)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, GPT)
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    assert loaded.lm_head.weight is loaded.transformer["wte"].weight


def test_it_generates_what_it_predicts() -> None:
    model = made(positions="rotary")
    model.generation_config.pad_token_id = 0
    found = model.generate(IDS, max_new_tokens=4, do_sample=False, use_cache=False)
    ids = IDS
    for _ in range(4):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(found, ids)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    plain, checkpointed = made().train(), made().train()
    checkpointed.gradient_checkpointing_enable()
    assert [model.transformer["h"][0].gradient_checkpointing for model in (plain, checkpointed)] == [False, True]
    for model in (plain, checkpointed):
        model(IDS, labels=IDS).loss.backward()
    for own, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


def test_rotary_positions_have_no_end_and_a_table_has() -> None:
    ids = torch.zeros(1, 20, dtype=torch.long)
    assert made(positions="rotary")(ids).logits.isfinite().all()
    with pytest.raises(ValueError, match="at most 16 tokens, but has 20"):
        made(positions="learned")(ids)


@pytest.mark.parametrize("settings", [{"n_head": 5}, {"positions": "rotary", "n_embd": 21}, {"positions": "none"}])
def test_wrong_shapes_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must divide n_embd|must be learned or rotary"):
        made(**settings)


def test_scales_of_mup(vectors: dict[str, Any]) -> None:
    inputs, expected = vectors["mup_groups"]["inputs"], vectors["mup_groups"]["expected"]
    shape = {key: inputs[key] for key in ("n_embd", "n_head", "n_layer", "enable_mup_with_base_n_embd")}
    config = GPTConfig(vocab_size=64, n_positions=8, mlp="swiglu", **shape)
    assert width_multiplier(config) == expected["width_multiplier"] == expected["output_divisor"]
    model = GPT(config)
    block = model.transformer["h"][0]
    assert block.attn.scale == pytest.approx(expected["attention_scale"], rel=1e-9)
    plain = {key: value for key, value in shape.items() if key != "enable_mup_with_base_n_embd"}
    without = GPT(GPTConfig(vocab_size=8, n_positions=8, **{**plain, "n_layer": 1}))
    assert without.transformer["h"][0].attn.scale == pytest.approx(expected["attention_scale_without_mup"], rel=1e-9)
    std = expected["init_std"]
    for weight in (block.attn.c_attn, block.mlp.c_fc, block.mlp.c_gate):
        assert float(weight.weight.detach().std()) == pytest.approx(std["c_attn,c_fc,c_gate"], rel=0.01)
    for weight in (block.attn.c_proj, block.mlp.c_proj):
        assert float(weight.weight.detach().std()) == pytest.approx(std["c_proj (attn and mlp)"], rel=0.01)
    assert float(model.transformer["wte"].weight.detach().std()) == pytest.approx(std["wte,wpe"], rel=0.02)
    hidden = torch.randn(1, 1, inputs["n_embd"])
    direct = model.lm_head(model.transformer["ln_f"](hidden)) / expected["output_divisor"]
    stream = model.lm_head(model.transformer["ln_f"](hidden) / width_multiplier(config))
    torch.testing.assert_close(direct, stream)
    assert stream.isfinite().all()
