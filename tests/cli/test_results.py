"""`gptopt results`: one answer in every format, exit codes, what is said where there is no answer."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gpt_opt.cli.app import main
from gpt_opt.records.io import write_text
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import State
from gpt_opt.records.sweep_dir import Shape, StageRecord, Submission, SweepRun, create
from tests.analysis.conftest import MakeRun

ACCURACY = "eval/rewards/accuracies"
VALUES = {0.05: [0.70, 0.72, 0.71], 0.1: [0.80, 0.823, 0.815], 0.3: [0.60, 0.63, 0.62]}

Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, outputs: Path) -> Ask:
    """Asks `gptopt` where outputs/ lies, and returns exit code, standard output and standard error."""
    monkeypatch.chdir(outputs.parent)

    def results(*arguments: str, columns: int = 200) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        code = main(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return results


def make_beta_runs(make_run: MakeRun, values: Mapping[float, list[float]]) -> list[RunPaths]:
    return [
        make_run({"loss.beta": beta, "seed": seed}, final={ACCURACY: value, "loss": 0.5})
        for beta, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]


def make_sweep(outputs: Path, made: list[RunPaths], metric: dict[str, str] | None, **more: Any) -> None:
    runs = [SweepRun(index, paths.root.name[-12:], str(paths.root), ()) for index, paths in enumerate(made)]
    runs += more.pop("further", [])
    shape = Shape({"gpus_per_run": 2}, 1)
    submission = Submission("mine", "mine.json", (), "local", (shape,), metric, str(outputs.parent), ".", **more)
    (folder := outputs.parent / "sweeps" / "mine").mkdir(parents=True)
    create(folder, "{}", runs, submission)


def test_a_folder_of_runs(make_run: MakeRun, ask: Ask) -> None:
    make_beta_runs(make_run, VALUES)
    code, out, err = ask("results", "outputs")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "9 runs: 9 COMPLETED; eval accuracy, greater is better, mean over seeds"
    assert [line.split()[0] for line in lines[2:6]] == ["beta", "0.1", "0.05", "0.3"]
    assert lines[3].split()[1:5] == ["81.3%", "[78.4%,", "84.2%]", "3"]
    assert re.search(r" p < 0.001 +61.2$", lines[4])
    assert (
        "beta=0.1 has the best eval accuracy, 81.3% [78.4%, 84.2%] over 3 seeds, distinguishable from the next" in out
    )
    assert "test: paired t-test on shared seeds" in out


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_a_narrow_terminal_loses_nothing(make_run: MakeRun, ask: Ask, columns: int) -> None:
    make_beta_runs(make_run, VALUES)
    _, out, _ = ask("results", "outputs", columns=columns)
    assert max(map(len, out.splitlines())) <= columns
    for text in ("81.3%", "[78.4%, 84.2%]", "distinguishable", "Holm"):
        assert text in out


def test_every_format_has_the_same_numbers(make_run: MakeRun, ask: Ask) -> None:
    make_beta_runs(make_run, VALUES)
    document = json.loads(ask("results", "outputs", "--format", "json")[1])
    assert document == json.loads(ask("results", "outputs", "--json")[1])
    rows = list(csv.DictReader(io.StringIO(ask("results", "outputs", "--format", "csv")[1])))
    markdown = ask("results", "outputs", "--format", "markdown")[1].splitlines()
    latex = ask("results", "outputs", "--format", "latex")[1].splitlines()
    for item, row, in_markdown, in_latex in zip(document["settings"], rows, markdown[2:5], latex[5:8], strict=True):
        assert float(row["loss.beta"]) == item["values"]["loss.beta"]
        assert [float(row[name]) for name in ("mean", "low", "high", "n")] == [
            item[name] for name in ("mean", "low", "high", "n")
        ]
        shown = [f"{item['values']['loss.beta']:g}", f"{item['mean']:.1%}", f"[{item['low']:.1%}, {item['high']:.1%}]"]
        assert [cell.strip() for cell in in_markdown.strip("|").split("|")][:3] == shown
        assert [cell.strip().replace("\\%", "%") for cell in in_latex.removesuffix(r"\\").split("&")][:3] == shown
    assert {row["metric"] for row in rows} == {ACCURACY}
    assert document["best"] == {"loss.beta": 0.1}
    assert document["distinguishable"] is True
    assert document["goal"] == "maximize"
    assert [len(item["runs"]) for item in document["settings"]] == [3, 3, 3]
    assert document["settings"][0]["seeds"][1]["over"] == [1]
    assert (latex[1], latex[-1]) == (r"\begin{tabular}{rrrrlr}", r"\end{tabular}")


def test_values_are_escaped(make_run: MakeRun, ask: Ask) -> None:
    for subset in ("a_b|c", "50% & more", "~x^2 {y} \\z"):
        make_run({"data.dataset.subset": subset}, final={ACCURACY: 0.5})
    latex = ask("results", "outputs", "--format", "latex")[1]
    assert r"a\_b\textbar{}c & 50.0\% & 1" in latex
    assert r"50\% \& more & 50.0\% & 1" in latex
    assert r"\textasciitilde{}x\textasciicircum{}2 \{y\} \textbackslash{}z & " in latex
    assert all(len(re.findall(r"(?<!\\)&", line)) == 4 for line in latex.splitlines() if line.endswith(r"\\"))
    markdown = ask("results", "outputs", "--format", "markdown")[1]
    assert r"| a\_b\|c | 50.0% |" in markdown
    rows = csv.DictReader(io.StringIO(ask("results", "outputs", "--format", "csv")[1]))
    assert {row["data.dataset.subset"] for row in rows} == {"a_b|c", "50% & more", "~x^2 {y} \\z"}


def test_a_list_is_a_cell(make_run: MakeRun, ask: Ask) -> None:
    for targets in (["q", "v"], ["q"]):
        make_run({"optimizer.optimizer_params.betas": targets}, final={ACCURACY: len(targets) / 10})
    rows = list(csv.DictReader(io.StringIO(ask("results", "outputs", "--format", "csv")[1])))
    assert [row["optimizer.optimizer_params.betas"] for row in rows] == ['["q", "v"]', '["q"]']
    assert json.loads(ask("results", "outputs", "--json")[1])["best"] == {
        "optimizer.optimizer_params.betas": ["q", "v"]
    }


def test_a_sweep_counts_what_has_not_started_and_has_a_metric_of_its_own(
    make_run: MakeRun, outputs: Path, ask: Ask
) -> None:
    made = make_beta_runs(make_run, {0.1: [0.8, 0.82], 0.3: [0.9]})
    made.append(make_run({"loss.beta": 0.3, "seed": 1}, State.FAILED, final=None))
    waiting = SweepRun(4, "f" * 12, str(outputs / "x-ffffffffffff"), ("loss.beta=0.3",))
    make_sweep(outputs, made, {"name": "loss", "goal": "minimize"}, further=[waiting])
    code, out, err = ask("results", "mine")
    assert code == 0, err
    assert out.startswith("sweep mine/1, 5 runs: 3 COMPLETED, 1 PENDING, 1 FAILED; train loss, less is better")
    assert "3 of 5 runs are in the means; the others are not: 1 failed, 1 unfinished" in out
    assert "gptopt status mine/1 says how the runs stand that are not in the means" in out
    assert ask("results")[1] == out, "the last sweep submitted is meant where none is named"
    assert json.loads(ask("results", "mine", "--metric", "accuracy", "--json")[1])["metric"] == ACCURACY


def test_sweep_files_of_what_to_run_next(make_run: MakeRun, outputs: Path, ask: Ask) -> None:
    made = make_beta_runs(make_run, {0.1: [0.8, 0.82], 0.3: [0.81, 0.8]})
    for paths in made:
        config = json.loads(paths.config.read_text())
        paths.hydra.mkdir()
        lines = f"- loss.beta={config['loss']['beta']}\n- seed={config['seed']}\n"
        write_text(paths.hydra / "overrides.yaml", lines)
    make_sweep(outputs, made, None)
    code, out, err = ask("results", "mine", "--seeds", "more.json", "--extend", "wider.json")
    assert code == 0
    assert "sweep file: more.json (gptopt plan more.json checks it)" in err
    more, wider = (json.loads((outputs.parent / name).read_text()) for name in ("more.json", "wider.json"))
    assert (more["name"], more["resources"]) == ("mine_seeds", {"gpus_per_run": 2})
    assert more["union"][0]["grid"] == {"seed": list(range(10))}
    assert wider["union"] == [{"base": {}, "grid": {"loss.beta": [0.0111, 0.0333], "seed": [0, 1]}}]
    assert "--seeds FILE writes the sweep file" in out
    code, _, err = ask("results", "mine", "--seeds", "no/such/folder.json")
    assert (code, "cannot be saved there" in err) == (2, True)


def test_the_metric_of_a_stage(make_run: MakeRun, outputs: Path, ask: Ask) -> None:
    sft = [make_run({"loss.name": "sft", "seed": seed}, final={"eval/loss": 1.0, "loss": 0.5}) for seed in (0, 1)]
    dpo = [
        make_run(
            {"seed": seed, "model.archive": f"run:{start.root.name[-12:]}"}, final={ACCURACY: 0.9, "eval/loss": 0.1}
        )
        for seed, start in enumerate(sft)
    ]
    ids = [paths.root.name[-12:] for paths in (*sft, *dpo)]
    runs = [SweepRun(n, ids[n], str(sft[n].root), (), stage="sft", number=n) for n in (0, 1)]
    runs += [SweepRun(n + 2, ids[n + 2], str(dpo[n].root), (), 0, "dpo", n, n) for n in (0, 1)]
    by = {"name": "loss", "goal": "minimize"}
    stages = (StageRecord("sft"), StageRecord("dpo", "sft", by))
    make_sweep(outputs, [], {"name": "eval/loss", "goal": "minimize"}, further=runs, stages=stages)
    end = json.loads(ask("results", "mine", "--json")[1])
    assert (end["stages"], end["metric"], end["settings"][0]["n"]) == (["dpo"], "eval/loss", 2)
    assert json.loads(ask("results", "mine", "--stage", "sft", "--json")[1])["metric"] == "loss"
    assert "stage dpo (--stage for sft), 2 runs" in ask("results", "mine")[1]
    code, _, err = ask("results", "mine", "--stage", "rl")
    assert (code, "it has sft, dpo" in err) == (2, True)


@pytest.mark.parametrize(
    ("states", "code", "sentence"),
    [
        ([State.FAILED, State.FAILED], 1, "no run has a final eval loss: 2 failed"),
        ([State.FAILED, State.RUNNING], 3, "no run has a final eval loss yet: 1 failed, 1 unfinished"),
        ([State.COMPLETED], 2, "no run has a final eval loss: 1 COMPLETED without a value of it"),
    ],
)
def test_no_answer_yet(make_run: MakeRun, ask: Ask, states: list[State], code: int, sentence: str) -> None:
    for seed, state in enumerate(states):
        make_run({"seed": seed}, state, rows=[], final={} if state is State.COMPLETED else None)
    found, out, _ = ask("results", "outputs")
    assert found == code
    assert sentence in out
    assert ask("results", "outputs", "--json")[0] == code


def test_one_run_is_an_answer(make_run: MakeRun, ask: Ask) -> None:
    make_run()
    code, out, _ = ask("results", "outputs")
    assert code == 0
    assert "the only setting: eval accuracy 78.1% over 1 seed" in out


def test_how_long_to_a_target(make_run: MakeRun, ask: Ask) -> None:
    make_beta_runs(make_run, {0.1: [0.8]})
    _, out, _ = ask("results", "outputs", "--target", "0.515")
    assert "the only setting reaches eval accuracy 51.5% in the fewest steps, 15 steps" in out


def test_gpu_seconds(make_run: MakeRun, ask: Ask) -> None:
    for beta, gpus, time_s in ((0.1, ["0"], 100.0), (0.3, ["0", "1"], 90.0)):
        make_run({"loss.beta": beta}, final={ACCURACY: 0.5 + beta}, gpus=gpus, time_s=time_s)
    document = json.loads(ask("results", "outputs", "--cost", "gpu_s", "--json")[1])
    assert [item["gpu_s"] for item in document["settings"]] == [180.0, 100.0]
    assert document["front"] == [{"loss.beta": 0.1}, {"loss.beta": 0.3}]
    make_run({"loss.beta": 0.9}, final={ACCURACY: 0.99})
    assert "the best runs have no GPU seconds" in ask("results", "outputs", "--cost", "gpu_s")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["outputs", "--metric", "acuracy"], "did you mean eval/rewards/accuracies?"),
        (["outputs", "--by", "bta"], "the runs have no bta; what varies between them is loss.beta, seed"),
        (["outputs", "--over", "sed"], "the runs have no sed"),
        (["outputs", "--format", "html"], "'html' is not one of"),
        (["outputs", "--cost", "money"], "'money' is not one of"),
        (["outputs", "--target", "nan"], "--target takes a finite number, but got nan"),
        (["outputs", "--by", "seed"], "must not be among the keys that are compared, but is seed"),
        (["empty"], "no run lies below 'empty'"),
        (["nothing"], "nothing is no folder, and no sweep"),
    ],
)
def test_wrong_requests_exit_2(make_run: MakeRun, outputs: Path, ask: Ask, arguments: list[str], message: str) -> None:
    make_beta_runs(make_run, VALUES)
    (outputs.parent / "empty").mkdir()
    code, out, err = ask("results", *arguments)
    assert (code, out) == (2, "")
    assert message in err
