"""The configs that a sweep was planned with: small on disk, whole again when read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_opt.records.planned_configs import ConfigChanges, planned_config, read_planned_configs, text_of
from gpt_opt.records.run_id import TRAINING
from tests.helpers.examples import examples

scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=3)
keys = st.sampled_from(["a", "b", "a.b", "paths", "é"])
nodes = st.recursive(scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=3))
configs = st.lists(st.dictionaries(keys, nodes, max_size=4), min_size=1, max_size=4)


def written(folder: Path, found: list[dict[str, Any]]) -> Path:
    changes = ConfigChanges()
    file = folder / "planned_configs.jsonl"
    file.write_text(text_of((f"run{index}", changes.add(config)) for index, config in enumerate(found)))
    return file


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow])
@given(configs)
def test_every_config_is_read_as_it_was_planned(tmp_path_factory: Any, found: list[dict[str, Any]]) -> None:
    file = written(tmp_path_factory.mktemp("configs"), found)
    for index, config in enumerate(found):
        planned = planned_config(file, f"run{index}")
        assert planned is not None
        assert TRAINING.json(planned) == TRAINING.json(config)
        assert read_planned_configs(file)[f"run{index}"] == planned


def test_a_run_costs_the_keys_in_which_it_differs_and_nothing_that_changes_no_result(tmp_path: Path) -> None:
    model = {f"key{index}": index for index in range(80)}
    found = [{"model": model, "seed": seed, "paths": {"output_dir": "x" * 1000}} for seed in range(1000)]
    file = written(tmp_path, found)
    assert file.stat().st_size < 80 * 1000
    assert planned_config(file, "run999") == TRAINING.part({"model": model, "seed": 999})


def test_what_is_not_recorded_is_not_known(tmp_path: Path) -> None:
    file = written(tmp_path, [{"seed": 0}, {"seed": 1}])
    assert planned_config(file, "another") is None
    assert planned_config(tmp_path / "absent", "run0") is None
    file.write_text(file.read_text()[:-9])
    assert planned_config(file, "run0") == {"seed": 0}
    assert planned_config(file, "run1") is None
    assert read_planned_configs(file) == {"run0": {"seed": 0}}
    assert read_planned_configs(tmp_path / "absent") == {}
    file.write_text(text_of([("run0", [(["seed"], (0,))])]) + '{"run_id": ["b"], "changes": []}\n')
    assert read_planned_configs(file)["run0"] == {"seed": 0}


@pytest.mark.parametrize(
    "damage", ["", "{", "\0", '{"run_id": "run1"}', '{"run_id": "run1", "changes": [[["a", "b"], [1]]]}']
)
def test_a_damaged_line_costs_its_own_run_and_the_first_one_costs_all(tmp_path: Path, damage: str) -> None:
    file = written(tmp_path, [{"seed": seed} for seed in range(4)])
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], damage, *lines[2:]]))
    assert read_planned_configs(file) == {f"run{seed}": {"seed": seed} for seed in (0, 2, 3)}
    assert planned_config(file, "run3") == {"seed": 3}
    if damage:
        file.write_text("\n".join([damage, *lines[1:]]))
        assert read_planned_configs(file) == {}
