"""gptopt.toml: what it gives, and every mistake in it at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from gpt_opt.app.keys import TABLES
from gpt_opt.app.settings import AppSettings, MetricsSource, find_settings, read_settings
from gpt_opt.errors import ConfigError, Problem

WHOLE = """
[app]
name = "mine"
script = "src/train.py"
config_path = "conf"
config_name = "main.yaml"
version_base = "1.1"
registers = true
environment = ["module load cuda"]
warm_imports = ["torch"]
[identity]
exclude = ["logger", "trainer.devices"]
[run]
dir = "outputs/{app}/{model.name}/{label}-{id}"
grace_s = 5
[resume]
checkpoints = "checkpoints/*.ckpt"
overrides = ["ckpt_path={last_checkpoint}", "+tags=${oc.env:TAGS}"]
[metrics]
source = "csv"
files = "logs/**/metrics.csv"
step = "global_step"
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with a script, a config and the defaults of a command."""
    for file in ("src/train.py", "conf/main.yaml", "conf/config.yaml", "defaults.yaml"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("")
    return tmp_path


def read(repo: Path, text: str) -> AppSettings:
    (repo / "gptopt.toml").write_text(text)
    return read_settings(repo / "gptopt.toml")


def problems(repo: Path, text: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        read(repo, text)
    return caught.value.problems


def test_every_key_arrives(repo: Path) -> None:
    assert read(repo, WHOLE) == AppSettings(
        name="mine",
        root=repo,
        script=repo / "src" / "train.py",
        config_path=repo / "conf",
        config_name="main",
        version_base="1.1",
        registers=True,
        environment=("module load cuda",),
        warm_imports=("torch",),
        exclude=frozenset({"logger", "trainer.devices"}),
        run_dir="outputs/{app}/{model.name}/{label}-{id}",
        grace_s=5.0,
        checkpoints="checkpoints/*.ckpt",
        resume_overrides=("ckpt_path={last_checkpoint}", "+tags=${oc.env:TAGS}"),
        metrics=MetricsSource("csv", "logs/**/metrics.csv", "global_step"),
    )


def test_little_is_enough(repo: Path) -> None:
    settings = read(repo, '[app]\nscript = "src/train.py"\nconfig_path = "conf"')
    assert (settings.name, settings.config_name, settings.version_base) == ("train", "config", None)
    assert (settings.exclude, settings.run_dir) == ({"hydra"}, "outputs/{app}/{label}-{id}")
    assert settings.checkpoints is None
    assert settings.metrics == MetricsSource("report", None, "step")
    assert settings.file == repo / "gptopt.toml"
    assert read(repo, '[app]\nmodule = "project.fit"\nregisters = true').name == "fit"
    command = read(
        repo, '[app]\ncommand = "python t.py --lr {lr}"\ndefaults = "defaults.yaml"\n[metrics]\nsource = "wandb"'
    )
    assert command.name == repo.name.strip("-._")
    assert command.defaults == repo / "defaults.yaml"
    assert command.metrics.files == "**/run-*.wandb"


def test_the_nearest_file_above_says_which_application(repo: Path) -> None:
    assert find_settings(repo / "src") is None
    read(repo, WHOLE)
    found = find_settings(repo / "src" / "deeper")
    assert found is not None
    assert found.root == repo
    (repo / "src" / "gptopt.toml").write_text('[app]\nscript = "train.py"\nregisters = true')
    assert (find_settings(repo / "src") or found).root == repo / "src"


def test_a_clone_of_gpt_opt_inside_of_an_application_stays_itself(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(repo, WHOLE)
    (repo / "gpt-opt" / "params").mkdir(parents=True)
    assert find_settings(repo / "gpt-opt" / "params") is not None
    monkeypatch.setattr("gpt_opt.app.settings.ROOT", repo / "gpt-opt")
    assert find_settings(repo / "gpt-opt" / "params") is None


def test_all_mistakes_come_together(repo: Path) -> None:
    text = """[app]
