"""The three stages of +exp=long_context, each from the run of the one before; where a training may start."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.config.files import located, with_real_paths
from gpt_opt.errors import ConfigError
from gpt_opt.plan.compose.composer import Composed
from gpt_opt.records.run_dir import FINAL, RunPaths
from gpt_opt.training.build import build
from gpt_opt.training.data.records import token_ids
from gpt_opt.training.data.sources.sums import build_sums
from gpt_opt.training.models.byte_tokenizer import byte_tokenizer
from tests.config.test_exp import MANDATORY, STAGES, checker, composed
from tests.training.test_training import config

PARAMS = "training.training_params"
ON_CPU = ["deepspeed=none", f"{PARAMS}.mixed_precision=no", f"{PARAMS}.gradient_checkpointing=false"]
LENGTHS = {"batch_size": 8, "micro_batch_size": 8, "max_length": 128, "max_prompt_length": 64}
STEPS = {"num_epochs": "null", "max_steps": 2, "eval_every": 2, "save_every": 2}
TINY = ["model=tiny-gpt2", "model.config.n_layer=1", "model.config.n_embd=16", "model.config.n_head=2", *ON_CPU]
TINY += [f"{PARAMS}.{key}={value}" for key, value in (LENGTHS | STEPS).items()]
DATA = [
    ["data=pydoc", "data.dataset.max_samples=40"],
    ["data=pydoc_documents", "data.dataset.max_samples=40"],
    ["data=sums", "data.dataset.rows=200"],
]


def at(folder: Path) -> str:
    return f"model.archive='{folder}'"


def resolved(*overrides: str) -> dict[str, Any]:
    """The config of a run as it trains, whatever is wrong with it."""
    point = next(checker().compose_many([overrides]))
    assert isinstance(point, Composed)
    return located(point.config)


class Stage(NamedTuple):
    overrides: list[str]
    run: RunPaths

    @property
    def report(self) -> dict[str, dict[str, int]]:
        return dict(json.loads(self.run.summary.read_text())["data"])


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> list[Stage]:
    """The three stages of a tiny model at 128 tokens, each from the run directory of the one before."""
    from gpt_opt.training import run_training

    outputs, start, done = tmp_path_factory.mktemp("stages"), "model.archive=null", list[Stage]()
    for number, data in enumerate(DATA, start=1):
        overrides = [f"+exp=long_context/stage{number}", *data, *TINY, start, f"paths.output_dir={outputs}"]
        done.append(Stage(overrides, RunPaths(run_training(overrides).parent.parent)))
        start = at(done[-1].run.root)
    return done


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_says_its_length_its_rate_its_masking_and_its_sharding(name: str) -> None:
    found = composed(f"+exp={name}", *MANDATORY.get(name, []))
    assert found["exp_name"] == name.replace("/", "_")
    params, stage = found["training"]["training_params"], int(name[len("long_context/stage")])
    assert params["max_length"] == (1024, 32768, 32768)[stage - 1]
    assert found["optimizer"]["optimizer_params"]["lr"] == (5e-4, 5e-6, 5e-6)[stage - 1]
    assert found["loss"]["train_on_inputs"] == (stage == 2)
    assert params["truncation"] == ("keep_end", "keep_start", "drop")[stage - 1]
    if found["deepspeed"]:
        assert found["deepspeed"]["zero_optimization"]["stage"] == (1, 3, 3)[stage - 1]
    assert found["model"]["name"] == ("llama8b" if name.endswith("llama") else "qwen")


def test_each_stage_starts_from_the_final_checkpoint_of_the_one_before(stages: list[Stage]) -> None:
    for before, after in pairwise(stages):
        started = build(resolved(*after.overrides)).policy.state_dict()
        saved = load_file(before.run.checkpoints / "checkpoint-2" / "model.safetensors")
        assert saved
        assert all(torch.equal(started[name], value) for name, value in saved.items())


def test_each_stage_learns_what_its_data_is_for(stages: list[Stage]) -> None:
    short, documents, thoughts = (stage.report for stage in stages)
    assert "learned_tokens" not in short["train"]  # pairs, of which the chosen completion is learned
    assert documents["train"]["context_tokens"] == documents["train"]["rows"] == 40  # the first token of each
    assert documents["train"]["sequences"] > 40
    assert documents["train"]["completions_truncated"] == documents["train"]["prompts_truncated"] == 0
    assert thoughts["train"]["completions_truncated"] == thoughts["train"]["prompts_truncated"] == 0
    assert thoughts["dropped"]["longer than max_length"] > 10
    parts = build(resolved(*stages[2].overrides))
    for item in parts.items.train:
        text = str(parts.tokenizer.decode(token_ids(item.completion)))
        assert "<think>" in text
        assert text.partition("</think>")[2].strip().endswith("<|endoftext|>")
        assert all(token >= 0 for token in item.completion)
        assert len(item.prompt) + len(item.completion) <= 128


def test_a_sum_is_worked_out_to_its_answer_and_stays_when_more_are_made() -> None:
    few, many = build_sums(40, 6), build_sums(80, 6)
    assert set(few.train) <= set(many.train)
    for record in many.train:
        ((_, question),), ((_, response),) = record.prompt.messages, record.completion.messages
        steps = response.splitlines()
        assert sum(map(int, question.split(" + "))) == int(steps[-1])
        assert len(steps) == question.count("+") + 3
        assert all(eval(left) == int(right) for left, right in (step.split(" = ") for step in steps[1:-2]))


def problems(*overrides: str) -> dict[str, str]:
    point = next(checker().compose_many([overrides]))
    return {item.where: f"{item.message} {item.fix}" for item in checker().problems(point)}


def changed(stage: Stage, *others: str) -> list[str]:
    """The overrides of a run from the weights of a stage."""
    return [item for item in stage.overrides if not item.startswith("model.archive")] + [at(stage.run.root), *others]


def test_a_run_directory_is_its_final_checkpoint_once_it_is_complete(stages: list[Stage], tmp_path: Path) -> None:
    run = RunPaths(tmp_path / "run")
    shutil.copytree(stages[0].run.root, run.root)

    def taken() -> str:
        return str(with_real_paths({"model": {"archive": str(run.root)}})["model"]["archive"])

    assert taken() == str(run.checkpoints / "checkpoint-2")
    (run.checkpoints / "checkpoint-1").mkdir()
    (run.checkpoints / FINAL).symlink_to("checkpoint-1")
    assert taken() == str(run.checkpoints / "checkpoint-1")
    run.state.write_text(run.state.read_text().replace("COMPLETED", "INTERRUPTED"))
    assert taken() == str(run.root)
    found = problems(*changed(stages[0]), at(run.root))
    assert list(found) == ["model.archive"]
    assert "must be a complete run that has a checkpoint, but" in found["model.archive"]
    assert "is INTERRUPTED take a checkpoint of this run" in found["model.archive"]


def test_weights_of_another_architecture_are_refused_although_their_shapes_fit(stages: list[Stage]) -> None:
    other = changed(stages[0], "model.config.n_head=4", "model.config.activation_function=relu")
    found = problems(*other)
    assert set(found) == {"model.config.n_head", "model.config.activation_function"}
    name = stages[0].run.root.name.rpartition("-")[2]
    assert found["model.config.n_head"].startswith(f"must be that of run {name}, which it starts from, 2, but is 4")
    with pytest.raises(ConfigError, match="n_head is 4 here and 2 there"):
        build(resolved(*other))
    assert problems(*changed(stages[0], "model.config.resid_pdrop=0.1")) == {}
    assert list(problems("loss=sft", "model.config.n_head=2")) == ["model.config.n_head"]  # of the shipped weights


def test_weights_of_another_tokenizer_are_refused(stages: list[Stage], tmp_path: Path) -> None:
    tokens = json.loads(byte_tokenizer().backend_tokenizer.to_str())
    vocabulary = tokens["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(
        ConfigError, match=r"tokenizer_name_or_path: must be the tokenizer of model\.archive, bytes, but"
    ):
        build(resolved(*changed(stages[0], f"model.tokenizer_name_or_path={tmp_path}")))


def test_keys_that_would_be_ignored_are_refused() -> None:
    found = problems("loss=sft", "loss.train_on_inputs=true", f"{PARAMS}.truncation=drop")
    assert found == {f"{PARAMS}.truncation": found[f"{PARAMS}.truncation"]}
    assert "loss.train_on_inputs=true ignores it" in found[f"{PARAMS}.truncation"]
    found = problems("loss=sft", f"{PARAMS}.truncation=drop", f"{PARAMS}.max_completion_length=8")
    assert "must be null with truncation=drop" in found[f"{PARAMS}.max_completion_length"]
    found = problems("loss=sft", f"{PARAMS}.context_length=128")
    assert f"set {PARAMS}.max_length" in found[f"{PARAMS}.context_length"]
    assert constraint_problems(config(["data=sums", "loss=sft", "data.dataset.max_terms=1"]))
