"""What a shell completes arguments to, and what the list of verbs says of each."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from gpt_opt.cli.app import _gptopt, main
from gpt_opt.cli.arguments import complete_sweep
from tests.dispatch.on_disk import make_sweep


def test_sweeps_are_completed_and_snapshots_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_sweep(tmp_path, [["seed=0"]])
    (tmp_path / "sweeps" / ".code" / "419fba82f76f").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    context = click.Context(_gptopt)
    names = [item.value for item in complete_sweep(context, click.Argument(["sweep"]), "")]
    assert names == ["beta", "beta/1"]


def test_diff_completes_sweeps_and_after_one_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_sweep(tmp_path, [["seed=0"], ["seed=1"]])
    monkeypatch.chdir(tmp_path)

    def completed(*words: str, incomplete: str = "") -> list[tuple[str, str | None]]:
        found = ShellComplete(_gptopt, {}, "gptopt", "_GPTOPT_COMPLETE").get_completions(["diff", *words], incomplete)
        return [(item.value, item.help) for item in found]

    assert completed() == [("beta", None), ("beta/1", None)]
    assert completed("beta") == completed("beta", "0") == [("0", "seed=0"), ("1", "seed=1")]
    assert completed("beta", "0", incomplete="1") == [("1", "seed=1")]
    assert completed("beta", "0", incomplete="b") == completed()


def test_every_verb_has_a_line_in_80_columns() -> None:
    room = 80 - len("  ") - max(map(len, _gptopt.commands)) - len("  ") - len("  ")
    assert [name for name, verb in _gptopt.commands.items() if verb.get_short_help_str(room).endswith("...")] == []


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("plan a.json --time-min 5", "as an override write resources.time_min=5; "),
        ("plan a.json --seed -1", "as an override write seed=-1; "),
        ("plan a.json --bf16 seed=1", "as an override write training.training_params.mixed_precision=bf16; "),
        ("plan --lr a.json", "as an override write optimizer.optimizer_params.lr=VALUE; "),
        ("plan a.json --dry-run", "as an override write dry_run=true; "),
        ("submit a.json --gpus 2", "did you mean --gpus-per-run? "),
        ("submit a.json --slot=2", "did you mean --slots? "),
        ("status --lr 1", ""),
    ],
)
def test_an_unknown_option_is_told_with_what_it_means(
    words: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    given = " ".join(capsys.readouterr().err.split())
    flag, verb = next(word for word in words.split() if word.startswith("--")), words.split()[0]
    assert given.endswith(f"unknown: {flag}; {hint}see gptopt {verb} --help")
