"""Sweep files: what is read, and every mistake with its file, line and fix."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_opt.errors import Problem, SweepError
from gpt_opt.sweep.grid import load_grid, parse_grid
from gpt_opt.sweep.model import Metric, Resources
from gpt_opt.sweep.points import points

HERE = Path(__file__).parent


def problems(text: str) -> list[Problem]:
    with pytest.raises(SweepError) as caught:
        parse_grid(text, "f.json")
    return list(caught.value.problems)


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, gpt_opt.sweep; sys.exit(bool({'hydra', 'omegaconf', 'torch', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=HERE.parents[1], check=True)


def test_settings_are_read() -> None:
    text = """{"$schema": "s.json", "name": "n.1", "metric": {"name": "eval/loss", "goal": "maximize"},
      "resources": {"gpus_per_run": 0, "nodes_per_run": 2, "cpus_per_run": 4, "mem_gb": 1.5, "time_min": 60,
                    "partition": "p", "qos": "q", "account": "a", "constraint": "a100|h100", "exclude": "n[1-2]",
                    "runs_per_gpu": 3, "sbatch": ["--reservation=lab"]}}"""
    grid = parse_grid(text, "f.json")
    assert grid.name == "n.1"
    assert grid.metric == Metric("eval/loss", "maximize")
    assert grid.stages[0].resources == Resources(
        0, 2, 4, 1.5, 60, "p", "q", "a", "a100|h100", "n[1-2]", 3, ("--reservation=lab",)
    )
    assert [p.items for p in points(grid.stages[0].space)] == [()]


def test_defaults() -> None:
    grid = parse_grid('{"a": 1}', "f.json", "given")
    assert (grid.name, grid.metric, grid.source) == ("given", None, "f.json")
    assert grid.stages[0].resources == Resources()
    assert grid.stages[0].resources.gpus_per_run is None


def test_name_comes_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "beta.json"
    path.write_text('{"$schema": "x", "loss.beta": [0.1]}')
    assert load_grid(path).name == "beta"
    assert load_grid(str(path)).source == str(path)
    bad = tmp_path / "my sweep.json"
    bad.write_text('{"a": 1}')
    with pytest.raises(SweepError, match='name must be letters, digits, dots, - and _, but got "my sweep"'):
        load_grid(bad)


CASES = [
    # (text, where, part of the message, part of the fix)
    ("[]", "f.json:1", "a sweep must be an object", ""),
    ("{}", "f.json:1", "must have a parameter or a section", '{"base": {}}'),
    ('{"grid": {"a": [1]},\n"recources": {}}', "f.json:2 recources", "a known one", 'did you mean "resources"?'),
    ('{"grid": {"a": [1]},\n"loss.beta": [1]}', "f.json:2 loss.beta", "a top-level key", 'belong into "grid"'),
    ('{"name": "a/b"}', "f.json:1 name", 'but got "a/b"', "directory"),
    ('{"name": 3}', "f.json:1 name", "but got 3", "directory"),
    ('{"a":\n[]}', "f.json:1 a", "a list of alternatives must not be empty", "give a value"),
    ('{"grid": []}', "f.json:1 grid", "grid must be an object", ""),
    ('{"grid": {}}', "f.json:1 grid", "grid must have at least one parameter", "leave it out"),
    ('{"a b": [1]}', "f.json:1 a b", "one that Hydra can parse", "a.b.c"),
    ('{"a": [1,\n"???"]}', "f.json:2 a", "OmegaConf reads it as", "null"),
    ('{"base":\n{"a": "\\ud800"}}', "f.json:2 a", "lone surrogate", "write the character"),
    ('{"a": [{"1": 2}]}', "f.json:1 a", "as a number", "rename"),
    ('{"a": {"b": 1}}', "f.json:1 a", "must be one generator (range, linspace, logspace)", '[{"b": 1}]'),
    ('{"gird": {"a": [1]}}', "f.json:1 gird", "must be one generator", "check the spelling"),
    ('{"a": {"uniform": [0, 1]}}', "f.json:1 a", "must be one generator", '"random"'),
    ('{"a": {"range": [0, 1], "x": 1}}', "f.json:1 a", "must be one generator", ""),
    ('{"a": {\n"range": [0, 0]}}', "f.json:2 range", "gives none", "stop beyond start"),
    ('{"a": {"range": "x"}}', "f.json:1 range", "all numbers", "range takes [start, stop]"),
    ('{"zip": {"a": [1, 2],\n"b": [1]}}', "f.json:1 zip", "one length, but got a 2, b 1", "equal"),
    ('{"zip": {"a": [1, 2],\n"b": 1}}', "f.json:2 b", "zip needs a list here, but got 1", "base"),
    ('{"base": {"a": 1},\n"grid": {"a": [1]}}', "f.json:2 a", '"a" also stands on line 1', "keep one"),
    ('{"grid": {"a": [1]},\n"zip": {"+a": [1]}}', "f.json:2 +a", '"a" also stands on line 1', "keep one"),
    ('{"a": [1],\n"~a": [null]}', "f.json:2 ~a", '"a" also stands on line 1', "keep one"),
    (
        '{"zip": {"a": [1]},\n"random": {"samples": 1, "params": {"a": {"int": [0, 1]}}}}',
        "f.json:2 a",
        '"a" also stands on line 1',
        "keep one",
    ),
    ('{"a": [1],\n"a": [2]}', "f.json:2", '"a" also stands on line 1', "remove one"),
    ('{"grid": {"a": [1]},\n"union": [{"b": 1},\n{"a": [2]}]}', "f.json:3 a", 'line 1 gives "a"', "members only"),
    ('{"union": []}', "f.json:1 union", "at least one sub-sweep", "leave it out"),
    ('{"union": {"a": 1}}', "f.json:1 union", "must be a list", "write [{...}"),
    ('{"union": [1]}', "f.json:1 union", "a member of union must be an object", ""),
    ('{"union": [{}]}', "f.json:1 union", "must not be empty", '{"base": {}}'),
    ('{"union": [{"grid": {"a": [1]},\n"resources": {}}]}', "f.json:2 resources", "top of the file", "move it up"),
    ('{"union": [{"grid": {"a": [1]},\n"zipp": {}}]}', "f.json:2 zipp", "a section", 'did you mean "zip"?'),
    ('{"random": 3}', "f.json:1 random", "random must be an object", ""),
    ('{"random": {"samples": 1}}', "f.json:1 random", 'random must have "params"', "params"),
    ('{"random": {"samples": 1, "params": {}}}', "f.json:1 params", "at least one parameter", "leave it out"),
    ('{"random": {"params": {"a": {"int": [0, 1]}}}}', "f.json:1 random", "samples must be", "number of points"),
    (
        '{"random": {\n"samples": 0, "params": {"a": {"int": [0, 1]}}}}',
        "f.json:2 samples",
        "from 1 to 1000000, but got 0",
        "number of points",
    ),
    (
        '{"random": {"samples": true, "params": {"a": {"int": [0, 1]}}}}',
        "f.json:1 samples",
        "but got true",
        "number of points",
    ),
    (
        '{"random": {"samples": 1, "seed": 0.5, "params": {"a": {"int": [0, 1]}}}}',
        "f.json:1 seed",
        "but got 0.5",
        "integer",
    ),
    (
        '{"random": {"samples": 1, "sed": 1, "params": {"a": {"int": [0, 1]}}}}',
        "f.json:1 sed",
        "a key of random",
        'did you mean "seed"?',
    ),
    (
        '{"random": {"samples": 1, "params": {\n"a": {"log_uniform": [0, 1]}}}}',
        "f.json:2 log_uniform",
        "a: log_uniform: low must be above 0, but got 0",
        "use uniform",
    ),
    (
        '{"random": {"samples": 1, "params": {"a": {"uniform": [2, 1]}}}}',
        "f.json:1 uniform",
        "low must be below high, but got 2 and 1",
        "swap",
    ),
    (
        '{"random": {"samples": 1, "params": {"a": {"normal": [2, 1]}}}}',
        "f.json:1 a",
        "must be one distribution",
        '{"log_uniform": [low, high]}',
    ),
    ('{"random": {"samples": 1, "params": {"a": [1, 2]}}}', "f.json:1 a", "must be one distribution", '"choice"'),
    (
        '{"random": {"samples": 1, "params": {"a": {"choice": [1,\n"???"]}}}}',
        "f.json:2 choice",
        "OmegaConf reads it as",
        "null",
    ),
    ('{"grid": {"a": [1]}, "exclude": {"a": 1}}', "f.json:1 exclude", "exclude must be a list", "write [{...}]"),
    ('{"grid": {"a": [1]}, "exclude": [1]}', "f.json:1 exclude", "must be an object", ""),
    ('{"grid": {"a": [1]}, "exclude": [{}]}', "f.json:1 exclude", "matches every point", "remove it"),
    (
        '{"grid": {"lr": [1, 2]}, "exclude": [\n{"lrr": 1}]}',
        "f.json:2 lrr",
        "a parameter in exclude",
        'did you mean "lr"?',
    ),
    (
        '{"grid": {"a": [1, 2]}, "exclude": [{"a": 1},\n{"a": 3}]}',
        "f.json:2 exclude",
        "none has a=3",
        "a is one of [1, 2]",
    ),
    (
        '{"zip": {"a": [1, 2], "b": [1, 2]}, "exclude": [{"a": 1, "b": 2}]}',
        "f.json:1 exclude",
        "none has a=1, b=2",
        "together",
    ),
    ('{"grid": {"a": [1, 2]}, "exclude": [{"a": [1, 2]}]}', "f.json:1 exclude", "drops them all", "narrower"),
    ('{"grid": {"a": [1]}, "exclude": [{"a": 1, "+a": 1}]}', "f.json:1 +a", '"a" is there twice', "one list"),
    ('{"resources": []}', "f.json:1 resources", "resources must be an object", 'write {"gpus_per_run": 1,'),
    (
        '{"resources": {\n"gpu_per_run": 1}}',
        "f.json:2 gpu_per_run",
        "a key of resources",
        'did you mean "gpus_per_run"?',
    ),
    ('{"resources": {"gpus_per_run": -1}}', "f.json:1 gpus_per_run", "at least 0, but got -1", "GPUs"),
    ('{"resources": {"cpus_per_run": 1.0}}', "f.json:1 cpus_per_run", "an integer", "CPU"),
    ('{"resources": {"runs_per_gpu": true}}', "f.json:1 runs_per_gpu", "but got true", "share"),
    ('{"resources": {"mem_gb": 0}}', "f.json:1 mem_gb", "a number above 0, but got 0", "GB"),
    ('{"resources": {"mem_gb": true}}', "f.json:1 mem_gb", "but got true", "GB"),
    ('{"resources": {"time_min": "60"}}', "f.json:1 time_min", 'an integer, at least 1, but got "60"', "minutes"),
    ('{"resources": {"time_min": null}}', "f.json:1 time_min", "but got null", "minutes"),
    ('{"resources": {"partition": "a\\nb"}}', "f.json:1 partition", "a string on one line", "partition"),
    ('{"resources": {"sbatch": "--x"}}', "f.json:1 sbatch", "a list of sbatch options", ""),
    ('{"resources": {"sbatch": ["rm x"]}}', "f.json:1 sbatch", 'starts with "-"', ""),
    ('{"metric": {"name": "loss"}}', "f.json:1 metric", 'metric must have "goal"', 'add "goal": "minimize" or "maxim'),
    ('{"metric": "eval/loss"}', "f.json:1 metric", "must be an object", 'write {"name": "eval/loss", "goal": '),
    ('{"metric": {"name": "", "goal": "minimize"}}', "f.json:1 name", "not empty and without blanks at its ends", ""),
    (
        '{"stages": [{"name": "a"}, {"name": "b", "from": {"best": "loss "}}]}',
        "f.json:1 best",
        "without blanks at its ends",
        'write "best": "eval/loss", "goal": "minimize"',
    ),
    ('{"metric": {"name": "loss", "goal": "min"}}', "f.json:1 goal", '"minimize" or "maximize", but got "min"', ""),
    ('{"stages": []}', "f.json:1 stages", "a list of at least one stage, but got []", '"name": "sft"'),
    ('{"union": [{"seed": 1},\n{"base": {}, "stages": 1}]}', "f.json:2 stages", "not in a union", "move it up"),
    ('{"stages": [{"name": "a"}],\n"grid": {"a": [1]}}', "f.json:2 grid", "must stand in a stage", "move it into"),
    ('{"stages": [{"base": {}}]}', "f.json:1 stages", "must have a name", 'add "name"'),
    ('{"stages": [{"name": "a b"}]}', "f.json:1 name", "letters, digits", 'add "name"'),
    ('{"stages": [{"name": "a"},\n{"name": "a"}]}', "f.json:2 name", "must be unique", "rename"),
    ('{"stages": [{"name": "a", "metric": 1}]}', "f.json:1 metric", "not in a stage", "move it up"),
    ('{"stages": [{"name": "a", "gird": {}}]}', "f.json:1 gird", "a key of a stage must be a known one", '"grid"'),
    ('{"stages": [{"name": "a", "from": "b"}]}', "f.json:1 from", "stands before this one", "earlier stages: none"),
    ('{"stages": [{"name": "a"}, {"name": "b", "from": 3}]}', "f.json:1 from", "a stage, a run id", ""),
    ('{"stages": [{"name": "a"}, {"name": "b", "from": []}]}', "f.json:1 from", "a stage, a run id", ""),
    ('{"stages": [{"name": "a"}, {"name": "b", "from": {"stage": "c"}}]}', "f.json:1 stage", 'got "c"', "stages: a"),
    ('{"stages": [{"name": "a"}, {"name": "b", "from": {"setp": 1}}]}', "f.json:1 setp", "a key of from", '"step"'),
    ('{"stages": [{"name": "a"}, {"name": "b", "from": {"step": 0}}]}', "f.json:1 step", "at least 1", ""),
    ('{"stages": [{"name": "a"}, {"name": "b", "from": {"step": []}}]}', "f.json:1 step", "but got []", ""),
    ('{"stages": [{"name": "a"}, {"name": "b", "from": {"per": []}}]}', "f.json:1 per", "there is none", '"best"'),
    (
        '{"stages": [{"name": "a"}, {"name": "b", "from": {"best": "x", "goal": "min"}}]}',
        "f.json:1 goal",
        '"minimize" or "maximize", but got "min"',
        "",
    ),
    (
        '{"stages": [{"name": "a"}, {"name": "b",\n"grid": {"model.archive": ["x"]}}]}',
        "f.json:2 model.archive",
        "which from says",
        'say it in "from"',
    ),
    ('{"stages": [{"name": "a"}, {"name": "b", "from": {"resume": 1}}]}', "f.json:1 resume", "true or false", ""),
]


@pytest.mark.parametrize(("text", "where", "message", "fix"), CASES)
def test_each_mistake_is_one_problem(text: str, where: str, message: str, fix: str) -> None:
    (problem,) = problems(text)
    assert problem.where == where
    assert message in problem.message
    assert fix in problem.fix


def test_ten_mistakes_are_one_report() -> None:
    path = HERE / "bad.json"
    with pytest.raises(SweepError) as caught:
        load_grid(path)
    found = {(p.where.removeprefix(f"{path}:"), p.message) for p in caught.value.problems}
    expected = [
        ("7", "a number must be finite, but got NaN"),
        ("21", '"metric" also stands on line 19'),
        ("2 nmae", "a top-level key must be a known one"),
        ("5 loss.beta", "a list of alternatives must not be empty"),
        ("6 seed", '"seed" also stands on line 3'),
        ("9 zip", "must have one length"),
        ("14 samples", "samples must be an integer from 1"),
        ("16 log_uniform", "low must be above 0"),
        ("19 goal", '"minimize" or "maximize"'),
        ("20 loss.bta", "a parameter in exclude must be a known one"),
    ]
    for where, message in expected:
        assert any(w == where and message in m for w, m in found), (where, message)
    assert len(found) == len(expected)
    assert str(caught.value).startswith("10 problems, nothing was started:")


def test_problems_come_in_the_order_of_the_file() -> None:
    found = problems(json.dumps({"metric": {}, "stages": 3, "grid": {"a": []}, "name": ""}, indent=0))
    lines = [int(p.where.split(":")[1].split()[0]) for p in found]
    assert lines == sorted(lines)
    assert len(lines) == 5  # metric lacks both of its keys


def test_a_union_may_nest_and_share_keys_between_members() -> None:
    text = '{"union": [{"o": "a", "x": [1]}, {"base": {"o": "b"}, "union": [{"x": [2]}, {"y": {"range": [0, 2]}}]}]}'
    found = [dict(p.items) for p in points(parse_grid(text).stages[0].space)]
    assert found == [{"o": "a", "x": 1}, {"o": "b", "x": 2}, {"o": "b", "y": 0}, {"o": "b", "y": 1}]


def test_schema_key_does_not_make_a_file_long() -> None:
    assert [dict(p.items) for p in points(parse_grid('{"$schema": "s", "seed": [1]}').stages[0].space)] == [{"seed": 1}]
