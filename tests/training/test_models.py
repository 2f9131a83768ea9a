"""Models by folder, archive and type of weights, on tiny ones that are built and saved here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import ConfigCompositionException
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    dynamic_module_utils,
)

from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.errors import ConfigError
from gpt_opt.training.build import build
from gpt_opt.training.loop import train
from gpt_opt.training.models.build import build_model, build_tokenizer, without_dropout
from gpt_opt.training.models.byte_tokenizer import byte_tokenizer
from tests.training.test_training import DPO, config, equal, final_weights, finish, folder, hooks, rows

SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A tiny Llama stored in bfloat16, whose tokenizer has no padding token."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=258, **SHAPE))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "llama")
    bytes_ = byte_tokenizer()
    bare = PreTrainedTokenizerFast(tokenizer_object=bytes_.backend_tokenizer, eos_token=bytes_.eos_token)
    bare.save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.fixture
def hf(small: list[str], saved: Path) -> list[str]:
    kept = [item for item in small if not item.startswith("model.")]
    return [*kept, *DPO, "model=hf", f"model.name_or_path={saved}"]


def types(model: PreTrainedModel) -> set[torch.dtype]:
    return {item.dtype for item in model.parameters()}


@pytest.mark.parametrize(
    ("overrides", "policy", "reference"),
    [
        ([], torch.float32, torch.float32),
        (["model.policy_dtype=bfloat16"], torch.bfloat16, torch.bfloat16),
        (["model.policy_dtype=null"], torch.bfloat16, torch.bfloat16),
        (["model.reference_dtype=bfloat16"], torch.float32, torch.bfloat16),
        (["model.policy_dtype=bfloat16", "model.reference_dtype=float32"], torch.bfloat16, torch.float32),
        (["model.reference_dtype=float16", "loss.ref_model_id=${model.name_or_path}"], torch.float32, torch.float16),
    ],
)
def test_policy_and_reference_have_the_types_asked_for(
    hf: list[str], overrides: list[str], policy: torch.dtype, reference: torch.dtype
) -> None:
    chosen = config([*hf, *overrides])
    assert constraint_problems(chosen) == []
    parts = build(chosen)
    assert parts.reference is not None
    assert parts.reference.is_policy is (policy == reference)
    assert types(parts.policy) == {policy}
    with parts.reference.of(parts.policy) as model:
        assert types(model) == {reference}
        rotary = [item for name, item in model.named_buffers() if "inv_freq" in name]
    assert {item.dtype for item in rotary} == {torch.float32}, "positions must not be rounded"


def test_a_random_model_of_16_bits_is_the_rounded_one_of_32(small: list[str]) -> None:
    full = dict(build(config([*small, *DPO])).policy.named_parameters())
    for name, item in build(config([*small, *DPO, "model.policy_dtype=bfloat16"])).policy.named_parameters():
        assert torch.equal(item, full[name].to(torch.bfloat16))


def test_a_model_of_16_bits_trains(tmp_path: Path, hf: list[str]) -> None:
    steps = ["model.policy_dtype=bfloat16", "training.training_params.max_steps=2"]
    result = finish([*hf, *steps, "optimizer.optimizer_params.lr=0.01"], folder(tmp_path / "run"))
    assert result.metrics["eval/kl"] > 0


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model.reference_dtype=float16", "lora=lora"], "would be ignored: with lora the base weights"),
        (["model.reference_dtype=float16", "loss=orpo"], "would be ignored: the loss has no reference"),
        (["model.policy_dtype=float16"], "model.policy_dtype: must be float32 or bfloat16"),
        (["model.attn_implementation=flash_attention_2"], "computes in 16 bits, but policy_dtype is float32"),
    ],
)
def test_types_that_would_be_ignored_or_cannot_train_are_refused(overrides: list[str], says: str) -> None:
    (problem,) = constraint_problems(config([*DPO, *overrides]))
    assert says in str(problem)


def test_types_that_can_be_used_pass() -> None:
    for overrides in (
        ["model.policy_dtype=float16", "lora=lora"],
        ["model.attn_implementation=flash_attention_2", "training.training_params.mixed_precision=bf16"],
    ):
        assert constraint_problems(config([*DPO, *overrides])) == []


@pytest.mark.parametrize("override", ["model.policy_dtype=int8", "model.attn_implementation=fast"])
def test_a_type_or_an_attention_that_does_not_exist_does_not_compose(override: str) -> None:
    with pytest.raises(ConfigCompositionException):
        config([*DPO, override])


def test_a_tokenizer_without_a_padding_token_pads_with_its_end(
    hf: list[str], saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert AutoTokenizer.from_pretrained(saved).pad_token is None
    with caplog.at_level("INFO"):
        parts = build(config(hf))
    assert parts.tokenizer.pad_token == parts.tokenizer.eos_token == "<|endoftext|>"
    assert caplog.text.count("has no padding token") == 1
    with caplog.at_level("INFO"):
        assert build_tokenizer({"tokenizer_name_or_path": "bytes"}).pad_token == "<|pad|>"
    assert caplog.text.count("has no padding token") == 1


def test_ends_of_texts_are_learned_though_they_pad(hf: list[str]) -> None:
    """A pad token that is the end of a text must not make the ends look like padding: each answer has one label."""
    parts = build(config(hf))
    batch: dict[str, Any] = dict(parts.collator(parts.objective.arrange(parts.items.train)[:8]))
    eos = parts.tokenizer.eos_token_id
    assert (batch["labels"] == eos).sum(1).tolist() == [1] * 16


def test_padding_does_not_change_what_a_text_gets(hf: list[str]) -> None:
    parts = build(config(hf))
    parts.policy.eval()
    ids = torch.arange(60, 80)[None]
    padded = torch.cat([ids, torch.full((1, 9), 256)], dim=1)
    with torch.no_grad():
        alone, beside = parts.policy(input_ids=ids).logits, parts.policy(input_ids=padded).logits
    assert torch.allclose(alone, beside[:, :20], atol=1e-6)


def test_the_attention_asked_for_is_taken(hf: list[str], small: list[str], caplog: pytest.LogCaptureFixture) -> None:
    for base in (hf, [*small, *DPO]):
        for name in ("eager", "sdpa"):
            parts = build(config([*base, f"model.attn_implementation={name}"]))
            assert parts.policy.config._attn_implementation == name
    assert "is not available" not in caplog.text


def test_an_attention_that_is_not_there_is_replaced_with_one_line(
    hf: list[str], small: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    from transformers.utils import is_flash_attn_2_available

    if is_flash_attn_2_available():
        pytest.skip("flash attention is there")
    for base in (hf, [*small, *DPO]):
        caplog.clear()
        plain = build(config(base)).policy
        policy = build(config([*base, "model.attn_implementation=flash_attention_2"])).policy
        assert policy.config._attn_implementation == "sdpa"
        assert caplog.text.count("attention flash_attention_2 is not available, taking sdpa") == 1
        for first, second in zip(plain.parameters(), policy.parameters(), strict=True):
            assert torch.equal(first, second)


def test_code_that_comes_with_a_model_runs_only_when_it_is_trusted(
    tmp_path: Path, hf: list[str], saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    settings = AutoConfig.from_pretrained(saved).to_dict()
    settings["auto_map"] = {"AutoConfig": "mine.MyConfig", "AutoModelForCausalLM": "mine.MyModel"}
    settings["model_type"] = "mine"
    (saved / "config.json").write_text(json.dumps(settings))
    (saved / "mine.py").write_text(
        "from pathlib import Path\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        f"Path({str(saved / 'ran')!r}).touch()\n"
        "class MyConfig(LlamaConfig):\n    model_type = 'mine'\n"
        "class MyModel(LlamaForCausalLM):\n    config_class = MyConfig\n"
    )
    overrides = [*hf, "model.tokenizer_name_or_path=bytes"]
    with pytest.raises(ConfigError, match=r"set model\.trust_remote_code=true if you trust its code"):
        build(config(overrides))
    assert not (saved / "ran").exists()
    assert type(build(config([*overrides, "model.trust_remote_code=true"])).policy).__name__ == "MyModel"
    assert (saved / "ran").exists()


def test_a_file_of_weights_is_an_archive(tmp_path: Path, hf: list[str]) -> None:
    torch.manual_seed(1)
    weights = {
        name: torch.randn_like(item, dtype=torch.float32).to(torch.bfloat16)
        for name, item in build(config(hf)).policy.state_dict().items()
    }
    torch.save(weights, tmp_path / "weights.pt")
    save_file(weights, tmp_path / "weights.safetensors")
    for name in ("weights.pt", "weights.safetensors"):
        for dtype, expected in (("float32", torch.float32), ("null", torch.bfloat16)):
            group = config([*hf, f"model.archive={tmp_path / name}", f"model.policy_dtype={dtype}"])["model"]
            model = build_model(group, build_tokenizer(group))
            assert types(model) == {expected}
            for key, item in model.state_dict().items():
                assert torch.equal(item, weights[key].to(expected))


class Planted:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("planted"),))


def test_an_archive_that_is_no_plain_state_dict_is_refused(
    tmp_path: Path, hf: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Planted()}, "code.pt")
    torch.save({"state": {"weight": torch.zeros(2)}, "step": 3}, "nested.pt")
    torch.save([torch.zeros(2)], "list.pt")
    for name, says in (("code", "must hold weights"), ("nested", "a mapping of names"), ("list", "a mapping of names")):
        with pytest.raises(ConfigError, match=says):
            build(config([*hf, f"model.archive={tmp_path / name}.pt"]))
    assert not Path("planted").exists()


def test_an_archive_of_adapters_alone_says_to_merge(tmp_path: Path, small: list[str]) -> None:
    place = folder(tmp_path / "run")
    finish([*small, *DPO, "lora=lora", "training.training_params.max_steps=4"], place)
    with pytest.raises(ConfigError, match=r"holds adapters alone\n.*gptopt export"):
        build(config([*small, *DPO, f"model.archive={place.checkpoints / 'checkpoint-4'}"]))


@pytest.mark.parametrize(
    ("key", "lora"),
    [("model.name_or_path", ["lora=lora"]), ("model.name_or_path", []), ("loss.ref_model_id", [])],
)
def test_a_model_of_adapters_alone_says_to_merge(tmp_path: Path, hf: list[str], key: str, lora: list[str]) -> None:
    """transformers would load such a folder, and PEFT would then put new adapters in the place of those trained."""
    adapters = folder(tmp_path / "run")
    finish([*hf, "lora=lora", "training.training_params.max_steps=4"], adapters)
    trained = adapters.checkpoints / "checkpoint-4"
    chosen = config([*hf, "model.tokenizer_name_or_path=bytes", *lora, f"{key}={trained}"])
    (problem,) = constraint_problems(chosen)
    assert problem.where == key
    assert f"holds adapters alone\n      merge them first: gptopt export {trained}" in str(problem)
    with pytest.raises(ConfigError, match="holds adapters alone"):  # as of a hub id, which no check can look into
        build(chosen)


HALF = {"hidden_dropout": 0.5, "attention_dropout": 0.5}
PDROP = {"n_embd": 16, "n_layer": 1, "n_head": 2, "embd_pdrop": 0.5, "attn_pdrop": 0.5, "resid_pdrop": 0.5}
DROPOUTS: dict[str, dict[str, Any]] = {
    "biogpt": {**SHAPE, "hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5, "layerdrop": 0.5},
    "bloom": {"hidden_size": 16, "n_layer": 1, "n_head": 2, **HALF},
    "falcon": {**SHAPE, **HALF},
    "gpt2": PDROP,
    "gpt_bigcode": PDROP,
    "gpt_neo": {
        **{"hidden_size": 16, "num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]]},
        **{"resid_dropout": 0.5, "embed_dropout": 0.5, "attention_dropout": 0.5},
    },
    "gpt_neox": {**SHAPE, **HALF},
    "gptj": {**PDROP, "rotary_dim": 4},
    "llama": {**SHAPE, "attention_dropout": 0.5},
    "opt": {**SHAPE, "word_embed_proj_dim": 16, "dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5},
    "phi": {**SHAPE, "resid_pdrop": 0.5, "embd_pdrop": 0.5, "attention_dropout": 0.5},
    "starcoder2": {**SHAPE, "residual_dropout": 0.5, "embedding_dropout": 0.5, "attention_dropout": 0.5},
}


@pytest.mark.parametrize("family", DROPOUTS)
def test_without_dropout_training_is_deterministic_in_every_family(family: str) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, vocab_size=258, **DROPOUTS[family]))
    ids = torch.arange(60, 80)[None]
    with torch.no_grad():
        dropped = model.train()(input_ids=ids).logits
        without_dropout(model)
        first, second, evaluated = (model.train(train)(input_ids=ids).logits for train in (True, True, False))
    assert not torch.equal(dropped, evaluated)
    assert torch.equal(first, second)
    assert torch.equal(first, evaluated)


def saved_reference(path: Path, tokens: int, tokenizer: PreTrainedTokenizerFast | None) -> Path:
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=tokens, **SHAPE)).save_pretrained(path)
    if tokenizer is not None:
        tokenizer.save_pretrained(path)
    return path


def test_a_reference_with_more_rows_than_tokens_serves(tmp_path: Path, hf: list[str]) -> None:
    """As pythia-6.9b does beside pythia-2.8b: one tokenizer, two widths."""
    wide = saved_reference(tmp_path / "wide", 320, byte_tokenizer())
    steps = ["training.training_params.max_steps=2", f"loss.ref_model_id={wide}"]
    assert finish([*hf, *steps], folder(tmp_path / "run")).metrics["eval/kl"] > 0


def test_a_named_reference_with_the_weights_of_the_policy_is_equal_to_it_before_the_first_step(
    tmp_path: Path, hf: list[str]
) -> None:
    saved_reference(tmp_path / "other", 258, byte_tokenizer())
    for name, same in {"${model.name_or_path}": True, str(tmp_path / "other"): False}.items():
        reference = build(config([*hf, f"loss.ref_model_id={name}"])).reference
        assert reference is not None
        assert reference.is_initial is same


def test_a_reference_of_another_tokenizer_is_refused(tmp_path: Path, hf: list[str]) -> None:
    other = byte_tokenizer()
    vocabulary = {token: 257 - place for token, place in other.get_vocab().items() if place < 256}
    swapped = Tokenizer(models.BPE(vocab=vocabulary | {"<|more|>": 0, "<|end|>": 1}, merges=[]))
    cases = {
        "short": (
            saved_reference(tmp_path / "short", 200, None),
            "must know the tokenizer's 258 tokens, but .* has 200",
        ),
        "other": (
            saved_reference(tmp_path / "other", 258, PreTrainedTokenizerFast(tokenizer_object=swapped)),
            r"must have the tokenizer of the policy, but the one of '.*other' has other ids for '.*' and \d+ more",
        ),
    }
    for reference, says in cases.values():
        with pytest.raises(ConfigError, match=rf"loss\.ref_model_id: {says}"):
            build(config([*hf, f"loss.ref_model_id={reference}"]))
    build(config([*hf, f"loss.ref_model_id={saved_reference(tmp_path / 'bare', 258, None)}"]))


POSITIONS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 48},
    "gptj": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 48, "rotary_dim": 4},
    "opt": {**SHAPE, "word_embed_proj_dim": 16, "max_position_embeddings": 48},
    "llama": {**SHAPE, "max_position_embeddings": 48},
    "falcon": {**SHAPE, "alibi": True, "max_position_embeddings": 48},
}


@pytest.mark.parametrize("key", ["model.name_or_path", "loss.ref_model_id"])
@pytest.mark.parametrize("family", POSITIONS)
def test_sequences_beyond_the_positions_of_a_model_are_refused_where_it_has_a_table_of_them(
    tmp_path: Path, hf: list[str], caplog: pytest.LogCaptureFixture, family: str, key: str
) -> None:
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, vocab_size=258, **POSITIONS[family]))
    made.save_pretrained(tmp_path / "short")
    chosen = [*hf, "model.tokenizer_name_or_path=bytes", f"{key}={tmp_path / 'short'}"]
    what = "model" if key == "model.name_or_path" else "reference model"
    if family in ("llama", "falcon"):
        build(config(chosen))
        assert f"max_length=64 is more than the 48 positions that the {what} was made for" in caplog.text
        assert caplog.text.count("48 positions") == 1
    else:
        says = rf"max_length: must fit the {what}, which knows 48 positions, but is 64\n.*set it to 48 or less"
        with pytest.raises(ConfigError, match=says):
            build(config(chosen))
    caplog.clear()
    build(config([*chosen, "training.training_params.max_length=48"]))
    assert "positions" not in caplog.text


def test_a_tokenizer_that_is_too_large_is_named_by_the_key_that_there_is(tmp_path: Path, hf: list[str]) -> None:
    short = saved_reference(tmp_path / "short", 200, None)
    says = r"model\.tokenizer_name_or_path: must fit the model, which knows 200 tokens, but 'bytes' has 258"
    with pytest.raises(ConfigError, match=says):
        build(config([*hf, "model.tokenizer_name_or_path=bytes", f"model.name_or_path={short}"]))


@pytest.mark.parametrize("family", ["gpt_neox", "mixtral", "qwen2_moe"])
def test_a_family_that_is_saved_under_other_names_resumes_and_is_an_archive(
    tmp_path: Path, small: list[str], family: str
) -> None:
    shape = {"vocab_size": 258, "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 64}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2}
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
    more = {"mixtral": {"num_local_experts": 2}, "qwen2_moe": experts}.get(family, {}) | {"num_key_value_heads": 2}
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape, **heads, **more))
    made.save_pretrained(tmp_path / "start")
    given = [item for item in small if not item.startswith("model.")]
    given += ["model=hf", f"model.name_or_path={tmp_path / 'start'}", "model.tokenizer_name_or_path=bytes", *DPO]
    given += ["optimizer.optimizer_params.lr=1e-2"]
    whole, broken, other = (folder(tmp_path / name) for name in ("whole", "broken", "other"))
    finish(given, whole)
    assert train(config(given), broken, hooks(stop_at=6)) is None
    cut = broken.checkpoints / "checkpoint-6"
    finish([*given, f"training.finetuning.resume_from_checkpoint={cut}"], other)
    finish(given, broken)
    assert rows(broken) == rows(whole)
    assert equal(final_weights(broken), final_weights(whole))
    assert equal(final_weights(other), final_weights(whole))
    policy = build(config([*given, f"model.archive={whole.checkpoints / 'checkpoint-12'}"])).policy
    policy.save_pretrained(tmp_path / "again")
    assert equal(load_file(tmp_path / "again" / "model.safetensors"), final_weights(whole))
