"""Options of pretraining choose data and loss; what their sweeps lack is said once, before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt_opt.config.schema import register
from gpt_opt.errors import ConfigError
from gpt_opt.own_app.app import own_app
from gpt_opt.plan.compose.composer import Composer
from gpt_opt.plan.planner import Planner
from gpt_opt.run.resolvers import register_resolvers
from tests.conftest import CONFIG_DIR
from tests.plan.compose_reference import assert_like_hydra

register()
register_resolvers()


def test_options_that_choose_others_are_composed_as_hydra_does() -> None:
    tokens, rate = "training.training_params.tokens_processed=8192", "optimizer.optimizer_params.lr=1e-3"
    points = [
        ["training=wikitext"],
        ["training=wikitext", tokens],
        ["training=wikitext", tokens, rate],
        ["data=shakespeare", "training=pydoc_text", rate],  # the command line chooses last
        ["training=pydoc_text", "loss=dpo", "loss.beta=0.1"],
        ["training=pydoc_text", "training.training_params.max_length=8"],
    ]
    assert_like_hydra(Composer(CONFIG_DIR), points, CONFIG_DIR)


def test_a_plan_without_its_shards_is_one_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = {"training": "slim_pajama10B", "model": "gpt-medium", "optimizer": "dap-ns-nadam"}
    grid = {"optimizer.optimizer_params.lr": [1e-3, 3e-4], "seed": [0, 1]}
    file = tmp_path / "sweep.json"
    file.write_text(json.dumps({"name": "x", "base": base, "grid": grid}))
    with pytest.raises(ConfigError) as caught:
        Planner(own_app(CONFIG_DIR)).plan(file)
    (problem,) = {str(item).partition(": ")[2] for item in caught.value.problems}
    assert "must hold shards train_*.bin, but 'data/slim_pajama10B' is not there" in problem
    assert "make them: gptopt prepare --input hf:cerebras/SlimPajama-627B --tokenizer gpt2 --tokens 1e10" in problem
    assert str(caught.value).startswith("1 problem, nothing was started:")
