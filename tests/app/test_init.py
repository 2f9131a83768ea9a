"""gptopt init, and what the doctor says of what it wrote."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gpt_opt.app.command import parse_command
from gpt_opt.app.defaults import compose_defaults
from gpt_opt.app.init import initial
from gpt_opt.app.settings import read_settings
from gpt_opt.cli import main
from gpt_opt.cli.arguments import ROOT
from gpt_opt.dispatch.doctor import Check
from gpt_opt.dispatch.doctor_app import app_checks
from gpt_opt.errors import ConfigError
from tests.helpers.apps import copied

Output = pytest.CaptureFixture[str]


def checks(root: Path) -> dict[str, Check]:
    return {check.name: check for check in app_checks(root)}


@pytest.fixture
def lightning_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = copied("lightning_like", tmp_path)
    monkeypatch.chdir(root)
    return root


def test_it_asks_nothing_and_says_what_it_found(lightning_like: Path, capsys: Output) -> None:
    assert main(["init"]) == 0
    assert capsys.readouterr().out == (
        "src/train.py, its config configs/train\n"
        "it is imported to compose its configs: src/train.py:8 os.environ\n"
        "metrics: csv (logger/csv.yaml writes it where a run is given logger=csv)\n"
        "goes on from a checkpoint by ckpt_path\n"
        "left aside: src/eval.py\n"
        "wrote gptopt.toml. Next:\n"
        "  gptopt doctor\n"
        """  echo '{"base": {"logger": "csv"}, "grid": {"seed": [0, 1]}}' > first.json && gptopt plan first.json\n"""
    )
    before = (lightning_like / "gptopt.toml").read_text()
    assert main(["init", "src/eval.py"]) == 2
    assert "gptopt.toml: must be a new file, but exists" in capsys.readouterr().err
    assert (lightning_like / "gptopt.toml").read_text() == before
    assert main(["init", "src/eval.py", "--print"]) == 0
    assert 'script = "src/eval.py"' in capsys.readouterr().out


@pytest.mark.slow
def test_the_doctor_composes_as_the_application_does(lightning_like: Path) -> None:
    main(["init"])
    found = checks(lightning_like / "src")
    assert [check.name for check in found.values() if not check.ok] == ["identity"]
    assert found["identity"].found == "no keys of this config: logger", "it is null, and an option has it"
    assert "composed by Hydra" in found["config"].found
    assert found["resume"].found == "newest of checkpoints/*.ckpt: ckpt_path={last_checkpoint}"
    assert found["metrics"].found.endswith("give its runs logger=csv")

    file = lightning_like / "gptopt.toml"
    text = file.read_text().replace("registers = true", "registers = false").replace("ckpt_path=", "ckpt=")
    text = text.replace("{label}", "{model.lr}-{model.size}").replace("warm_imports = []", 'warm_imports = ["torchx"]')
    file.write_text(text)
    found = checks(lightning_like)
    failed = {name: check.found for name, check in found.items() if check.ok is False}
    assert failed.pop("resume").startswith("ckpt='/lr=0.1/last': Could not override 'ckpt'.")
    assert failed == {
        "registers": "src/train.py:8 os.environ",
        "run directory": "no values of this config: model.size",
        "warm imports": "not found: torchx",
    }
    assert all(check.advice for check in found.values() if not check.ok)


def test_the_doctor_reads_configs_of_any_types(tmp_path: Path) -> None:
    text = "import sys\nprint('lr: 1\\npath: !!python/object/apply:pathlib.PosixPath\\n- data\\nseed: 0')\n"
    (tmp_path / "train.py").write_text(text)
    toml = '[app]\nscript = "train.py"\nregisters = true\n[run]\ndir = "{lr}/{id}"\n[stages]\nstart = "init"\n'
    (tmp_path / "gptopt.toml").write_text(toml)
    found = checks(tmp_path)
    assert found["config"].found.startswith("3 keys")
    assert "run directory" not in found
    assert found["stages"].found == "no key of this config: init"


def test_a_program_that_does_not_start_is_told_by_its_last_words(tmp_path: Path) -> None:
    root = copied("plain", tmp_path)
    (root / "gptopt.toml").write_text('[app]\nscript = "train.py"\nconfig_path = "conf"\n')
    (root / "train.py").write_text("import not_installed\n")
    check = checks(root)["config"]
    assert check.ok is False
    assert check.found == "ModuleNotFoundError: No module named 'not_installed'"
    assert check.advice.startswith("install what the application needs")


def test_mistakes_in_the_file_are_checks_that_fail(tmp_path: Path) -> None:
    assert app_checks(tmp_path) == []
    (tmp_path / "gptopt.toml").write_text('[app]\nscript = "t.py"\nconfig = "conf"\n')
    found = app_checks(tmp_path)
    assert [(check.ok, check.found.split(":")[1].split(" ")[0]) for check in found] == [
        (False, "3"),
        (False, "2"),
        (False, "2"),
    ]
    assert all(check.advice for check in found)


def test_the_arguments_of_argparse_become_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    root = copied("argparse_like", tmp_path)
    monkeypatch.chdir(root)
    assert main(["init"]) == 2
    assert "with argparse: train.py\n      gptopt init train.py" in capsys.readouterr().err
    assert main(["init", "train.py"]) == 0
    settings = read_settings(root / "gptopt.toml")
    assert settings.command == (
        "python train.py {task} --learning-rate={lr} --steps={steps} --weights {weights} --note={note} [--fp16 {fp16}]"
        " --output_dir={run_dir} [--resume={resume}] --seed={seed}"
    )
    assert (settings.checkpoints, settings.resume_overrides) == ("**/last.pt", ("--resume", "{last_checkpoint}"))
    assert settings.exclude == {"note"}
    values = compose_defaults(settings, ["task=line", "fp16=true", "weights=[3]"])
    assert parse_command(settings.command).words(values, Path("/run")) == [
        *("python", "train.py", "line", "--learning-rate=0.1", "--steps=3", "--weights", "3", "--note="),
        *("--fp16", "--output_dir=/run", "--seed=0"),
    ]
    assert (root / "defaults.yaml").read_text().splitlines()[1:4] == [
        *("task: ???  # what it descends", "lr: 0.1  # step size", "steps: 3")
    ]
    found = checks(root)
    assert found["defaults"].found == "8 parameters, 8 of them in the command"
    assert not [check for check in found.values() if check.ok is False]


def test_arguments_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import options\n")
    (tmp_path / "options.py").write_text(
        """def add(parser):
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="step size, %(default)s of 100%%")
    parser.add_argument("--beta", type=float, help="(default: %(default)s)")
    parser.add_argument("-n", type=int, default=2)
    parser.add_argument("--text", default="${HOME}")
    parser.add_argument("--amp", type=str2bool, default=True)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction)
    parser.add_argument("--shuffle", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--wrong", type=bool, default=False)
    parser.add_argument("--no-eval", action="store_false", dest="eval")
    parser.add_argument("--version", action="version")
    parser.add_argument("--workers", default=os.cpu_count())
    parser.add_argument(*names)
    parser.add_argument("--log-dir")
    parser.add_argument("--model.width", type=int, default=8)
    parser.add_argument("--tag", action="append")
"""
    )
    found = initial(tmp_path, Path("train.py"))
    files = found.files
    assert (
        'command = "python train.py --learning-rate={learning_rate} [--beta={beta}] -n {n} --text={text} --amp={amp}'
        " [--compile {compile}] [--no-shuffle {no_shuffle}] [--no-eval {no_eval}] [--workers={workers}]"
        ' --log-dir={run_dir} --model.width={model_width}"'
    ) in files["gptopt.toml"]
    assert "left out, write them into the command yourself: '--wrong', *names, '--tag'" in found.found
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    settings = read_settings(tmp_path / "gptopt.toml")
    assert compose_defaults(settings, []) == {
        **{"learning_rate": 0.001, "beta": None, "n": 2, "text": "${HOME}", "amp": True, "compile": False},
        **{"no_shuffle": False, "no_eval": False, "workers": None, "model_width": 8},
    }
    assert "learning_rate: 0.001  # step size of 100%\nbeta: null\n" in files["defaults.yaml"]


def test_of_a_script_with_subcommands_one_must_be_named(tmp_path: Path) -> None:
    lines = "sub = parser.add_subparsers()\na = sub.add_parser('fit')\na.add_argument('--lr')\nsub.add_parser('eval')\n"
    (tmp_path / "main.py").write_text(lines)
    with pytest.raises(ConfigError, match="has subcommands, fit, eval, each with arguments of its own") as raised:
        initial(tmp_path, Path("main.py"))
    assert 'gptopt init --command "python main.py fit --lr={lr} --seed={seed}"' in str(raised.value)


def test_what_a_command_lacks_is_told(tmp_path: Path) -> None:
    (tmp_path / "defaults.yaml").write_text("seed: 0\nlr: 0.1\n")
    text = '[app]\ncommand = "pythn train.py --seed {sed}"\ndefaults = "defaults.yaml"\n[identity]\nexclude = ["x"]\n'
    (tmp_path / "gptopt.toml").write_text(text)
    found = [(check.name, check.ok, check.advice) for check in app_checks(tmp_path) if not check.ok]
    assert found[:3] == [
        ("command", False, "correct the first word, or load what has it"),
        ("command", False, "correct the path, relative to this file"),
        ("command", False, "did you mean {seed}?"),
    ]
    assert [(name, ok) for name, ok, _ in found[3:]] == [("defaults", None), ("identity", None), ("resume", None)]


def test_a_command_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 2
    assert 'gptopt init --command "python train.py --lr {lr} --seed {seed}"' in capsys.readouterr().err
    assert main(["init", "--command", "julia t.jl {optimizer.lr} {optimizer.wd} {seed}"]) == 0
    settings = read_settings(tmp_path / "gptopt.toml")
    assert compose_defaults(settings, ["seed=1"]) == {"optimizer": {"lr": "???", "wd": "???"}, "seed": 1}


def test_gpt_opt_itself_needs_no_such_file(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["init", "--print"]) == 2
    assert "must be another application than gpt-opt's own training" in capsys.readouterr().err


def test_configs_above_the_folder_are_not_of_its_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "src").mkdir()
    text = 'import hydra\n@hydra.main(config_path="../conf", config_name="config")\ndef main(cfg): ...\n'
    (tmp_path / "src" / "train.py").write_text(text)
    monkeypatch.chdir(tmp_path / "src")
    assert main(["init"]) == 2
    assert "cd .. && gptopt init src/train.py" in capsys.readouterr().err
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "src" / "gptopt.toml").write_text('[app]\nmodule = "none"\nregisters = true\n')
    assert str(tmp_path) in checks(tmp_path / "src")["code"].advice


def test_scripts_that_are_as_likely_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train_a.py", "train_b.py", "eval.py"):
        (tmp_path / name).write_text("import hydra\n@hydra.main()\ndef f(cfg): pass\n")
    assert main(["init"]) == 2
    error = capsys.readouterr().err
    assert "several scripts have @hydra.main: train_a.py, train_b.py" in error
    assert "say which, for example: gptopt init train_a.py" in error
    assert main(["init", "train_c.py"]) == 2
    assert "must be a script below" in capsys.readouterr().err
    assert main(["init", "train_b.py", "--command", "x"]) == 2
