"""An application as its gptopt.toml describes it: identity, directories, what starts it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gpt_opt.app.app import App
from gpt_opt.app.settings import read_settings
from gpt_opt.app.toml_app import app_of
from gpt_opt.errors import ConfigError
from gpt_opt.records.program import Program
from gpt_opt.records.run_dir import RunPaths, make_run_dir
from gpt_opt.records.state import RunState, State, write_state
from gpt_opt.sweep.model import Resources

CONFIG = {"model": {"name": "a/b", "width": 3}, "lr": 0.1, "seed": 0, "steps": 10, "on": None, "logger": {"dir": "x"}}


def app(folder: Path, *lines: str) -> App:
    """Returns the application of a gptopt.toml with these lines after those of [app]."""
    (folder / "train.py").touch()
    (folder / "conf").mkdir(exist_ok=True)
    (folder / "conf" / "config.yaml").touch()
    head = ['[app]\nname = "mine"\nscript = "train.py"\nconfig_path = "conf"']
    (folder / "gptopt.toml").write_text("\n".join([*head, *lines]) + "\n")
    return app_of(read_settings(folder / "gptopt.toml"))


def test_a_run_lies_where_the_template_says_and_is_found_by_its_id(tmp_path: Path) -> None:
    own = app(tmp_path, '[run]\ndir = "runs/{app}/{model.name}-{on}/{label}-{id}"')
    run_id = own.identity.run_id(CONFIG)
    folder, exists = own.finder().find(CONFIG, run_id, ["lr=0.1", "logger.dir=x"])
    assert (folder, exists) == (f"{tmp_path}/runs/mine/a--b-null/dir=x,lr=0.1-{run_id}", False)
    make_run_dir(Path(folder), run_id)
    assert own.finder().find(CONFIG, run_id, ["+another=label"]) == (folder, True)
    assert make_run_dir(Path(folder).with_name(f"other-{run_id}"), run_id) == Path(folder)
    assert own.outputs(CONFIG) == tmp_path / "runs" / "mine"


@pytest.mark.parametrize("template", ["{id}", "r/{id}", "/elsewhere/x-{id}"])
def test_an_id_alone_names_a_directory_too(template: str, tmp_path: Path) -> None:
    own = app(tmp_path, f'[run]\ndir = "{template}"')
    folder, _ = own.finder().find(CONFIG, "f" * 12, [])
    assert folder == os.path.join(tmp_path, template.replace("{id}", "f" * 12))
    if not template.startswith("/"):
        assert make_run_dir(Path(folder), "f" * 12) == Path(folder)
        assert make_run_dir(Path(folder).with_name("label-" + "f" * 12), "f" * 12) == Path(folder)
        assert own.finder().find(CONFIG, "f" * 12, []) == (folder, True)


@pytest.mark.parametrize("template", ["{id}/run", "{label}/{id}", "{id}-{label}", "x{id}", "{id}-{id}"])
def test_a_template_by_which_no_run_is_found_again_is_refused(template: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[run\] dir: must end in"):
        app(tmp_path, f'[run]\ndir = "{template}"')


def test_keys_of_a_template_must_be_values_of_the_config(tmp_path: Path) -> None:
    own = app(tmp_path, '[run]\ndir = "{model}/{none}/{on}/{id}"')
    messages = [problem.message for problem in own.checks(None).wrong(CONFIG)]  # type: ignore[arg-type]
    assert messages == [
        "must name single values in braces, but model is dict",
        "must name keys of the config in braces, but there is no none",
    ]


def test_what_is_excluded_moves_no_id(tmp_path: Path) -> None:
    own = app(tmp_path, '[identity]\nexclude = ["logger", "model.width"]')
    others: list[dict[str, Any]] = [
        {**CONFIG, "logger": {"dir": "y"}},
        {**CONFIG, "model": {"name": "a/b", "width": 4}},
        {**CONFIG, "lr": 0.2},
        {**CONFIG, "model": {"name": "c", "width": 3}},
        {**CONFIG, "lr": 1},
        {**CONFIG, "lr": 1.0},
    ]
    ids = [own.identity.run_id(config) for config in (CONFIG, *others)]
    assert ids[0] == ids[1] == ids[2]
    assert len(set(ids)) == 5


def test_configs_may_hold_what_json_does_not(tmp_path: Path) -> None:
    odd: dict[Any, Any] = {"path": Path("/a"), "raw": b"x", 1: {"b": 2}, None: 3, "text": "t"}
    own = app(tmp_path)
    assert own.identity.run_id(odd) != own.identity.run_id({**odd, "path": Path("/b")})


def test_runs_that_differ_in_seed_and_in_numbers_with_a_point_take_alike(tmp_path: Path) -> None:
    own = app(tmp_path)
    assert own.workload(CONFIG) == own.workload({**CONFIG, "lr": 0.9, "seed": 5})
    assert own.workload(CONFIG) != own.workload({**CONFIG, "steps": 11})
    assert (own.remaining(CONFIG, 5), own.step_s({"time_s": 12.5, "step": 5})) == (1, 12.5)


def test_a_run_is_started_by_the_supervisor_and_no_word_is_read_twice(tmp_path: Path) -> None:
    program = app(tmp_path).program
    arguments = program.arguments(Path("/code/{run_dir}"), Path("/runs/{id}"), "abc", ["a={run_id}", "b='{app}'"])
    assert arguments[:2] == ["-m", "gpt_opt.run.supervise"]
    assert arguments[2:] == [
        *("--settings", "/code/{run_dir}/gptopt.toml", "--run-dir", "/runs/{id}", "--id", "abc", "--"),
        *("a={run_id}", "b='{app}'"),
    ]
    assert Program.from_record(None) == Program()  # of a submission of a version before


def test_a_run_goes_on_only_from_a_checkpoint_that_the_rule_names(tmp_path: Path) -> None:
    resumes = app(tmp_path, '[resume]\ncheckpoints = "ckpt/*.pt"\noverrides = ["from={last_checkpoint}"]')
    anew = app_of(read_settings(tmp_path / "gptopt.toml")).program
    paths = RunPaths(tmp_path / "run")
    (paths.root / "ckpt").mkdir(parents=True)
    write_state(paths, RunState("f" * 12, State.INTERRUPTED, 1, step=7))
    assert resumes.program.saved_step(paths) is None
    (paths.root / "ckpt" / "a.pt").touch()
    assert resumes.program.saved_step(paths) == anew.saved_step(paths) == 7
    assert not list(resumes.notes())
    never = app(tmp_path)
    assert never.program.saved_step(paths) is None
    assert "cannot resume" in next(iter(never.notes()))


def test_nothing_starts_an_application_on_several_nodes(tmp_path: Path) -> None:
    own = app(tmp_path)
    assert not list(own.misfits(CONFIG, Resources(gpus_per_run=4)))
    (problem,) = own.misfits(CONFIG, Resources(nodes_per_run=2))
    assert problem.where == "resources.nodes_per_run"
