"""Run ids and directories: same config, same directory; different config, never."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gpt_opt.app.label import label as label_of
from gpt_opt.config.schema import register
from gpt_opt.records.run_dir import find_run_dirs, find_run_folders, make_run_dir, path_part, run_dir_name
from gpt_opt.records.run_id import TRAINING, Identity, run_id
from gpt_opt.run.resolvers import SHOWN_IN_PATH, get_local_run_dir, register_resolvers
from tests.helpers.configs import by_hydra, composed
from tests.records import golden_ids

register()
register_resolvers()


def label(overrides: list[str]) -> str:
    return label_of(overrides, TRAINING, SHOWN_IN_PATH)


def config(*overrides: str) -> dict[str, Any]:
    return composed(["loss.beta=0.1", *overrides])


def test_the_same_config_has_the_same_id_however_it_was_said() -> None:
    reference = run_id(config())
    assert run_id(config("seed=0")) == reference
    assert run_id(config("loss.beta=1e-1")) == reference
    assert run_id(config("optimizer=adamw", "model=tiny-gpt2")) == reference


@pytest.mark.parametrize(
    "override",
    [
        "logging.logging_params.log_level=debug",
        "paths.output_dir=elsewhere",
        "paths.run_name=x",
        "rerun=true",
        "exp_name=y",
        "training.sampling.sample_during_eval=true",
    ],
)
def test_what_cannot_change_the_result_is_not_in_the_id(override: str) -> None:
    assert run_id(config(override)) == run_id(config())


def leaves(node: Any, *above: str) -> list[tuple[str, ...]]:
    if isinstance(node, dict):
        return [leaf for key, value in node.items() for leaf in leaves(value, *above, key)]
    return [above]


def test_every_other_key_is_in_the_id() -> None:
    base = config()
    changed = {run_id(base)}
    kept = [path for path in leaves(base) if TRAINING.has(".".join(path))]
    for path in kept:
        other = copy.deepcopy(base)
        node = other
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = "something else"
        changed.add(run_id(other))
    assert len(kept) > 40
    assert len(changed) == len(kept) + 1


def test_the_id_is_pinned() -> None:
    # Editing a default, or what enters the id, changes this on purpose: finished runs are then trained again.
    assert run_id({"loss": {"beta": 0.1}, "seed": 0, "paths": {"output_dir": "a"}}) == "057dd3e1d914"


GOLDEN = {
    (): "5843db2acffc",
    ("loss=sft",): "9807bd1647e4",
    ("loss=kto", "loss.beta=0.1"): "668792a5a209",
    ("loss.beta=0.3", "lora=lora", "optimizer=rmsprop"): "d21e99e79691",
    ("data=hh", "model=pythia28"): "67140e3b8f26",
    ("data=hf", "data.dataset.path=me/prefs"): "09d0adf856ae",
}


@pytest.mark.parametrize("overrides", GOLDEN, ids=",".join)
def test_ids_survive_upgrades(overrides: tuple[str, ...]) -> None:
    # A new key moves every id, unless ABSENT_MEANS says at which value it changes nothing.
    given = overrides if overrides == ("loss=sft",) else ("loss.beta=0.1", *overrides)
    assert run_id(by_hydra(given)) == GOLDEN[overrides]


@pytest.mark.parametrize("name", golden_ids.names())
def test_every_option_keeps_its_id(name: str) -> None:
    assert not (moved := golden_ids.what_moved(name, golden_ids.composed(name))), moved


def test_what_moves_an_id_is_named_with_what_to_do() -> None:
    config = golden_ids.composed("loss=dpo")
    assert golden_ids.what_moved("loss=dpo", config) == ""
    config["loss"]["careless"] = 1
    moved = golden_ids.what_moved("loss=dpo", config)
    assert "loss.careless is a new key: add it to ABSENT_MEANS in gpt_opt/records/run_id.py" in moved
    del config["loss"]["careless"], config["loss"]["beta"]
    assert "loss.beta is gone" in golden_ids.what_moved("loss=dpo", config)
    config["loss"]["beta"] = 0.2
    assert "a value is another" in golden_ids.what_moved("loss=dpo", config)
    assert "loss=new is a new option" in golden_ids.what_moved("loss=new", config)


def test_a_key_that_came_later_moves_no_id_while_it_means_as_before() -> None:
    run_id = Identity(frozenset(), {"loss.new": False}).run_id
    before = run_id({"loss": {"beta": 0.1}})
    assert run_id({"loss": {"beta": 0.1, "new": False}}) == before
    assert len({before, *(run_id({"loss": {"beta": 0.1, "new": value}}) for value in (True, 0, None))}) == 4


def test_it_moves_no_id_as_part_of_a_mixture_either() -> None:
    run_id = Identity(frozenset(), {"data.dataset.new": "x"}).run_id

    def mixture(**part: str) -> str:
        inner = {"parts": {"b": {"dataset": {"path": "d", **part}}}}
        return run_id({"data": {"dataset": {"parts": {"a": {"dataset": inner}}}}})

    assert mixture(new="x") == mixture()
    assert mixture(new="y") != mixture()


def test_a_label_says_what_was_asked_for() -> None:
    assert label(["optimizer=rmsprop", "seed=1", "loss.beta=0.1", "paths.output_dir=x"]) == "beta=0.1,seed=1"
    assert label([]) == "default"


def test_a_label_holds_the_last_value_of_a_key_and_what_tells_paths_apart() -> None:
    folder = "/home/me/project/outputs/tiny-gpt2/pydoc/adamw/loss=sft-{}/checkpoints/checkpoint-80"
    archives = [f"model.archive='{folder.format(name)}'" for name in ("0123456789ab", "ba9876543210")]
    assert label(["loss.beta=0.1", archives[0], "++loss.beta=0.3"]) == "archive=0123456789ab/checkpoint-80,beta=0.3"
    many = [f"training.training_params.maximum_{number}=1" for number in range(9)]
    first, second = (run_dir_name(label([archive, *many]), "f" * 12) for archive in archives)
    assert first.startswith("archive=0123456789ab,")
    assert second.startswith("archive=ba9876543210,")
    assert max(map(len, (first, second))) <= 93
    paths = ("data.dataset.path=/srv/corpora/of/the/group/v1/train.jsonl", "data.dataset.path=../../v2/train.jsonl")
    assert [label([path]) for path in paths] == ["path=v1/train.jsonl", "path=v2/train.jsonl"]
    assert label(["lora.target_modules=[a/b,c/d]"]) == "target_modules=[a/b,c/d]"


def test_two_labels_of_one_run_share_its_directory(tmp_path: Path) -> None:
    planned = tmp_path / "a" / run_dir_name("beta=0.1", "0123456789ab")
    assert planned.name == "beta=0.1-0123456789ab"
    assert make_run_dir(planned, "0123456789ab") == planned
    assert make_run_dir(tmp_path / "a" / "beta=0.1,seed=0-0123456789ab", "0123456789ab") == planned
    assert make_run_dir(tmp_path / "a" / "beta=0.1-0123456789ac", "0123456789ac") != planned


def test_many_at_once_get_one_directory(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda n: make_run_dir(tmp_path / "a" / f"label{n}-0123456789ab", "0123456789ab"), range(64))
    assert len(set(found)) == 1


@pytest.mark.parametrize("text", ["../../etc", "a/b", "a b\n", "", ".hidden", "x" * 300, "$(touch X)", "ä"])
def test_a_path_part_is_one_plain_component(tmp_path: Path, text: str) -> None:
    part = path_part(text)
    (tmp_path / part).mkdir()
    assert [entry.name for entry in tmp_path.iterdir()] == [part]


def test_run_directories_are_found_and_not_searched(tmp_path: Path) -> None:
    run = tmp_path / "m" / "d" / "o" / "x-0123456789ab"
    (run / "superseded" / "old").mkdir(parents=True)
    (run / "state.json").touch()
    (run / "superseded" / "old" / "state.json").touch()
    (tmp_path / "other").mkdir()
    assert find_run_dirs(tmp_path) == [run]
    assert find_run_dirs(run) == [run]
    begun = tmp_path / "m-2" / "run"  # by its parts after m, by its letters before it
    (begun / "claims").mkdir(parents=True)
    (begun / "config.json").touch()
    (tmp_path / "link").symlink_to(tmp_path / "m")
    assert find_run_dirs(tmp_path, tmp_path / "link", tmp_path / "absent") == [
        tmp_path / "link" / "d" / "o" / run.name,
        begun,
    ]


def test_run_directories_below_the_current_one_have_relative_names(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "summary.json").touch()
    monkeypatch.chdir(tmp_path)
    assert find_run_dirs(Path(".")) == find_run_dirs(Path("a")) == [Path("a/b")]
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert find_run_dirs(Path(".")) == [Path(".")]


def test_folders_of_others_are_found_where_they_are_asked_for(tmp_path: Path) -> None:
    for name in ("mine/x", "theirs/y"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "mine" / "state.json").touch()
    found = find_run_folders(str(tmp_path), foreign=lambda folder, names: "y" in names)
    assert list(found.values()) == [str(tmp_path / "mine"), str(tmp_path / "theirs")]


def test_a_local_run_dir_is_new_every_time_below_the_first_base_that_exists(tmp_path: Path) -> None:
    absent, present = tmp_path / "absent", tmp_path / "present"
    present.mkdir()
    found = {get_local_run_dir("my exp", [str(absent), str(present), str(tmp_path / "last")]) for _ in range(20)}
    assert len(found) == 20
    assert all(Path(item).is_dir() and Path(item).parent.parent == present for item in found)
    assert all(Path(item).name.startswith("my_exp_") for item in found)
    made = get_local_run_dir("e", [str(absent), str(tmp_path / "last")])
    assert Path(made).parent.parent == tmp_path / "last"
