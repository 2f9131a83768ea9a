"""Fingerprints of what a run is made of: files, folders, the user's own modules."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt_opt.config import inputs
from gpt_opt.config.inputs import changed_inputs, changed_since, inputs_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTOPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fingerprints"


def of(key: str, value: Path) -> dict[str, Any]:
    group, name = key.split(".")
    return inputs_of({group: {name: str(value)}})


def test_of_a_model_weights_and_what_reads_them_count(tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json", "tokenizer.json", "optimizer.pt", "modeling_mine.py"):
        (tmp_path / name).write_text(name)
    keys = ("model.archive", "model.name_or_path", "model.tokenizer_name_or_path", "loss.ref_model_id")
    before = {key: of(key, tmp_path) for key in keys}
    seen = {}
    for name in ("model.safetensors", "config.json", "tokenizer.json", "optimizer.pt", "modeling_mine.py"):
        (tmp_path / name).write_text(f"other {name}")
        seen[name] = {key.rpartition(".")[2] for key in keys if changed_inputs(before[key], of(key, tmp_path))}
        (tmp_path / name).write_text(name)
    whole = {"name_or_path", "ref_model_id"}
    assert seen == {
        "model.safetensors": {"archive", *whole},
        "config.json": whole,
        "tokenizer.json": {"tokenizer_name_or_path"},
        "optimizer.pt": set(),
        "modeling_mine.py": {"tokenizer_name_or_path", *whole},
    }
    (tmp_path / "more.safetensors").touch()
    assert changed_inputs(before["model.archive"], of("model.archive", tmp_path)) == ["model.archive"]


def test_of_a_data_folder_every_file_counts_but_what_tools_leave_there(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "0.parquet").write_text("rows")

    def now() -> dict[str, Any]:
        return inputs_of({"data": {"dataset": {"path": str(folder)}}})

    before = now()
    for name in ("README.md", ".hidden", "cache-12.arrow", "train/.git"):
        (folder / name).write_text("x")
    assert changed_since(before, now()) == ""
    (folder / "train" / "0.parquet").write_text("others")
    assert changed_since(before, now()) == f"{folder} has changed since"


def test_the_weights_that_the_project_ships_are_an_input() -> None:
    (item,) = inputs_of({"model": {"archive": "embedded", "tokenizer_name_or_path": "bytes"}}).values()
    assert item["path"].endswith("tiny_gpt2")


def test_names_on_the_hub_and_files_that_are_gone_are_not_compared(tmp_path: Path) -> None:
    assert inputs_of({"model": {"name_or_path": "openai-community/gpt2"}, "data": {"dataset": {"path": "a/b"}}}) == {}
    file = tmp_path / "w.safetensors"
    file.touch()
    before = of("model.archive", file)
    file.unlink()
    assert changed_since(before, of("model.archive", file)) == ""


def test_a_large_file_is_read_once_and_again_when_anything_of_it_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "MIN_CACHED", 4)
    file = tmp_path / "w.safetensors"
    file.write_text("1234")
    first = of("model.archive", file)
    assert not cache.exists()  # it was written just now, and may be again within one tick of the clock
    monkeypatch.setattr(inputs, "_SETTLED_S", -1.0)
    assert of("model.archive", file) == first
    (entry,) = cache.iterdir()
    entry.write_text("f" * 64)
    assert of("model.archive", file)["model.archive"]["sha256"] == "f" * 64
    entry.write_text("torn")
    assert of("model.archive", file) == first
    stat = file.stat()
    file.write_text("4321")  # as `cp -p` does it: equal size, equal times
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert changed_inputs(first, of("model.archive", file)) == ["model.archive"]


def test_a_cache_that_cannot_be_written_and_a_user_without_home_cost_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "MIN_CACHED", 0)
    monkeypatch.setattr(inputs, "_SETTLED_S", -1.0)
    file = tmp_path / "w.safetensors"
    file.write_text("1234")
    expected = of("model.archive", file)
    monkeypatch.setenv("GPTOPT_CACHE", str(file))
    assert of("model.archive", file) == expected
    for name in ("GPTOPT_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 987_654_321)
    assert of("model.archive", file) == expected


def test_own_code_counts_with_all_of_the_own_code_that_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "mine_of_inputs"
    package.mkdir()
    sources = {
        "__init__.py": "raise RuntimeError('must not be imported')\n",
        "losses.py": "import json\nimport numpy\nfrom gpt_opt import errors\nfrom . import helper\n",
        "helper.py": "from mine_of_inputs.deep import x\nfrom . import losses\n",
        "deep.py": "def broken(:\n",
        "unused.py": "",
    }
    for name, text in sources.items():
        (package / name).write_text(text)
    config = {"loss": {"_target_": "mine_of_inputs.losses.Squared"}, "callbacks": [{"_target_": "gpt_opt.errors.X"}]}
    before = inputs_of(config)
    assert sorted(before) == ["mine_of_inputs", *(f"mine_of_inputs.{name}" for name in ("deep", "helper", "losses"))]
    assert "mine_of_inputs" not in sys.modules
    (package / "helper.py").write_text(sources["helper.py"] + "# changed\n")
    (package / "unused.py").write_text("# changed\n")
    assert changed_since(before, inputs_of(config)) == f"{package / 'helper.py'} has changed since"


def test_own_code_of_the_checkout_counts_for_a_process_that_does_not_have_it_on_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_PACKAGE", tmp_path / "gpt_opt")  # as for the program gptopt
    (tmp_path / "mine_at_root.py").touch()
    assert list(inputs_of({"loss": {"_target_": "mine_at_root.Loss"}})) == ["mine_at_root"]


def test_several_changes_are_one_sentence() -> None:
    before = {name: {"path": name, "sha256": "0"} for name in "abcd"}
    now = {name: {"path": name, "sha256": "1" if name in "abc" else "0"} for name in "abcde"}
    assert changed_since(before, now) == "a, b and c have changed since"
    assert changed_since(before, before) == changed_since({}, now) == ""
