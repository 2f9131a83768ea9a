"""A run that was planned trains the config that was planned, or nothing at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt_opt.config.schema import register
from gpt_opt.errors import ConfigError
from gpt_opt.own_app.app import own_app
from gpt_opt.plan.planner import Planner
from gpt_opt.records.planned_configs import CHANGED, text_of
from gpt_opt.run.planned import RUN_ID, SWEEP_DIR, require_planned
from gpt_opt.run.resolvers import register_resolvers
from tests.conftest import CONFIG_DIR, Runner


@pytest.fixture
def planned(small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides of the second run of a plan, in the environment of a process that a slot starts for it."""
    register()
    register_resolvers()
    file = tmp_path / "sweep.json"
    file.write_text(json.dumps({"grid": {"loss.beta": [0.1, 0.2]}}))
    plan = Planner(own_app(CONFIG_DIR)).plan(file, small)
    ids = [run.run_id for run in plan.runs]
    (tmp_path / "planned_configs.jsonl").write_text(text_of(zip(ids, plan.configs, strict=True)))
    monkeypatch.setenv(RUN_ID, ids[1])
    monkeypatch.setenv(SWEEP_DIR, str(tmp_path))
    return list(plan.runs[1].overrides)


def test_another_config_trains_nothing_and_names_the_keys(
    planned: list[str], tmp_path: Path, run_hydra: Runner
) -> None:
    edited = ["seed=7", "optimizer.optimizer_params.lr=1e-5", "logging.logging_params.log_level=debug"]
    done = run_hydra([*planned, *edited], cwd=tmp_path)
    assert done.returncode == 2
    assert CHANGED in done.stderr
    assert "optimizer.optimizer_params.lr was 0.0003 and is 1e-05, seed was 0 and is 7\n" in done.stderr
    assert not (tmp_path / "outputs").exists(), "neither a run directory nor a claim"


def test_the_planned_config_is_trained(planned: list[str], tmp_path: Path, run_hydra: Runner) -> None:
    done = run_hydra(["logging.logging_params.log_level=debug", *planned], cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_of_many_keys_some_are_named_and_of_an_old_sweep_none(planned: list[str], tmp_path: Path) -> None:
    config = Planner(own_app(CONFIG_DIR)).config([*planned, "optimizer=rmsprop", "seed=3"])
    with pytest.raises(ConfigError, match=r"and \d more keys\n.*put it back"):
        require_planned([config])
    require_planned([config])  # what this process starts further is not the run that was planned


def test_a_sweep_without_a_record_of_its_configs_says_so(planned: list[str], tmp_path: Path) -> None:
    (tmp_path / "planned_configs.jsonl").unlink()
    config = Planner(own_app(CONFIG_DIR)).config([*planned, "seed=3"])
    with pytest.raises(ConfigError, match="not known, since the sweep has no record"):
        require_planned([config])
