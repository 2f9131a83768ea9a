"""What a person is told: any name can be shown, and one mistake is told once."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_opt.cli import main
from gpt_opt.errors import ConfigError, Interrupted, Problem, RequestError, distinct_problems, exit_code, plain
from tests.conftest import ROOT
from tests.dispatch.on_disk import make_sweep


def test_names_however_odd_can_be_shown() -> None:
    name = os.fsdecode(b"a\xff\x1b[31m\r\x07.json")
    assert plain(name) == r"a\xff\x1b[31m\r\x07.json"
    assert plain("über\nzwei") == "über\nzwei"
    assert plain("\u2028\ud800\x85") == r"\u2028\ud800\x85"
    long = plain("a" * 150 + "b" * 150)
    assert long == "a" * 100 + "…" + "b" * 100
    path = "/home/" + "/".join(["b" * 60] * 6)
    assert plain(path) == path, "who looks for a file needs all of its path"
    assert plain("word " * 200) == "word " * 200
    path = f"cannot read /{'/'.join(['d' * 250] * 3)}/config.json"
    assert plain(path) == path
    assert str(Problem("a\nb", "is c\nd", "write\ne")) == "a\\nb: is c\\nd\n      write\ne"


def text_of(problems: list[Problem]) -> str:
    return str(RequestError(problems))


def test_one_mistake_is_told_once_with_a_count() -> None:
    rows = [Problem(f"prefs.jsonl:{line}", f"'chosen' must be a string, but is {line}") for line in range(3, 516)]
    assert text_of(rows) == "1 problem:\n  - prefs.jsonl:3 and 512 more: 'chosen' must be a string, but is 3"
    values = [Problem("loss.beta", f"must be above 0, but is {-n / 2} (point {n} of 9)", "0.1") for n in range(1, 9)]
    told = "loss.beta: must be above 0, but is -0.5 (point 1 of 9) (and 7 more values like this)\n      0.1"
    assert text_of([*values, Problem("seed", "x")]) == f"2 problems:\n  - {told}\n  - seed: x"
    texts = [Problem(f"seed={letter}", f"Value {letter!r} is no Integer") for letter in "abcdef"]
    assert text_of(texts) == "1 problem:\n  - seed=a and 5 more: Value 'a' is no Integer"


def test_different_mistakes_and_few_of_a_kind_are_all_told() -> None:
    few = [Problem("loss.beta", f"must be above 0, but is {value}") for value in (-1, -2, -3)]
    assert distinct_problems(few) == few
    keys = [Problem(key, "is not a key") for key in ("ab", "bb", "cb", "db", "eb")]
    assert distinct_problems(keys) == keys
    assert RequestError(keys * 2).problems == tuple(keys * 2)  # for programs, all of them


def test_the_standard_output_takes_what_its_encoding_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert exit_code(lambda: print("5 µs …", os.fsdecode(b"\xff"))) == 0
    sys.stdout.flush()
    assert written.getvalue() == b"5 \\xb5s \\u2026 \\udcff\n"


def test_a_file_or_sweep_that_is_not_there_is_a_wrong_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "betas.json").write_text("{}")
    for verb in ("plan", "submit"):  # also where Slurm does not answer
        assert main([verb, "beta.json"]) == 2
        assert "beta.json: the file must be readable" in (shown := capsys.readouterr().err)
        assert "did you mean betas.json?" in shown
    for arguments in (["status"], ["status", "betas"], ["logs", "betas"], ["retry", "betas"], ["cancel", "betas"]):
        assert main(arguments) == 2
        assert f"SWEEP: must be a submitted sweep{'' if arguments == ['status'] else ', but is '}" in (
            shown := capsys.readouterr().err
        )
        assert f"{tmp_path / 'sweeps'} holds none" in shown


def test_a_number_of_a_sweep_that_is_not_there_is_told_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_sweep(tmp_path, [["seed=0"]])
    monkeypatch.chdir(tmp_path)
    for words, told in (("status beta/9", "it has beta/1"), ("results beta/9", "beta/1"), ("status bta/1", "beta?")):
        assert main(words.split()) == 2
        assert told in capsys.readouterr().err


ODD = [b"no\xff\x1b[31m.json", b"x" * 300, b"a\nb"]


@pytest.mark.parametrize("name", ODD, ids=["bytes", "long", "line"])
def test_gptopt_names_what_it_does_not_know_however_odd(
    name: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = os.fsdecode(name)
    sweep = tmp_path / "good.json"
    sweep.write_text('{"loss.beta": [0.1]}')
    assert main(["plan", given]) == 2
    assert main(["plan", str(sweep), f"exp_name={given}", f"{given}=1", "seed=x"]) == 2
    assert main(["status", given]) == (2 if len(name) < 256 else 1)  # where the file system refuses the name
    assert main(["plan", str(sweep), f"--{given}"]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert "seed=x: must be an integer, but is 'x'" in shown
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert max(map(len, shown.split())) < 220


def test_a_request_error_of_another_process_says_the_same_here() -> None:
    error = ConfigError([Problem("a", "must be 1, but is 2", "set 1"), Problem("b", "is odd")], ", nothing started")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.problems) == (ConfigError, str(error), error.problems)


def test_run_hydra_names_what_it_does_not_know_however_odd(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "run_hydra.py"),
        "loss.beta=0.1",
        b"data.dataset.path=\xff",
        b"x" * 300 + b"=1",
    ]
    done = subprocess.run([os.fsencode(word) for word in command], capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert b"data.dataset.path: must be text in UTF-8, but has other bytes: \\xff" in done.stderr
    assert b"Traceback" not in done.stderr


def raises(error: BaseException) -> Callable[[], int]:
    def main() -> int:
        raise error

    return main


def test_a_command_that_was_interrupted_ends_with_130(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert exit_code(raises(KeyboardInterrupt())) == 130
    assert exit_code(raises(Interrupted("SIGTERM"))) == 1, "a run, with a checkpoint"
    assert capsys.readouterr().err == "stopped\nstopped: SIGTERM\n"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for imported, command in (("click", "-m gpt_opt.cli"), ("hydra", "run_hydra.py")):
        (tmp_path / f"{imported}.py").write_text("raise KeyboardInterrupt\n")
        done = subprocess.run([sys.executable, *command.split()], cwd=ROOT, env=environment, capture_output=True)
        assert (done.returncode, done.stderr) == (130, b""), command
