"""Checkpoints of any program that lack their end."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gpt_opt.records.half_written import half_written
from gpt_opt.records.run_dir import RunPaths

WEIGHTS = {"a": torch.arange(1000.0), "b": torch.zeros(3, 4)}


def legacy(path: Path) -> None:
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)


def new(path: Path) -> None:
    torch.save(WEIGHTS, path)


def safe(path: Path) -> None:
    save_file(WEIGHTS, path)


@pytest.mark.parametrize(
    ("name", "save", "is_told"),
    [("a.pt", new, True), ("a.ckpt", new, True), ("a.safetensors", safe, True), ("a.bin", legacy, False)],
)
def test_half_of_a_file_is_told_by_its_format(
    tmp_path: Path, name: str, save: Callable[[Path], None], is_told: bool
) -> None:
    save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    assert half_written(tmp_path / name) == half_written(tmp_path) == ""
    for size in (0, 3, len(content) // 2, len(content) - 1):
        (tmp_path / name).write_bytes(content[:size])
        for place in (tmp_path / name, tmp_path):
            assert half_written(place).startswith(f"{name}: ") == (is_told if size > 3 else size == 0 or save is safe)


def test_shards_have_their_metadata_last(tmp_path: Path) -> None:
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    assert half_written(tmp_path) == "__0_0.distcp: there is no .metadata beside it"
    (tmp_path / ".metadata").write_bytes(b"x")
    assert half_written(tmp_path) == ""


def test_the_newest_whole_checkpoint_serves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = RunPaths(tmp_path)
    assert paths.newest("*.ckpt") is None
    for number, name in enumerate(("z.ckpt", "y.ckpt", "x.ckpt")):
        new(tmp_path / name)
        os.utime(tmp_path / name, (1000 + number, 1000 + number))
    assert paths.newest("*.ckpt") == tmp_path / "x.ckpt"
    (tmp_path / "x.ckpt").write_bytes((tmp_path / "y.ckpt").read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        assert paths.newest("*.ckpt") == tmp_path / "y.ckpt"
    assert f"{tmp_path / 'x.ckpt'} is half written and left out: x.ckpt: File is not a zip file" in caplog.text
    (tmp_path / "y.ckpt").write_bytes(b"")
    (tmp_path / "z.ckpt").write_bytes(b"")
    assert paths.newest("*.ckpt") is None


def test_a_folder_is_left_out_beside_a_whole_one_alone(tmp_path: Path) -> None:
    for number, name in enumerate(("step-1", "step-2")):
        (tmp_path / name).mkdir()
        new(tmp_path / name / "a.pt")
        os.utime(tmp_path / name, (1000 + number, 1000 + number))
    (tmp_path / "step-2" / "a.pt").write_bytes(b"")
    os.utime(tmp_path / "step-2", (2000, 2000))
    assert RunPaths(tmp_path).newest("step-*") == tmp_path / "step-1"
    (tmp_path / "step-1" / "a.pt").write_bytes(b"")
    os.utime(tmp_path / "step-1", (1000, 1000))
    assert RunPaths(tmp_path).newest("step-*") == tmp_path / "step-2"
