"""muP: groups against vectors.json, activations across widths, what it is refused for, save and resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from gpt_opt.config.checks.architecture import MUP_HIDDEN
from gpt_opt.errors import ConfigError
from gpt_opt.training.build import build, build_trainer
from gpt_opt.training.loop import train
from gpt_opt.training.models import from_config
from gpt_opt.training.models.mup import mup_parameters
from gpt_opt.training.optimizers import NamedParameter, build_optimizer
from tests.training.test_training import config, equal, final_weights, finish, folder, hooks, rows

MUP = "enable_mup_with_base_n_embd"
ADAMW = {"name": "adamw", "_target_": "torch.optim.AdamW"}


def made(family: str, width: int, base: int | None) -> PreTrainedModel:
    """Returns a model of two blocks of which every width grows with `width`."""
    llama = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 2 * width}
    gpt = {"n_embd": width, "n_layer": 2, "n_head": 4, "n_positions": 32}
    shape = gpt if family.startswith("gpt") else {**llama, "hidden_size": width}
    none = {"bos_token_id": None, "eos_token_id": None, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
    torch.manual_seed(0)
    return from_config(
        {"model_type": family, "vocab_size": 64, **shape, **(none if family == "gpt2" else {}), MUP: base}
    )


def activations(family: str, width: int, base: int | None) -> dict[str, float]:
    """Returns the mean magnitude of what each attention, MLP and block gives after four steps of Adam, and the loss."""
    model, found = made(family, width, base), {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found[name] = float((output[0] if isinstance(output, tuple) else output).detach().abs().mean())

        return hook

    kinds = (".attn", ".self_attn", ".mlp", ".h.1", ".layers.1")
    for name, module in model.named_modules():
        if name.endswith(kinds):
            module.register_forward_hook(keep(name))
    optimizer = build_optimizer({**ADAMW, "lr": 0.01, "weight_decay": 0.0}, model, mup_parameters(model))
    ids = torch.randint(64, (8, 32), generator=torch.Generator().manual_seed(1))
    start = model(input_ids=ids).logits.detach()
    for _ in range(4):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    output = model(input_ids=ids, labels=ids)
    return {**found, "change of logits": (output.logits - start).abs().mean().item(), "loss": output.loss.item()}


@pytest.mark.parametrize(
    ("family", "widths"), [("gpt", (32, 64, 128, 256)), ("gpt2", (32, 128)), ("llama", (32, 128)), ("qwen2", (32, 128))]
)
def test_activations_keep_their_size_across_widths(family: str, widths: tuple[int, ...]) -> None:
    """The coordinate check of Yang et al. 2022, appendix D.1: with muP they stay, without they grow with a power."""

    def slopes(base: int | None) -> dict[str, float]:
        """Returns the power of the width with which each grows, between the narrowest and the widest."""
        found = [activations(family, width, base) for width in widths]
        span = math.log(widths[-1] / widths[0])
        return {name: math.log(found[-1][name] / found[0][name]) / span for name in found[0]}

    with_mup, without = slopes(32), slopes(None)
    assert len(with_mup) == 7
    for name in with_mup.keys() - {"loss"}:
        assert abs(with_mup[name]) < 0.3, (name, with_mup)
        assert without[name] > (0.5 if name == "change of logits" else 1.0), (name, without)
    assert with_mup["loss"] < 0  # wider is better, as it is not without


def test_groups_of_mup(vectors: dict[str, Any]) -> None:
    inputs, expected = vectors["mup_groups"]["inputs"], vectors["mup_groups"]["expected"]
    shape = {key: inputs[key] for key in ("n_embd", "n_head", "n_layer", MUP)}
    with torch.device("meta"):
        more = {"vocab_size": 64, "n_positions": 8, "mlp": "swiglu", "positions": "learned"}
        model = from_config({"model_type": "gpt", **more, **shape})
    settings = {key: inputs[key] for key in ("lr", "weight_decay")}
    optimizer = build_optimizer({**ADAMW, **settings}, model, mup_parameters(model))
    groups = {id(item): group for group in optimizer.param_groups for item in group["params"]}
    parameters = dict(model.named_parameters())
    for name, kind in expected["group"].items():
        group = groups[id(parameters[name.partition("(")[0]])]
        assert group["lr"] == pytest.approx(expected["lr"][kind], rel=1e-12), name
        assert group["weight_decay"] == pytest.approx(expected["weight_decay"][kind], rel=1e-12), name
    assert len(optimizer.param_groups) == 3


def test_without_mup_there_is_one_group_that_decays() -> None:
    model = made("gpt", 32, None)
    optimizer = build_optimizer({**ADAMW, "lr": 0.1, "weight_decay": 0.1}, model, mup_parameters(model))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1]


def test_scales_of_the_models_of_transformers() -> None:
    for family in ("gpt2", "llama", "qwen2"):
        plain, scaled = made(family, 64, None), made(family, 64, 16)
        spread = {name: float(weight.detach().std()) for name, weight in plain.named_parameters() if weight.ndim > 1}
        for name, weight in scaled.named_parameters():
            if weight.ndim > 1:
                divisor = 2 if name.split(".")[-2] in MUP_HIDDEN[family] else 1
                assert float(weight.detach().std()) == pytest.approx(spread[name] / divisor, rel=1e-5), (family, name)
        scales = [vars(module)["scaling"] for module in scaled.modules() if "head_dim" in vars(module)]
        assert scales == [pytest.approx(1 / 16)] * 2
        hidden = torch.randn(1, 1, 64)
        head = scaled.get_output_embeddings()
        torch.testing.assert_close(head(hidden), hidden @ head.weight.T / 4)


def test_an_architecture_without_rules_is_refused() -> None:
    with pytest.raises(ConfigError, match="known for the model types gpt, gpt2, llama, qwen2, but this is a gpt_neox"):
        from_config({"model_type": "gpt_neox", MUP: 16})


def test_a_matrix_without_a_rule_is_refused() -> None:
    model = made("llama", 16, 16)
    model.model.layers[0].mlp.extra = nn.Linear(4, 4)
    with pytest.raises(ConfigError, match=r"q_proj.* of a llama, not for model\.layers\.0\.mlp\.extra\.weight"):
        mup_parameters(model)


class OneRate(torch.optim.SGD):
    def __init__(self, named_parameters: list[NamedParameter], lr: float, **_: Any) -> None:
        super().__init__([item.parameter for item in named_parameters], lr=lr)


GPT = ["loss=sft", "model=gpt-tiny", "model.config.n_positions=64", f"model.config.{MUP}=8"]


def test_an_optimizer_that_leaves_the_rates_out_is_refused(tmp_path: Path, small: list[str]) -> None:
    settings = config([*GPT, *small, f"optimizer.optimizer_params._target_={__name__}.OneRate"])
    with pytest.raises(ConfigError, match=r"must give transformer\.h\.0\.attn\.c_attn\.weight the rate .* = 0\.00015"):
        build_trainer(settings, build(settings), folder(tmp_path / "run"), hooks())


def test_a_run_with_mup_is_saved_resumed_and_loaded(tmp_path: Path, small: list[str]) -> None:
    given = [*GPT, *small, "training.training_params.max_steps=4", "training.training_params.save_every=2"]
    whole, broken = folder(tmp_path / "whole"), folder(tmp_path / "broken")
    finish(given, whole)
    assert train(config(given), broken, hooks(stop_at=2)) is None
    finish(given, broken)
    assert rows(broken) == rows(whole)
    assert equal(final_weights(broken), final_weights(whole))
    saved = whole.checkpoints / "checkpoint-4"
    # By its folder, as what is trained and as the reference: with its scales, and with the rates of its groups.
    others = [item for item in small if not item.startswith("model.")]
    others += ["model=hf", f"model.name_or_path={saved}", "model.tokenizer_name_or_path=bytes", "loss.beta=0.1"]
    settings = config([*others, f"loss.ref_model_id={saved}"])
    parts = build(settings)
    ids, policy = torch.arange(20)[None], build(config([*given, f"model.archive={saved}"])).policy.eval()
    assert parts.reference is not None
    for model in (parts.policy, parts.reference.model):
        assert torch.equal(model.eval()(input_ids=ids).logits, policy(input_ids=ids).logits)
    groups = build_trainer(settings, parts, folder(tmp_path / "next"), hooks()).task.optimizer.param_groups
    assert sorted({group["initial_lr"] for group in groups}) == [1.5e-4, 3e-4]
    settings["optimizer"]["optimizer_params"] = {
        **ADAMW,
        "_target_": "gpt_opt.training.optimizers.nesgd.muon",
        **{"lr": 0.1, "lr_schedule": "constant", "warm_up_fraction": 0.0},
    }
    with pytest.raises(ConfigError, match="must be null with optimizer adamw, but is 8: muP sets a learning rate"):
        build_trainer(settings, parts, folder(tmp_path / "muon"), hooks())


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_a_model_of_transformers_is_loaded_with_its_scales(tmp_path: Path, family: str) -> None:
    model = made(family, 32, 8).eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.arange(20)[None]
    assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
    assert f'"{family}_mup"' in (tmp_path / "config.json").read_text()  # a type that plain transformers refuses
