"""One file is one value of the config, however it is said; names on the hub are no files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gpt_opt.config.files import with_real_paths
from gpt_opt.config.remember import Remembered


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, which is the home directory too, with a file, a folder and links to both."""
    place = Path(os.path.realpath(tmp_path))
    (place / "d" / "w").mkdir(parents=True)
    (place / "d" / "x.jsonl").touch()
    (place / "link.jsonl").symlink_to("d/x.jsonl")
    (place / "links").symlink_to("d")
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place))
    return place


def nested(key: str, value: str) -> dict[str, Any]:
    node: Any = value
    for part in reversed(key.split(".")):
        node = {part: node}
    assert isinstance(node, dict)
    return node


SPELLINGS = {
    "x.jsonl": [
        "d/x.jsonl",
        "./d/x.jsonl",
        "d/../d//x.jsonl",
        "link.jsonl",
        "links/x.jsonl",
        "~/d/x.jsonl",
        "~/link.jsonl",
    ],
    "w": ["d/w", "./d/w", "d/w/", "links/w", "~/d/w", "d/w/../w"],
}


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("data.dataset.path", "x.jsonl"),
        ("data.dataset.path", "w"),
        ("data.dataset.parts.mine.dataset.path", "x.jsonl"),
        ("model.archive", "x.jsonl"),
        ("model.archive", "w"),
        ("model.name_or_path", "w"),
        ("model.tokenizer_name_or_path", "w"),
        ("loss.ref_model_id", "w"),
        ("training.finetuning.resume_from_checkpoint", "w"),
    ],
)
def test_every_spelling_of_a_file_is_its_real_path(home: Path, key: str, name: str) -> None:
    real = str(home / "d" / name)
    for text in [real, *SPELLINGS[name]]:
        given = nested(key, text)
        assert with_real_paths(given) == nested(key, real), text
        assert given == nested(key, text)


@pytest.mark.parametrize(("key", "name"), [("model.archive", "w.safetensors"), ("data.dataset.path", "notes.txt")])
def test_a_link_to_a_file_that_is_named_by_its_content_keeps_its_name(home: Path, key: str, name: str) -> None:
    """As a snapshot of the hub's cache, or a working copy of DVC: the suffix says how to read the file."""
    (home / "d" / "0a1b2c").touch()
    (home / "d" / name).symlink_to("0a1b2c")
    for text in (f"d/{name}", f"links/{name}", f"~/d/{name}", f"d/w/../{name}"):
        assert with_real_paths(nested(key, text)) == nested(key, str(home / "d" / name)), text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.name_or_path", "openai-community/gpt2"),
        ("model.tokenizer_name_or_path", "bytes"),
        ("model.archive", "embedded"),
        ("model.archive", "???"),
        ("training.finetuning.resume_from_checkpoint", ""),
        ("loss.ref_model_id", "gpt2"),
        ("data.dataset.path", "Anthropic/hh-rlhf"),
        ("data.dataset.path", "a\0b.jsonl"),
        ("exp_name", "d/x.jsonl"),
    ],
)
def test_what_is_no_file_stays_as_it_is(home: Path, key: str, value: str) -> None:
    given = nested(key, value)
    for word in ("embedded", "bytes", "gpt2"):
        (home / word).touch()  # a file of that name is no model
    assert with_real_paths(given) is given


def test_a_file_that_is_not_there_is_named_by_its_whole_path(home: Path) -> None:
    for key, text in [("model.archive", "no/such"), ("data.dataset.path", "no.jsonl"), ("model.name_or_path", "./no")]:
        assert with_real_paths(nested(key, text)) == nested(key, str(home / text))


def test_the_name_of_a_model_follows_its_folder(home: Path) -> None:
    given = {"model": {"name": "d/w", "name_or_path": "d/w"}}
    assert with_real_paths(given)["model"] == {"name": str(home / "d/w"), "name_or_path": str(home / "d/w")}
    named = {"model": {"name": "mine", "name_or_path": "d/w"}}
    assert with_real_paths(named)["model"]["name"] == "mine"


def test_a_memo_looks_at_each_file_once(home: Path) -> None:
    memo, given = Remembered(), nested("model.archive", "link.jsonl")
    before = with_real_paths(given, memo)
    (home / "link.jsonl").unlink()
    assert with_real_paths({**given}, memo) == before != with_real_paths(given)
