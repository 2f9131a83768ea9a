"""Whole experiments: every one composes, says what it claims, and trains."""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt_opt.config.schema import register
from gpt_opt.own_app.app import own_app
from gpt_opt.plan.compose.composer import Composed
from gpt_opt.plan.validate import PointChecker
from gpt_opt.records.run_id import run_id
from gpt_opt.run.resolvers import register_resolvers
from tests.conftest import CONFIG_DIR, ROOT, Runner, write_pairs

EXPERIMENTS = sorted(file.stem for file in (CONFIG_DIR / "exp").glob("*.yaml"))
STAGES = [f"long_context/{file.stem}" for file in sorted((CONFIG_DIR / "exp" / "long_context").glob("*.yaml"))]
"""Composed, and trained one after the other, in tests/training/test_long_context.py."""
MANDATORY = {
    "long_context_32768": ["data.dataset.path=lab/long-answers"],
    **({} if find_spec("deepspeed") else {name: ["deepspeed=none"] for name in STAGES}),
}
TINY = [
    "lora=none",
    *(
        f"training.training_params.{item}"
        for item in (
            "max_steps=2",
            "num_epochs=null",
            "batch_size=2",
            "micro_batch_size=1",
            "eval_batch_size=64",
            "max_length=64",
            "max_prompt_length=32",
            "eval_every=2",
            "save_every=2",
        )
    ),
]


@cache
def checker() -> PointChecker:
    register()
    register_resolvers()
    return PointChecker(own_app(CONFIG_DIR))


def composed(*overrides: str) -> dict[str, Any]:
    result = next(checker().composer.compose_many([overrides]))
    assert checker().problems(result) == []
    assert isinstance(result, Composed)
    return result.config


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_to_a_config_without_problems(name: str) -> None:
    config = composed(f"+exp={name}", *MANDATORY.get(name, []))
    assert config["exp_name"] == name


def test_the_example_says_every_key_at_its_default() -> None:
    assert run_id(composed("+exp=dpo_example")) == run_id(composed("loss.beta=0.1"))
    written = yaml.safe_load((CONFIG_DIR / "exp" / "dpo_example.yaml").read_text())
    whole = composed("loss.beta=0.1")
    for group in ("loss", "logging", "paths"):
        assert leaves(written[group]) == leaves(whole[group]), group
    assert leaves(written["training"]) == leaves(whole["training"])
    assert leaves(written["optimizer"]) == leaves(whole["optimizer"])
    assert leaves(written["model"]) == {key for key in leaves(whole["model"]) if not key.startswith("config")}
    assert {key for key in whole if not isinstance(whole[key], dict | None)} <= set(written)


def leaves(node: dict[str, Any], above: str = "") -> set[str]:
    """The keys of a tree, without those that are no setting."""
    found: set[str] = set()
    for key, value in node.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{above}{key}.")
        elif key not in ("name", "_target_"):
            found.add(above + key)
    return found


def test_several_models_are_several_runs_and_one_is_chosen_by_its_index() -> None:
    points = checker().points(["+exp=multi_model_dpo"], multirun=True)
    names = [composed(*point)["model"]["name_or_path"] for point in points]
    assert names == composed("+exp=multi_model_dpo")["models"]
    one = composed("+exp=multi_model_dpo", "model_index=1")
    assert one["model"]["name_or_path"] == names[1]
    by_hand = composed("+exp=hh_dpo", "model=hf", f"model.name_or_path={names[1]}")
    assert run_id(one) == run_id(by_hand)


def problems(*overrides: str) -> list[str]:
    return [str(item) for item in checker().problems(next(checker().composer.compose_many([overrides])))]


def test_models_may_be_mappings_and_a_list_needs_no_other_length(tmp_path: Path) -> None:
    listed = "models=[a/b,{name: short, huggingface_id: c/d, trust_remote_code: true}]"
    points = checker().points(["+exp=multi_model_dpo", listed], multirun=True)
    models = [composed(*point)["model"] for point in points]
    kept = [[model[key] for key in ("name", "name_or_path", "trust_remote_code")] for model in models]
    assert kept == [["a/b", "a/b", False], ["short", "c/d", True]]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["+exp=multi_model_dpo", "model_index=7"], ["model_index: must be an index of models, 0 to 2, but is 7"]),
        (["+exp=multi_model_dpo", "model_index=-1"], ["model_index: must be an index of models, 0 to 2, but is -1"]),
        (["+exp=multi_model_dpo", "models=[]"], ["model_index: must be an index of models, none, since it is empty"]),
        (["+exp=multi_model_dpo", "model=pythia28"], ["model: is chosen by models[0]=openai-community/gpt2-large of"]),
        (["+exp=multi_model_dpo", "model.name_or_path=x/y"], ["model_index: is 0 and models[0] is openai-community"]),
        (["loss.beta=0.1", "models=[a/b]", "model_index=0"], ["model_index: is 0 and models[0] is a/b, but the model"]),
        (
            ["+exp=multi_model_dpo", "models=[1,{nme: x},{huggingface_id: a, name_or_path: b}]", "model_index=2"],
            [
                "models[0]: must be a hub id, a folder or a mapping, but is 1",
                "models[1]: has the keys name, name_or_path, huggingface_id, trust_remote_code, but not nme",
                "models[1]: must have one text name_or_path (or huggingface_id), but has none",
                "models[2]: must have one text name_or_path (or huggingface_id), but has ['b', 'a']",
            ],
        ),
    ],
)
def test_a_list_of_models_and_its_index_agree_with_the_model(overrides: list[str], said: list[str]) -> None:
    found = problems(*overrides)
    assert [start in text for text, start in zip(found, said, strict=True)] == [True] * len(said), found


