"""What stages of a sweep file mean; their mistakes are in test_grid."""

from __future__ import annotations

import json
from typing import Any

from gpt_opt.sweep.grid import parse_grid
from gpt_opt.sweep.model import Best, Grid, Resources, Start
from gpt_opt.sweep.points import points


def read(*stages: dict[str, Any], **top: Any) -> Grid:
    return parse_grid(json.dumps({**top, "stages": list(stages)}))


def start(value: Any) -> Start | None:
    return read({"name": "a"}, {"name": "b"}, {"name": "c", "from": value}).stages[2].start


def test_each_stage_starts_from_the_one_before() -> None:
    grid = read({"name": "a"}, {"name": "b"}, {"name": "c", "from": "a"})
    assert [stage.start for stage in grid.stages] == [None, Start("a"), Start("a")]
    assert grid.is_staged


def test_a_file_without_stages_has_one_without_a_name() -> None:
    grid = parse_grid('{"a": [1, 2]}')
    assert [stage.name for stage in grid.stages] == [""]
    assert not grid.is_staged


def test_what_a_stage_may_start_from() -> None:
    assert start(None) is None
    assert start("0123456789ab") == Start(given=("0123456789ab",))
    assert start(["0123456789ab", "/a/b"]) == Start(given=("0123456789ab", "/a/b"))
    assert start({"stage": "a", "step": [5, 10]}) == Start("a", steps=(5, 10))
    assert start({"step": 5, "resume": True}) == Start("b", steps=(5,), resume=True)
    best = {"best": "eval/loss", "goal": "minimize", "per": ["seed"]}
    assert start({"stage": "a", **best}) == Start("a", best=Best("eval/loss", "minimize", ("seed",)))


def test_the_first_stage_may_start_from_earlier_work() -> None:
    assert read({"name": "a", "from": "./runs/x"}).stages[0].start == Start(given=("./runs/x",))


def test_what_the_file_says_of_all_stages_yields_to_what_a_stage_says() -> None:
    first = {"name": "a", "base": {"lr": 2}, "resources": {"time_min": 5}}
    second = {"name": "b", "grid": {"++seed": [1, 2]}}
    grid = read(first, second, base={"seed": 0, "lr": 1}, resources={"time_min": 1, "mem_gb": 2})
    items = [[point.items for point in points(stage.space)] for stage in grid.stages]
    assert items == [[(("seed", 0), ("lr", 2))], [(("lr", 1), ("++seed", 1)), (("lr", 1), ("++seed", 2))]]
    assert [stage.resources for stage in grid.stages] == [
        Resources(time_min=5, mem_gb=2),
        Resources(time_min=1, mem_gb=2),
    ]
