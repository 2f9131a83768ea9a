"""Items kept for the other runs of a sweep: the same items and the same words, of the same data only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gpt_opt.config.cache import VARIABLE
from gpt_opt.config.inputs import inputs_of
from gpt_opt.training.build import build
from gpt_opt.training.data.prepare import Items
from tests.helpers.configs import composed as config

LM = ["loss=lm", "model=gpt-tiny", "training=pydoc_text", "training.training_params.val_tokens_processed=2048"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    caplog.set_level("INFO")  # as a run has it: what is said is kept too
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "items"


def items(overrides: Sequence[str]) -> Items:
    chosen = config(overrides)
    return build(chosen, inputs_of(chosen)).items


def kept(overrides: Sequence[str]) -> Items:
    """Returns items where none may be made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt_opt.training.objectives.base.prepare", None)
        return items(overrides)


@pytest.mark.parametrize(
    ("loss", "other", "differs"),
    [
        (["loss.beta=0.1"], ["loss=ipo", "loss.beta=0.3"], False),
        (["loss=sft"], ["loss=sft", "loss.train_on_inputs=true"], True),
        (["loss=kto", "loss.beta=0.1"], ["loss=kto", "loss.beta=0.1", "loss.desirable_weight=2"], True),
    ],
)
def test_the_second_run_finds_the_items_and_says_the_same(
    small: list[str],
    loss: list[str],
    other: list[str],
    differs: bool,
    cache: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    chosen = config([*small, *loss])
    expected = build(chosen).items
    assert not cache.exists(), "a process that was not told of the inputs keeps nothing"
    said: list[Any] = []
    for make in (items, kept):
        caplog.clear()
        assert make([*small, *loss]) == expected
        said.append([(record.name, record.getMessage()) for record in caplog.records if ".data." in record.name])
    assert said[0] == said[1]
    items([*small, *other])
    assert len(list(cache.iterdir())) == 1 + differs


def test_other_data_limits_or_tokens_are_other_items(small: list[str], cache: Path) -> None:
    given = [*small, "loss.beta=0.1"]
    first = items(given)
    limits = ["training.training_params.max_length=16", "training.training_params.max_prompt_length=8"]
    assert items([*given, *limits]).train != first.train
    assert len(items([*given, "data.dataset.max_samples=40"]).train) < len(first.train)
    path = Path(config(given)["data"]["dataset"]["path"])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "chosen": row["chosen"] + "!"}) + "\n" for row in rows))
    assert items(given).train != first.train
    assert len(list(cache.iterdir())) == 4


def test_data_that_are_replaced_as_they_are_read_are_not_kept(small: list[str], cache: Path) -> None:
    chosen = config([*small, "loss.beta=0.1"])
    before, path = inputs_of(chosen), Path(chosen["data"]["dataset"]["path"])
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    build(chosen, before)
    assert not cache.exists()


def test_what_a_cache_has_to_say_is_said_once(
    small: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cache: Path
) -> None:
    monkeypatch.setattr("gpt_opt.training.data.cache.MIN_CHARACTERS", 0)
    items([*small, "loss.beta=0.1"])
    for file in [*cache.iterdir(), *(cache.parent / "tokens").iterdir()]:
        file.write_bytes(b"x")
    items([*small, "loss.beta=0.1"])
    assert "are made anew" in caplog.text
    caplog.clear()
    kept([*small, "loss.beta=0.1"])
    assert "are made anew" not in caplog.text


def test_data_that_fingerprints_do_not_tell_are_not_kept(small: list[str], cache: Path, tmp_path: Path) -> None:
    path = Path(config([*small, "loss.beta=0.1"])["data"]["dataset"]["path"])
    (folder := tmp_path / "rows").mkdir()
    path.rename(folder / "rows.jsonl")
    items([*small, "loss.beta=0.1", f"data.dataset.path={folder}"])
    assert not cache.exists()


def test_a_damaged_entry_is_made_anew(small: list[str], cache: Path) -> None:
    expected = items([*small, "loss.beta=0.1"])
    (entry,) = cache.iterdir()
    entry.write_bytes(entry.read_bytes()[:-40])
    assert items([*small, "loss.beta=0.1"]) == expected
    assert kept([*small, "loss.beta=0.1"]) == expected


def test_the_embedded_text_is_tokenized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = items(LM)
    monkeypatch.setattr("gpt_opt.training.data.tokens.documents", None)
    second = items(LM)
    assert second.fingerprint == first.fingerprint
    assert [row.tolist() for row in second.validation] == [row.tolist() for row in first.validation]
    assert second.train[7].tolist() == first.train[7].tolist()