def test_an_index_without_models_is_refused() -> None:
    result = next(checker().composer.compose_many([["loss.beta=0.1", "model_index=1"]]))
    assert [problem.where for problem in checker().problems(result)] == ["model_index"]


def test_choices_on_the_command_line_beat_those_of_an_experiment() -> None:
    config = composed("+exp=pythia28_hh_dpo", "model=qwen", "data=shp", "loss.beta=0.5")
    assert (config["model"]["name"], config["data"]["dataset"]["name"], config["loss"]["beta"]) == ("qwen", "shp", 0.5)


@pytest.mark.slow
def test_a_dry_run_needs_no_network(tmp_path: Path, run_hydra: Runner) -> None:
    done = run_hydra(["+exp=simple_dpo", "dry_run=true"], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "peak memory" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained model in `model`, dialogues in hh.jsonl, pairs in pairs.jsonl."""
    from transformers import GPT2Config, GPT2LMHeadModel

    made = tmp_path_factory.mktemp("exp")
    shape = GPT2Config(vocab_size=258, n_positions=64, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(shape).save_pretrained(made / "model")
    start = "\n\nHuman: Say {0}.\n\nAssistant:"
    rows = [{"chosen": start.format(i) + f" {i}", "rejected": start.format(i) + f" not {i}"} for i in range(20)]
    (made / "hh.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_pairs(made / "pairs.jsonl", 20)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_trains(name: str, folder: Path) -> None:
    from gpt_opt.training import run_training

    overrides = [f"+exp={name}", *TINY, f"paths.output_dir={folder / 'outputs' / name}"]
    config = composed(f"+exp={name}", *MANDATORY.get(name, []))
    if name == "multi_model_dpo":
        overrides += [f"models=[nowhere,{folder / 'model'}]", "model_index=1"]
    elif "name_or_path" in config["model"]:
        overrides.append(f"model.name_or_path={folder / 'model'}")
    if "name_or_path" in config["model"]:
        overrides.append("model.tokenizer_name_or_path=bytes")
    if "path" in config["data"]["dataset"]:
        file = "hh.jsonl" if config["data"]["dataset"]["name"] == "hh" else "pairs.jsonl"
        overrides += [f"data.dataset.path={folder / file}", "data.dataset.validation_split=0.2"]
    else:
        overrides.append("data.dataset.max_samples=20")
    assert run_training(overrides).name == "checkpoint-2"


DOCS = "".join(file.read_text() for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))))


def readme(start: str) -> str:
    """The block of the README, or of a page of docs/, that begins so."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", DOCS, flags=re.M | re.S)
    (found,) = [block for block in blocks if block.startswith(start)]
    return found


SMALL_MODEL = ["model.archive=null", "model.config.n_layer=1", "model.config.n_embd=16", "model.config.n_head=2"]


@pytest.mark.slow
def test_a_loss_and_data_of_ones_own_train_as_the_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpt_opt.records.run_dir import RunPaths
    from gpt_opt.training import run_training

    (tmp_path / "mine.py").write_text(readme("# mine.py"))
    monkeypatch.syspath_prepend(str(tmp_path))
    command = shlex.split(readme("PYTHONPATH=. python run_hydra.py loss._target_").replace("\\\n", ""))
    small = [*TINY, *SMALL_MODEL, f"paths.output_dir={tmp_path / 'outputs'}"]
    by_target = run_training([*command[3:], *small]).parent.parent
    summary = json.loads(RunPaths(by_target).summary.read_text())
    assert summary["data"]["train"]["rows"] == 90
    # Policy and reference are equal before training: (0 - 1)^2.
    assert json.loads(RunPaths(by_target).metrics.read_text().splitlines()[0])["eval/loss"] == pytest.approx(1)

    option = re.search(r"`(\{name: squared.*?\})`", DOCS)
    assert option is not None
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "squared.yaml").write_text(option[1])
    data = [text for text in command[3:] if text.startswith("data.")]
    by_option = run_training([f"hydra.searchpath=[file://{tmp_path}]", "loss=squared", *data, *small])
    assert RunPaths(by_option.parent.parent).summary.is_file()