scripts = "src/train.py"
script = "src/trian.py"
config_path = "conf"
config_name = "mian"
environment = "module load cuda"
warm_imports = [1]
defaults = "defaults.yaml"
grace_s = 3
[identity]
exclude = ["a b"]
[run]
dir = "outputs/{app}"
grace_s = true
[resume]
overrides = ["ckpt={latest_checkpoint}"]
[metric]
[metrics]
files = "../metrics.jsonl"
step = "epoch"
[logger]
"""
    found = {problem.where: problem for problem in problems(repo, text)}
    assert set(found) == {
        *("gptopt.toml:2 [app] scripts", "gptopt.toml:3 [app] script", "gptopt.toml:5 [app] config_name"),
        *("gptopt.toml:6 [app] environment", "gptopt.toml:7 [app] warm_imports", "gptopt.toml:8 [app] defaults"),
        *("gptopt.toml:9 [app] grace_s", "gptopt.toml:11 [identity] exclude", "gptopt.toml:13 [run] dir"),
        *("gptopt.toml:14 [run] grace_s", "gptopt.toml:16 [resume] overrides", "gptopt.toml:15 [resume]"),
        *("gptopt.toml:17 [metric]", "gptopt.toml:19 [metrics] files", "gptopt.toml:20 [metrics] step"),
        "gptopt.toml:21 [logger]",
    }
    assert all(problem.fix for problem in found.values())
    assert found["gptopt.toml:2 [app] scripts"].fix == "did you mean script?"
    assert found["gptopt.toml:3 [app] script"].fix == "did you mean src/train.py?"
    assert found["gptopt.toml:5 [app] config_name"].fix == "conf holds config, main"
    assert found["gptopt.toml:9 [app] grace_s"].fix == "it belongs below [run]"
    assert found["gptopt.toml:17 [metric]"].fix == "did you mean [metrics]?"


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("", "gptopt.toml [app]", "one of script, module, command must be given, but none is"),
        ('[app]\nscript = "src/train.py"\ncommand = "x"', "gptopt.toml:3 [app] command", "but script and command are"),
        ('[app]\ncommand = "python t.py {lr}"', "gptopt.toml:2 [app] command", "must have its parameters in a file"),
        (
            '[app]\ncommand = "t {lr}"\ndefaults = "defaults.yaml"\nconfig_path = "conf"',
            "gptopt.toml:4 [app] config_path",
            "is for applications of Hydra",
        ),
        ('[app]\nscript = "src/train.py"', "gptopt.toml:2 [app] script", "must say where its configs are"),
        ("[app]\nscript = train.py", "gptopt.toml:2", "must be TOML: Invalid value"),
        ('[app]\nname = "a/b"\nmodule = "m"\nregisters = true', "gptopt.toml:2 [app] name", "letters, digits"),
        ('app = 3', "gptopt.toml", "app must be a table, but is 3"),
    ],
)  # fmt: skip
def test_what_contradicts_or_lacks(repo: Path, text: str, where: str, message: str) -> None:
    found = [problem for problem in problems(repo, text) if message in problem.message]
    assert [problem.where for problem in found] == [where]
    assert found[0].fix


@pytest.mark.parametrize(
    ("text", "advised"),
    [("a = b", True), ("a = 2x", True), ("a =", False), ("[a]\n[a]", False), ("a b", False), ("a.b = 1\na = 2", False)],
)
def test_quotes_are_advised_where_they_can_be_missing(repo: Path, text: str, advised: bool) -> None:
    (problem,) = problems(repo, text)
    assert problem.message.startswith("must be TOML: ")
    assert ("quotes" in problem.fix) == advised


@pytest.mark.parametrize(
    ("dir_", "right"),
    [
        ("/scratch/{id}", True),
        ("runs/{model.name}-{id}", True),
        ("runs/{label}", False),
        ("../{id}", False),
        ("$SCRATCH/{id}", False),
        ("runs/{id", False),
        ("runs/{a..b}{id}", False),
        ("runs/{}{id}", False),
    ],
)
def test_two_runs_never_share_a_directory(repo: Path, dir_: str, right: bool) -> None:
    text = f'[app]\nscript = "src/train.py"\nconfig_path = "conf"\n[run]\ndir = "{dir_}"'
    if right:
        assert read(repo, text).run_dir == dir_
    else:
        assert [problem.where for problem in problems(repo, text)] == ["gptopt.toml:5 [run] dir"]


def test_home_is_that_of_the_user(repo: Path) -> None:
    text = '[app]\nscript = "src/train.py"\nconfig_path = "conf"\n[run]\ndir = "~/{id}"'
    assert read(repo, text).run_dir == str(Path.home() / "{id}")


def test_what_no_copy_of_the_folder_has_is_refused(repo: Path) -> None:
    (repo / "src" / "gptopt.toml").write_text('[app]\nscript = "train.py"\nconfig_path = "../conf"\n')
    with pytest.raises(ConfigError) as caught:
        read_settings(repo / "src" / "gptopt.toml")
    (problem,) = caught.value.problems
    assert problem.where == "gptopt.toml:3 [app] config_path"
    assert problem.fix == f"have gptopt.toml in {repo}, with paths from there"


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("ckpt_path={last_checkpoint}", "ckpt_path", "{}"),
        ("+a.ckpt='{last_checkpoint}'", "a.ckpt", "{}"),
        ("ckpt=file://{last_checkpoint}", "ckpt", "file://{}"),
        ("ckpts=[{last_checkpoint},x]", "ckpts", ["{}", "x"]),
        ("from={path:{last_checkpoint}}", "from", {"path": "{}"}),
        ("resume=true", "resume", True),
    ],
)
def test_any_path_of_a_checkpoint_reaches_the_config(override: str, key: str, value: Any) -> None:
    path = Path("/runs/lr=0.1,betas=[0.9]-it's {x}: 1/epoch=3.ckpt")
    (word,) = AppSettings(name="a", root=Path("/"), resume_overrides=(override,)).resume_words(path)
    parsed = OverridesParser.create().parse_override(word)
    assert parsed.key_or_group == key
    found = parsed.value() if isinstance(value, dict | list | bool) else parsed.get_value_string().strip("'\"")
    assert json.loads(json.dumps(found, default=lambda item: item.text)) == _filled(value, str(path))


def _filled(value: Any, path: str) -> Any:
    return json.loads(json.dumps(value).replace("{}", path))


def test_the_words_of_a_command_are_no_overrides() -> None:
    words = ("--resume", "{last_checkpoint}", "--from={last_checkpoint}")
    app = AppSettings(name="a", root=Path("/"), command="x", resume_overrides=words)
    assert app.resume_words(Path("/lr=1/last")) == ["--resume", "/lr=1/last", "--from=/lr=1/last"]


def test_a_file_that_cannot_be_read(repo: Path) -> None:
    with pytest.raises(ConfigError, match="gptopt init writes one"):
        read_settings(repo / "none" / "gptopt.toml")
    (repo / "gptopt.toml").write_bytes(b'[app]\nname = "\xff"')
    with pytest.raises(ConfigError, match="must be UTF-8, but byte 14 is 0xff"):
        read_settings(repo / "gptopt.toml")


def test_every_key_says_what_it_is() -> None:
    assert all(key.doc and key.kind.expects for table in TABLES.values() for key in table.values())
