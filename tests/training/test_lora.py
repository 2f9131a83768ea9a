"""Adapters: where they go, how many weights they train, what is saved, and merging them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from gpt_opt.cli import main
from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.errors import ConfigError, DataError, GptOptError
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.training.build import build
from gpt_opt.training.loop import train
from gpt_opt.training.models.export import export_run
from gpt_opt.training.models.lora import TARGET_MODULES, add_adapters
from tests.training.test_training import DPO, config, equal, estimated_mb, finish, folder, hooks, rows

LORA = [*DPO, "lora=lora", "lora.r=4"]
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 300}
FAMILIES: dict[str, tuple[dict[str, Any], int]] = {
    "gpt2": ({"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 300}, 4 * (16 + 48)),
    "gpt_neox": (TINY, 4 * (16 + 48)),
    "gptj": ({"n_embd": 16, "n_layer": 1, "n_head": 2, "rotary_dim": 4, "vocab_size": 300}, 2 * 4 * (16 + 16)),
    "llama": (TINY, 2 * 4 * (16 + 16)),
    "mistral": ({**TINY, "num_key_value_heads": 2}, 2 * 4 * (16 + 16)),
    "qwen2": ({**TINY, "num_key_value_heads": 1}, 4 * (16 + 16) + 4 * (16 + 8)),
}
"""Tiny shapes, and how many weights adapters of rank 4 have on their queries and values."""


def trained(model: PreTrainedModel) -> dict[str, int]:
    return {name: item.numel() for name, item in model.named_parameters() if item.requires_grad}


def settings(*overrides: str) -> dict[str, Any]:
    found: dict[str, Any] = config([*DPO, "lora=lora", "lora.r=4", *overrides])["lora"]
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_by_default_queries_and_values_get_adapters(family: str) -> None:
    shape, count = FAMILIES[family]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape))
    adapted = add_adapters(model, settings())
    assert sum(trained(adapted).values()) == count
    assert all(any(f".{name}.lora_" in key for name in TARGET_MODULES[family]) for key in trained(adapted))


@pytest.mark.parametrize(
    ("overrides", "count"),
    [([], 4 * (16 + 48)), (["lora.use_rslora=true"], 4 * (16 + 48)), (["lora.use_dora=true"], 4 * (16 + 48) + 48)],
    ids=["lora", "rslora", "dora"],
)
def test_a_run_trains_as_many_weights_as_its_adapters_have(small: list[str], overrides: list[str], count: int) -> None:
    """One layer of width 16: c_attn is 16 x 48, and DoRA adds one magnitude for each of its 48 outputs."""
    policy = build(config([*small, *LORA, *overrides])).policy
    assert sum(trained(policy).values()) == count
    scale = 16 / 2 if "lora.use_rslora=true" in overrides else 16 / 4
    assert policy.base_model.model.transformer.h[0].attn.c_attn.scaling["default"] == scale


def test_a_module_that_does_not_exist_is_an_error_that_lists_those_that_do(small: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(config([*small, *LORA, "lora.target_modules=[c_attn,q_proj,v_proj]"]))
    (problem,) = caught.value.problems
    assert problem.where == "lora.target_modules"
    assert "(gpt2), but it has no q_proj, v_proj" in problem.message
    assert "c_attn, c_fc, c_proj, lm_head" in problem.fix


def test_a_family_without_a_default_is_an_error_that_lists_the_modules() -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **FAMILIES["gpt2"][0]))
    model.config.model_type = "new"
    with pytest.raises(ConfigError, match=r"no default for the model family 'new'(.|\n)*c_attn, c_fc, c_proj"):
        add_adapters(model, settings())
    adapted = add_adapters(model, settings("lora.target_modules=[attn.c_proj]"))
    assert sum(trained(adapted).values()) == 4 * (16 + 16)


@pytest.mark.parametrize(
    ("family", "count"), [("gpt2", 16 + 48 + 16 + 16 + 2 * (16 + 64)), ("llama", 4 * (16 + 16) + 3 * (16 + 32))]
)
def test_all_linear_modules_but_the_output_get_adapters(family: str, count: int) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FAMILIES[family][0]))
    adapted = add_adapters(model, settings("lora.target_modules=all-linear"))
    assert sum(trained(adapted).values()) == 4 * count


def test_one_module_is_a_list_too() -> None:
    assert constraint_problems(config([*LORA, "lora.target_modules=all-linear"])) == []
    assert constraint_problems(config([*LORA, "lora.target_modules=[c_attn]"])) == []
    for wrong in ("c_attn", "3", "[3]"):
        (problem,) = constraint_problems(config([*LORA, f"lora.target_modules={wrong}"]))
        assert "lora.target_modules: must be null, all-linear or a list of names, but is" in str(problem)


def logits_now(model: PreTrainedModel) -> torch.Tensor:
    """In the mode that the model is in."""
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(60, 92)[None]).logits
    return found


TRAINED_BIASES = ["lora.bias=all", "lora.lora_dropout=0.5"]


@pytest.mark.parametrize(
    "extra",
    [
        ["lora.lora_dropout=0.5"],
        TRAINED_BIASES,
        ["lora.bias=lora_only"],
        ["lora.use_dora=true", "lora.lora_dropout=0.5"],
    ],
    ids=["dropout", "all", "lora_only", "dora"],
)
def test_the_reference_is_the_base_whatever_becomes_of_the_policy(small: list[str], extra: list[str]) -> None:
    base = logits_now(build(config([*small, *DPO, "model.config.resid_pdrop=0.5"])).policy.train())
    parts = build(config([*small, *LORA, *extra, "model.config.resid_pdrop=0.5"]))
    policy = parts.policy.train()
    for weight in policy.parameters():
        weight.data += 0.1 * weight.requires_grad
    assert parts.reference is not None
    with parts.reference.of(policy) as reference:
        assert torch.equal(logits_now(reference), base)
    assert torch.equal(logits(policy), logits(policy))
    noisy = "lora.lora_dropout=0.5" in extra
    assert torch.equal(logits_now(policy.train()), logits_now(policy)) != noisy
    copied = parts.reference.model is not None
    assert copied == any(item.startswith("lora.bias") for item in extra)
    weights = 4 * sum(item.numel() for item in policy.parameters()) * (2 if copied else 1) / 2**20
    assert weights * 0.9 < estimated_mb(parts, 0, 0) < 1.3 * weights


@pytest.mark.parametrize("loss", [DPO, ["loss=kto", "loss.beta=0.1"]], ids=["dpo", "kto"])
def test_an_interrupted_run_with_dropout_and_biases_ends_like_an_undisturbed_one(
    tmp_path: Path, small: list[str], loss: list[str]
) -> None:
    chosen = [*small, *loss, "lora=lora", *TRAINED_BIASES, "optimizer.optimizer_params.lr=0.01"]
    whole, broken, without = (folder(tmp_path / name) for name in ("whole", "broken", "without"))
    result = finish(chosen, whole)
    assert train(config(chosen), broken, hooks(stop_at=5)) is None
    finish(chosen, broken)
    assert rows(whole) == rows(broken)
    files = [place.checkpoints / "checkpoint-12" / "adapter_model.safetensors" for place in (whole, broken)]
    assert equal(*map(load_file, files))
    assert rows(whole)[0]["eval/kl"] == rows(whole)[0]["eval/rewards/accuracies"] == 0
    assert result.metrics["eval/kl"] > 0
    finish([*chosen, "lora.lora_dropout=0"], without)
    assert rows(whole) != rows(without)


def test_gradient_checkpointing_draws_the_same_dropout_again(tmp_path: Path, small: list[str]) -> None:
    plain, saving = folder(tmp_path / "plain"), folder(tmp_path / "saving")
    for place, saves in ((plain, "false"), (saving, "true")):
        save = f"training.training_params.gradient_checkpointing={saves}"
        finish([*small, *LORA, "lora.lora_dropout=0.5", "training.training_params.max_steps=4", save], place)
    assert rows(plain) == rows(saving)


def test_adapters_may_have_another_reference(tmp_path: Path, small: list[str]) -> None:
    place = folder(tmp_path / "run")
    finish([*small, *DPO, "training.training_params.max_steps=2"], place)
    other = place.checkpoints / "checkpoint-2"
    found = build(config([*small, *LORA, f"loss.ref_model_id={other}"])).reference
    assert found is not None
    assert found.model is not None
    assert torch.equal(found.model.get_input_embeddings().weight, load_file(other / "model.safetensors")[EMBEDDING])


EMBEDDING = "transformer.wte.weight"


def run_with(small: list[str], overrides: list[str], root: Path) -> dict[str, Any]:
    """Trains a run in `root`, a run directory with a config.json."""
    chosen = [*small, *overrides, "optimizer.optimizer_params.lr=0.01"]
    finish(chosen, folder(root))
    resolved = config(chosen)
    (root / "config.json").write_text(json.dumps(resolved))
    return resolved


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.arange(60, 92)[None]
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=ids).logits
    return found


@pytest.mark.parametrize(
    "overrides",
    [
        LORA,
        [*LORA, "lora.use_rslora=true"],
        [*LORA, "lora.use_dora=true"],
        ["loss=sft", "lora=lora", "lora.bias=all", "seed=3"],
    ],
    ids=["lora", "rslora", "dora", "biases"],
)
def test_a_merged_model_computes_what_the_adapters_do(
    tmp_path: Path, small: list[str], capsys: pytest.CaptureFixture[str], overrides: list[str]
) -> None:
    root = tmp_path / "run"
    policy = build(run_with(small, overrides, root)).policy
    checkpoint = root / "checkpoints" / "checkpoint-12"
    base = logits(build(config([*small, *DPO, *(item for item in overrides if item.startswith("seed"))])).policy)
    saved = load_file(checkpoint / "adapter_model.safetensors")
    set_peft_model_state_dict(policy, saved)
    assert main(["export", str(root)]) == 0
    assert capsys.readouterr().out.strip() == str(root / "export")
    merged = AutoModelForCausalLM.from_pretrained(root / "export")
    assert torch.allclose(logits(merged), logits(policy), rtol=0, atol=1e-5)
    assert (logits(merged) - base).abs().max() > 1e-3
    assert AutoTokenizer.from_pretrained(root / "export")("ab")["input_ids"] == [97, 98]
    assert sorted(path.name for path in root.iterdir()) == ["checkpoints", "config.json", "export", "metrics.jsonl"]
    assert len({path.stat().st_mode for path in (root / "export").iterdir()}) == 1  # no file for the owner alone
    assert sum(item.numel() for item in saved.values()) == sum(trained(policy).values())


def test_merge_takes_a_checkpoint_and_a_folder_and_replaces_nothing(tmp_path: Path, small: list[str]) -> None:
    root, into = tmp_path / "run", tmp_path / "new" / "model"
    run_with(small, LORA, root)
    checkpoint = root / "checkpoints" / "checkpoint-12"
    assert main(["export", str(checkpoint), "--into", str(into)]) == 0
    assert (into / "model.safetensors").is_file()
    before = (into / "model.safetensors").stat().st_mtime_ns
    assert main(["export", str(root), "--into", str(into)]) == 2
    assert (into / "model.safetensors").stat().st_mtime_ns == before


def test_a_merge_that_fails_leaves_nothing(tmp_path: Path, small: list[str]) -> None:
    root = tmp_path / "run"
    resolved = run_with(small, LORA, root)
    checkpoint = root / "checkpoints" / "checkpoint-12"
    resolved["model"]["config"]["n_embd"] = 32  # no longer the base of these adapters
    with pytest.raises(GptOptError, match="must fit the base"):
        export_run(RunPaths(root), resolved, checkpoint, root / "export")
    progress = json.loads((checkpoint / "progress.json").read_text())
    resolved["model"]["archive"] = "embedded"
    progress["inputs"] = {"model.archive": {"path": "", "sha256": "0" * 64}}  # they were trained on other weights
    (checkpoint / "progress.json").write_text(json.dumps(progress))
    with pytest.raises(DataError, match=r"model\.archive: must be what checkpoint-12 was trained with, 000000000000, "):
        export_run(RunPaths(root), resolved, checkpoint, root / "export")
    with (checkpoint / "adapter_model.safetensors").open("r+b") as stream:
        stream.truncate(100)
    with pytest.raises(GptOptError, match=r"must have whole weights, but adapter_model\.safetensors has 100 bytes"):
        export_run(RunPaths(root), resolved, checkpoint, root / "export")
    assert not list(root.glob("*export*"))


def test_a_base_of_16_bits_is_merged_in_float32_and_stored_as_it_was(tmp_path: Path, small: list[str]) -> None:
    root = tmp_path / "run"
    resolved = run_with(small, [*LORA, "model.policy_dtype=bfloat16"], root)
    export_run(RunPaths(root), resolved, None, root / "export")
    saved = load_file(root / "export" / "model.safetensors")
    assert {item.dtype for item in saved.values()} == {torch.bfloat16}
    base = dict(build(config([*small, *DPO, "model.policy_dtype=bfloat16"])).policy.named_parameters())
    adapters = load_file(root / "checkpoints" / "checkpoint-12" / "adapter_model.safetensors")
    inner, outer = (next(item for name, item in adapters.items() if f"lora_{part}" in name) for part in "AB")
    expected = base["transformer.h.0.attn.c_attn.weight"].float() + 16 / 4 * (outer @ inner).T
    assert torch.equal(saved["transformer.h.0.attn.c_attn.weight"], expected.to(torch.bfloat16))
    assert torch.equal(saved["transformer.wpe.weight"], base["transformer.wpe.weight"])
