"""A mistake in a YAML file of the user's is named as what it is, with its file and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_opt.config.schema import register
from gpt_opt.errors import ConfigError
from gpt_opt.own_app.app import own_app
from gpt_opt.own_app.command_line import check_command_line, composition_problems
from gpt_opt.plan.validate import PointChecker
from gpt_opt.run.resolvers import register_resolvers
from tests.conftest import CONFIG_DIR

register()
register_resolvers()

EXPERIMENTS = [
    ("loss:\n  betta: 0.1", "3 loss.betta: is not a key of this config", "did you mean loss.beta?"),
    ("loss: {beta: 1}\nlr: 3", "3 lr: is not a key", "did you mean optimizer.optimizer_params.lr?"),
    ("loss: {beta: 1}\nfp16: true", "3 fp16: is not a key", "write training.training_params.mixed_precision=fp16"),
    ("loss: {beta: 1}\nlora: {r: 16}", "3 lora: lacks keys of lora: lora_alpha, lora_dropout,", "lora=lora"),
    ("loss.beta: 0.1", "2 loss.beta: is one key to YAML, not a path", "write `loss: {beta: 0.1}`"),
    ("loss: {beta: strong}", "2 loss.beta: must be a number, but is 'strong'", ""),
    ("loss: {beta: -1}", "2 loss.beta: must be a finite number above 0, but is -1", ""),
    ("loss: 3", "2 loss: must hold keys of its own, but is '3'", "write `key: value` lines below it"),
    ("loss:\n  beta:0.1", "2 loss: must hold keys of its own, but is 'beta:0.1'", ""),
    ("training: {training_params: {mixed_precision: no}}", "expected one of [no, bf16, fp16]", "put it in quotes"),
    ("defaults:\n  - override /los: sft", "3: 'los' is no config group", "write /loss"),
    ("defaults:\n  - override loss: sft", "3: 'exp/loss' is no config group", "write /loss"),
    ("defaults:\n  - overide /loss: sft", "3: an entry cannot begin with 'overide'", "did you mean override?"),
    ("defaults:\n  - override /loss: sftt", "3: the group loss has no option 'sftt'", "did you mean sft?"),
    ("defaults:\n  - /loss: sft", "3: the root config has an option of loss already", "`- override /loss: sft`"),
    ("defaults:\n  - hh_dpoo", "3: the group exp has no option 'hh_dpoo'", "did you mean hh_dpo?"),
    ("defaults:\n  - _self_\n  - hh_dpo\n  - _self_", "5: _self_ must stand once", "also stands on line 3"),
    ("defaults:\n  loss: sft", "2: defaults must be a list, but is a mapping", "a dash before each entry"),
    ("defaults:\n  - override /loss: sft\n    override /data: hh", "3: an entry must name one group", ""),
    ("defaults: [e19]", "2: exp/e19 leads back to this file", ""),
    ("loss: {beta: '${nowhere.beta}'}", "2 loss.beta: names a key that does not exist: ${nowhere.beta}", "loss.beta"),
    ("loss: {beta: '${foo:1}'}", "2 loss.beta: names a resolver that does not exist: ${foo:}", "${oc.env:NAME}"),
    ("loss:\n  beta: ${seed", "3: '${seed' is no interpolation", "write ${a.key}"),
    (
        "exp_name: ${oc.env:NOT_SET}\nloss: {beta: 1}",
        "2 exp_name: needs the environment variable NOT_SET",
        "export NOT",
    ),
    ("exp_name: ${exp_name}\nloss: {beta: 1}", "2 exp_name: Recursive interpolation", ""),
    ("loss:\n\tbeta: 0.1", "3: is indented with a tab", "indent with blanks"),
    ("loss: {beta: 1}\nseed: 1\nseed: 2", "4: a key must be given once, but 'seed' also stands on line 3", ""),
    ("loss:\n  beta: 0.1\n   label_smoothing: 0", "4: is not YAML: mapping values are not allowed", "indent it as"),
    ("loss: {beta: 0.1", "3: is not YAML: while parsing a flow mapping", "close the bracket"),
    ("loss: {beta: *b}", "2: is not YAML: found undefined alias 'b'", "put it in quotes"),
    ("exp_name: !!python/name:os.sep ''", "2: is not YAML: could not determine a constructor", "leave the tag out"),
    ("loss: {beta: 1}\n---\nseed: 1", "3: is not YAML: expected a single document", "leave out the line ---"),
    ("- loss", "2: must hold `key: value` lines, but holds a list", "leave the leading dashes out"),
    ("loss.beta=0.1", "2: must hold `key: value` lines, but holds the string", "write `loss: {beta: 0.1}`"),
    ("defaults:\n  - override /loss: [dpo, sft]", "3: the keys of dpo and sft, options of the group loss,", "one of"),
    ("defaults:\n  - override /model: [gpt-tiny, hf]", "3: the keys of gpt-tiny and hf, options of the group mo", ""),
    ("defaults:\n  - /exp: [e36]", "3: exp/e36 leads back to this file", "leave it out"),
    ("defaults:\n  - '@x': e37", "3: exp/e37 leads back to this file", "leave it out"),
]
OPTIONS = [
    (
        "training/typo",
        "defaults: [default, _self_]\ntraining_params: {batch_sise: 4}",
        "2 training_params.batch_sise: is not",
    ),
    (
        "training/bare",
        "training_params: {batch_size: 4}",
        " training: lacks keys of training.training_params: tokens_processed",
    ),
    ("training/none", "", "training: lacks keys of training.training_params: add_bos"),
    ("loss/typo", "defaults: [dppo, _self_]\nbeta: 4", "1: the group loss has no option 'dppo'"),
    ("loss/both", "defaults:\n  - dpo\n  - sft\n", "3: the keys of dpo and sft, options of the group loss, cannot"),
    ("data/tab", "defaults: [hf, _self_]\ndataset:\n\tpath: x", "3: is indented with a tab"),
    ("optimizer/bare", "optimizer_params: {name: mine, lr: 1}", "lacks keys of optimizer.optimizer_params: _target_"),
    ("data/scalar", "dataset: 3", "data: lacks keys of data.dataset: _target_, name"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("conf")
    texts = {f"exp/e{index}": f"# @package _global_\n{text}\n" for index, (text, _, _) in enumerate(EXPERIMENTS)}
    texts |= {name: text for name, text, _ in OPTIONS}
    texts["exp/bare"], texts["exp/empty"] = "loss: {beta: 0.1}\n", ""
    texts["exp/several"] = (
        "# @package _global_\nloss: {betta: 1, bta: 2}\nsed: 3\ntraining: {training_params: {lr: 1}}\n"
    )
    for name, text in texts.items():
        (made / name).parent.mkdir(exist_ok=True)
        (made / f"{name}.yaml").write_text(text)
    (made / "exp" / "latin.yaml").write_bytes(b"# @package _global_\nexp_name: M\xfcller\n")
    return made


@pytest.fixture(scope="module")
def told(folder: Path) -> Callable[..., str]:
    checker = PointChecker(own_app(CONFIG_DIR, further=folder))

    def tell(*overrides: str) -> str:
        result = next(checker.composer.compose_many([list(overrides)]))
        return "\n".join(str(problem) for problem in checker.problems(result))

    return tell


@pytest.mark.parametrize("index", range(len(EXPERIMENTS)))
def test_a_mistake_in_an_experiment_is_named(index: int, folder: Path, told: Callable[..., str]) -> None:
    _, problem, fix = EXPERIMENTS[index]
    text = told(f"+exp=e{index}")
    assert text.startswith(f"{folder}/exp/e{index}.yaml:")
    assert problem in text
    assert fix in text
    assert "mandatory" not in text, "what follows from the mistake is no second one"


@pytest.mark.parametrize(("name", "problem"), [(name, problem) for name, _, problem in OPTIONS])
def test_a_mistake_in_an_option_is_named(name: str, problem: str, folder: Path, told: Callable[..., str]) -> None:
    group, _, option = name.partition("/")
    text = told(f"{group}={option}", "loss.beta=0.1") if group != "loss" else told(f"{group}={option}")
    assert text.startswith(f"{folder}/{name}.yaml")
    assert problem in text


def test_a_file_without_its_header_or_of_another_encoding_is_named(folder: Path, told: Callable[..., str]) -> None:
    for name in ("bare", "empty"):
        assert f"exp/{name}.yaml:1: must begin with the line `# @package _global_`" in told(f"+exp={name}")
    assert f"{folder}/exp/latin.yaml:2: must be UTF-8, but byte 31 is 0xfc" in told("+exp=latin")


def test_all_wrong_keys_of_a_file_are_named_at_once(told: Callable[..., str]) -> None:
    text = told("+exp=several")
    for line in ("2 loss.betta", "2 loss.bta", "3 sed", "4 training.training_params.lr"):
        assert f"several.yaml:{line}: is not a key" in text


def test_a_key_is_sought_in_the_files_of_its_own_group(tmp_path: Path) -> None:
    for name, text in {
        "loss/own": "defaults: [dpo, _self_]\n_target_: gpt_opt.training.losses.build_dpo\n",
        "model/own": "defaults: [hf, _self_]\nname_or_path: a/b\n\n_target_: gpt_opt.nothing.Here\n",
    }.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        check_command_line(CONFIG_DIR, ["--config-dir", str(tmp_path), "loss=own", "model=own", "loss.beta=0.1"])
    assert [problem.where for problem in error.value.problems] == [f"{tmp_path}/model/own.yaml:4 model._target_"]


def test_a_folder_of_ones_own_is_checked_like_ours(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"e0.yaml:3 loss\.betta: is not a key"):
        check_command_line(CONFIG_DIR, ["--config-dir", str(folder), "+exp=e0"])
    (problem,) = composition_problems(CONFIG_DIR, ["--config-dir", str(folder), "+exp=e25", "--cfg", "job"])
    assert problem.message == "is indented with a tab"


@pytest.mark.parametrize("entry", ["override hydra/job_logging: colorlog", "override /hydra/job_logging: colorlog"])
def test_an_option_chooses_the_job_logging(entry: str, tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "mine.yaml").write_text(f"defaults: [default, _self_, {entry}]\n")
    checker = PointChecker(own_app(CONFIG_DIR, further=tmp_path))
    assert checker._source.choices(("training=mine",))["hydra/job_logging"] == "colorlog"
    assert checker._source.choices(())["hydra/job_logging"] == "task"
    assert checker._source.compose(["training=mine"]).hydra.job_logging.handlers.console.formatter == "colorlog"


def test_a_mistake_is_named_every_time(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOPT_CACHE", str(tmp_path))  # where compositions are kept
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"e0.yaml:3 loss\.betta: is not a key"):
            check_command_line(CONFIG_DIR, ["--config-dir", str(folder), "+exp=e0"])
