"""Compositions kept for other processes: the same as without, and made anew when any of their files changes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra._internal import config_loader_impl, defaults_list
from hydra.core.config_store import ConfigStore
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

from gpt_opt.config.cache import VARIABLE
from gpt_opt.plan.compose import stored
from gpt_opt.plan.compose.hydra import Configs, HydraEngine

ROOT = "defaults: [_self_, {model: small}, {optional extra: one}]\nbeta: 1\nwidth: ${model.width}\n"
SMALL, LARGE = "width: 2\nlist: [1, 2]\n", "width: 9\nlist: [3]\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "compositions"


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    for name, text in {"config": ROOT, "model/small": SMALL, "model/large": LARGE}.items():
        file = tmp_path / "conf" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "conf"


def compose(conf: Path, *overrides: str) -> DictConfig:
    return HydraEngine(Configs(conf)).load(overrides)


def as_stored(conf: Path, *overrides: str) -> Any:
    """Composes where Hydra must make no defaults list."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "_create_defaults_list", None)
        return compose(conf, *overrides)


def test_what_hydra_calls_is_its_own() -> None:
    assert config_loader_impl.create_defaults_list is defaults_list.create_defaults_list


def test_overrides_of_values_share_a_composition_and_those_of_groups_have_their_own(conf: Path, cache: Path) -> None:
    sets = [[], ["beta=2"], ["model=large"], ["model=large", "model.list=[7]", "+new=1"], ["~model"]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "")
        expected = [compose(conf, *overrides) for overrides in sets]
    assert not cache.exists()
    assert [compose(conf, *overrides) for overrides in sets] == expected
    assert [as_stored(conf, *overrides) for overrides in sets] == expected
    assert len(list(cache.iterdir())) == 3


def test_a_changed_or_added_file_is_noticed(conf: Path, tmp_path: Path) -> None:
    compose(conf)
    (conf / "model" / "small.yaml").write_text("width: 3\n")
    assert compose(conf).model == {"width": 3}
    (further := tmp_path / "further").mkdir()
    (further / "extra").mkdir()
    (further / "extra" / "one.yaml").write_text("new: 4\n")
    assert HydraEngine(Configs(conf, further=further)).load([]).extra == {"new": 4}
    assert compose(conf).get("extra") is None


def test_an_empty_file_is_missed(conf: Path) -> None:
    (conf / "model" / "small.yaml").write_text("")
    assert not compose(conf, "beta=2").model
    (conf / "model" / "small.yaml").unlink()
    with pytest.raises(MissingConfigException, match="model/small"):
        compose(conf, "beta=2")


def test_the_same_files_elsewhere_share_a_composition(conf: Path, tmp_path: Path) -> None:
    expected = compose(conf)
    assert as_stored(conf.rename(tmp_path / "copy")) == expected


def test_a_composition_of_somebody_else_or_a_damaged_one_is_made_anew(conf: Path, cache: Path) -> None:
    expected = compose(conf)
    (entry,) = cache.iterdir()
    entry.chmod(0o620)
    with pytest.raises(TypeError):
        as_stored(conf)
    for damaged in (b"", entry.read_bytes()[:-1], b"x" * 99):
        entry.write_bytes(damaged)
        entry.chmod(0o600)
        assert compose(conf) == expected
        assert as_stored(conf) == expected


def test_an_entry_is_its_users_own_whatever_their_umask(conf: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o775)
    before = os.umask(0o002)  # as where each user has a group of their own
    try:
        expected = compose(conf)
    finally:
        os.umask(before)
    assert cache.stat().st_mode & 0o777 == 0o700
    assert as_stored(conf) == expected


def test_an_entry_is_not_read_through_a_link(conf: Path, cache: Path, tmp_path: Path) -> None:
    compose(conf)
    (entry,) = cache.iterdir()
    entry.symlink_to(entry.rename(tmp_path / "of the user, with what another one wrote"))
    with pytest.raises(TypeError):
        as_stored(conf)


@pytest.mark.parametrize(
    "defaults",
    [
        "defaults: [_self_, {model: '${oc.env:SIZE}'}]\n",
        "defaults:\n  [_self_, {model: '${oc.env:SIZE}'}]\n",
        "defaults:\n- model:\n    ${oc.env:SIZE}\n",
    ],
)
def test_choices_that_depend_on_the_environment_are_not_kept(
    conf: Path, monkeypatch: pytest.MonkeyPatch, defaults: str
) -> None:
    (conf / "config.yaml").write_text(defaults)
    for size, width in (("small", 2), ("large", 9)):
        monkeypatch.setenv("SIZE", size)
        assert compose(conf).model.width == width


def test_overrides_that_depend_on_the_environment_are_not_kept(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size, width in (("small", 2), ("large", 9)):
        monkeypatch.setenv("SIZE", size)
        assert compose(conf, "model=${oc.env:SIZE}").model.width == width


def test_values_that_depend_on_the_environment_or_the_time_are_looked_up_anew(
    conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (conf / "config.yaml").write_text("defaults: [_self_]\nsize: ${oc.env:SIZE}\ntime: ${now:%f}\n")
    monkeypatch.setenv("SIZE", "one")
    before = OmegaConf.to_container(compose(conf), resolve=True)
    monkeypatch.setenv("SIZE", "two")
    after = OmegaConf.to_container(as_stored(conf), resolve=True)
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert (before["size"], after["size"]) == ("one", "two")
    assert before["time"] != after["time"]


def test_a_schema_whose_class_cannot_be_found_again_is_composed_all_the_same(conf: Path, cache: Path) -> None:
    @dataclass
    class Local:
        depth: int = 3

    ConfigStore.instance().store("local", Local, group="lost")
    assert compose(conf, "+lost=local").lost.depth == 3
    assert not cache.exists() or not list(cache.iterdir())


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(conf: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    assert compose(conf).width == 2
