"""Templates of commands: values are argv, and never read as anything else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_opt.app.command import names_module, parse_command
from gpt_opt.app.defaults import compose_defaults
from gpt_opt.app.settings import AppSettings
from gpt_opt.errors import ConfigError
from gpt_opt.sweep.overrides import to_override
from tests.helpers.examples import examples

CONFIG: dict[str, Any] = {
    "optimizer": {"lr": 1e-5, "betas": [0.9, 0.95]},
    "seed": 0,
    "fp16": False,
    "compile": True,
    "resume": None,
    "model": "???",
    "text": "a  'b' $HOME {seed}; `rm`\n",
}
HERE = Path("/runs/a b")


def words(template: str, **values: Any) -> list[str]:
    return parse_command(template).words({**CONFIG, **values}, HERE)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("python train.py --lr {optimizer.lr} --seed={seed}", ["python", "train.py", "--lr", "1e-05", "--seed=0"]),
        ("t {text} x{text}y", ["t", CONFIG["text"], f"x{CONFIG['text']}y"]),
        ("t '{seed} {seed}' \"a b\"", ["t", "0 0", "a b"]),
        ("t --betas {optimizer.betas} --b={optimizer.betas}", ["t", "--betas", "0.9", "0.95", "--b=0.9,0.95"]),
        ("t --out {run_dir}/model", ["t", "--out", "/runs/a b/model"]),
        ("t {{seed}} '{{\"a\": {seed}}}'", ["t", "{seed}", '{"a": 0}']),
        ("t {fp16} --compile={compile}", ["t", "false", "--compile=true"]),
        ("t [--fp16 {fp16}] [--compile {compile}] [--resume {resume}]", ["t", "--compile"]),
        ("t [--resume={resume}] [--seed {seed}] layers=[1]", ["t", "--seed", "0", "layers=[1]"]),
        ("t '[--a {seed}]'", ["t", "--a 0"]),
    ],
)
def test_words(template: str, expected: list[str]) -> None:
    assert words(template) == expected


def test_keys() -> None:
    assert parse_command("t {a.b} [--c {c}] {run_dir}").keys == {"a.b", "c"}


@pytest.mark.parametrize(
    ("template", "message", "fix"),
    [
        ("t {optimizer.learning_rate}", "which is no key of its config", "did you mean {optimizer.lr}?"),
        ("t {sed}", "which is no key of its config", "did you mean {seed}?"),
        ("t {optimizer}", "which is a group", "take one of optimizer.lr, optimizer.betas"),
        ("t {resume}", "must have a value", "[--resume {resume}]"),
        ("t [--model {model}]", "must have a value", "model=VALUE"),
        ("t {seed", "has a brace that stands for nothing", "{{ and }}"),
        ("t { seed }", "has a brace that stands for nothing", "{{ and }}"),
        ("t 'a", "No closing quotation", "close the quote"),
        ("t [--a {seed}", "must close its bracket", "for example"),
        ("t [--a [--b {seed}]]", "must close a bracket", "[--flag {key}]"),
        ("t [--a]", "must have a {key} in every pair of brackets", "[--flag {key}]"),
        ("", "must have words", "for example"),
    ],
)
def test_what_is_wrong_says_what_is_right(template: str, message: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        words(template)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert fix in problem.fix


def test_all_problems_of_a_config_come_together() -> None:
    with pytest.raises(ConfigError) as caught:
        words("t {sed} {text} {resume}", text="\0", run_dir="x")
    assert {problem.where for problem in caught.value.problems} == {
        *("run_dir", "gptopt.toml [app] command", "resume", "text")
    }


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
@settings(max_examples=examples(60))
def test_any_text_is_one_word(texts: list[str]) -> None:
    template = "t " + " ".join(f"--x={{k{i}}}" for i in range(len(texts)))
    config = {f"k{i}": text for i, text in enumerate(texts)}
    assert parse_command(template).words(config, HERE) == ["t", *(f"--x={text}" for text in texts)]


def test_the_process_gets_exactly_these_words(tmp_path: Path) -> None:
    code = "import sys; sys.stdout.write(repr(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *words("{text} '{seed} ' {{}}")], capture_output=True, text=True)
    assert done.stdout == repr([CONFIG["text"], "0 ", "{}"])


def test_parameters_are_those_of_the_yaml_file_and_the_overrides(tmp_path: Path) -> None:
    (tmp_path / "defaults.yaml").write_text("optimizer: {lr: 5e-7}\nseed: 0\nname: ${seed}-x\nmodel: ???\n")
    app = AppSettings(name="t", root=tmp_path, command="t {seed}", defaults=tmp_path / "defaults.yaml")
    text = "a, b: 'c' ${d}"
    composed = compose_defaults(app, ["seed=3", to_override("+note", text)])
    assert composed == {"optimizer": {"lr": 5e-7}, "seed": 3, "name": "3-x", "model": "???", "note": text}
    assert not GlobalHydra.instance().is_initialized()
    with pytest.raises(ConfigCompositionException, match="sed"):
        compose_defaults(app, ["sed=3"])
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.yaml").write_text("size: 1\n")
    assert compose_defaults(app, ["model=b"])["model"] == "b", "a folder of that name is no config group"
    (tmp_path / "defaults.yaml").write_text("defaults: [_self_, model: a]\nseed: 0\n")
    assert compose_defaults(app, ["model.size=2"]) == {"seed": 0, "model": {"size": 2}}


def test_a_module_of_the_code_is_told_from_others(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "train.py").touch()
    for template in ("python -m pkg.train {lr}", "torchrun --nproc-per-node 2 -m pkg.train", "python -m pkg"):
        assert names_module(template, tmp_path)
    for template in ("python -m torch.distributed.run train.py", "python pkg/train.py -m", "git commit -m pkg.nothing"):
        assert not names_module(template, tmp_path)


def test_files_that_the_template_names_are_those_of_the_code(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    for name in ("train.py", "tools/run", "verb"):
        (tmp_path / name).touch()
    command = parse_command("tools/run python train.py verb other.py {name} [--c train.py {c}]", tmp_path)
    assert command.words({"name": "train.py", "c": 1}, tmp_path) == [
        *(str(tmp_path / "tools/run"), "python", str(tmp_path / "train.py"), "verb", "other.py"),
        *("train.py", "--c", str(tmp_path / "train.py"), "1"),
    ]
