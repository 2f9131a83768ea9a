"""Data files as they come: compressed, in folders, under any name, or something else in their place."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from gpt_opt.config.checks.data import data_problems
from gpt_opt.config.checks.models import source_problems
from gpt_opt.config.contents import instead_of_data
from gpt_opt.config.files import with_real_paths
from gpt_opt.errors import DataError
from gpt_opt.training.data import Pair, build_jsonl
from gpt_opt.training.data.sources import published as sources
from tests.training.test_data_sources import COLUMNS, COMMON, comment, dialogue, everything, hf, own_cache, say

__all__ = ["own_cache"]

ROWS = [{"prompt": f"p{n}", "chosen": "a", "rejected": "b"} for n in range(40)]
PAIRS = {Pair(**row) for row in ROWS}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1234567\n"


def lines(rows: list[dict[str, Any]] = ROWS) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(separator: str) -> bytes:
    return "".join(separator.join(row) + "\r\n" for row in [list(ROWS[0]), *(row.values() for row in ROWS)]).encode()


def zstd(content: bytes) -> bytes:
    out = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(out, "zstd") as stream:
        stream.write(content)
    return bytes(out.getvalue().to_pybytes())


def gz(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)  # a time in it would be part of a test's name, another for each worker


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def jsonl(path: Path | str) -> Any:
    columns = {"prompt_column": "prompt", "chosen_column": "chosen", "rejected_column": "rejected"}
    return build_jsonl(str(path), **columns, max_samples=None, validation_split=0.25)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl.gz", gz(lines())),
        ("two-members.jsonl.gz", gz(lines(ROWS[:9])) + gz(lines(ROWS[9:]))),
        ("x.json.gz", gz(json.dumps(ROWS).encode())),
        ("x.jsonl.zst", zstd(lines())),
        ("no-suffix", zstd(lines())),
        ("x.xz", lzma.compress(lines())),
        ("x.csv.bz2", bz2.compress(table(","))),
        ("lines.csv", lines()),
        ("lines.txt", lines()),
        ("semicolons.csv", table(";")),
        ("a-table", table(",")),
        ("x.tsv", table("\t")),
        ("bom.jsonl", b"\xef\xbb\xbf" + lines()),
        ("bom.json", b"\xef\xbb\xbf" + json.dumps(ROWS, indent=1).encode()),
        ("crlf.jsonl", lines().replace(b"\n", b"\r\n")),
    ],
)
def test_the_content_says_what_a_file_is(tmp_path: Path, name: str, content: bytes) -> None:
    file = write(tmp_path / name, content)
    assert everything(jsonl(file)) == everything(hf(file)) == PAIRS
    assert instead_of_data(file) is None


@pytest.mark.parametrize("pack", [gz, zstd, bz2.compress, lzma.compress])
def test_rows_of_a_compressed_file_keep_their_lines(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    file = write(tmp_path / "x.jsonl", pack(lines() + b"\n{]\n"))
    with pytest.raises(DataError) as caught:
        jsonl(file)
    (problem,) = caught.value.problems
    assert problem.where == f"{file}:42"


@pytest.mark.parametrize(
    ("name", "content", "says", "found_early"),
    [
        ("x.jsonl", b"", "is empty", True),
        ("x.jsonl.gz", gz(b""), "is empty", False),
        ("x.jsonl", b"\r\n\n", "holds nothing but blanks", True),
        ("x.jsonl", b"\n<!DOCTYPE html>\n<html>", "is a web page (HTML), saved in the place of data", True),
        ("x.json.gz", gz(b"<html>"), "is a web page (HTML)", False),
        ("x.jsonl", lines().decode().encode("utf-16"), "must be UTF-8, but is UTF-16", True),
        ("x.csv", table(",").decode().encode("utf-16-le"), "holds zero bytes", True),
        ("x.zip", b"PK\x03\x04data", "is an archive (zip)", True),
        ("x.rows", b"prompt: a\n", "starts with b'prompt: a\\n'", True),
        ("x.jsonl.gz", gz(lines())[:90], "is cut off or damaged", False),
        ("x.zst", zstd(lines())[:90], "is cut off or damaged", False),
        ("x.xz", lzma.compress(lines())[:90], "is cut off or damaged", False),
        ("x.jsonl.gz", gz(lines())[:-6] + b"crc   ", "is cut off or damaged", False),
        ("x.json", json.dumps({"data": ROWS}, indent=1).encode(), "has an object over several lines", False),
        ("x.json", b'[{"prompt": "a"}, ', "cannot be read", False),
        ("x.jsonl", LFS, "is a pointer of git-LFS that stands for 1,234,567 bytes", True),
        ("x.parquet", LFS, "is a pointer of git-LFS", True),
        ("x.jsonl", b"/annex/objects/SHA256E-s1--ab.jsonl\n", "is a pointer of git-annex", True),
    ],
)
def test_what_is_no_data_is_one_clear_error(
    tmp_path: Path, name: str, content: bytes, says: str, found_early: bool
) -> None:
    file = write(tmp_path / name, content)
    for read in (jsonl, hf):
        with pytest.raises(DataError) as caught:
            read(file)
        (problem,) = caught.value.problems
        assert says in problem.message
        assert str(file) in str(problem)
    early = [str(problem) for problem in data_problems({"data": {"dataset": {"path": str(file), **COMMON}}})]
    assert len(early) == found_early
    assert all(says in text and text.startswith(f"data.dataset.path: {file}") for text in early)


def test_a_pointer_says_the_command_that_fetches_it(tmp_path: Path) -> None:
    (tmp_path / "a clone" / ".git").mkdir(parents=True)
    first = write(tmp_path / "a clone" / "data" / "train.parquet", LFS)
    assert instead_of_data(first) == (
        "is a pointer of git-LFS that stands for 1,234,567 bytes, not the file itself",
        f"git -C '{tmp_path}/a clone' lfs pull --include=data/train.parquet",
    )
    write(first.with_name("test.parquet"), LFS)
    found = instead_of_data(first.parent)
    assert found is not None
    assert "and 1 more of its files" in found[0]
    assert found[1] == f"git -C '{tmp_path}/a clone' lfs pull --include='data/**'"
    write(first, lines())  # what was fetched may be read, though the other one was not
    assert instead_of_data(first.parent) is None
    with pytest.raises(DataError, match=r"test\.parquet: is a pointer of git-LFS"):
        hf(first.parent, validation_split="test")
    link = tmp_path / "a clone" / "x.jsonl"
    link.symlink_to(".git/annex/objects/ab/cd")
    (problem,) = data_problems({"data": {"dataset": {"path": str(link), "max_samples": None}}})
    assert problem.fix == f"git -C '{tmp_path}/a clone' annex get x.jsonl"
    real = with_real_paths({"data": {"dataset": {"path": str(link), "max_samples": None}}})  # as a run has it
    (problem,) = data_problems(real)
    assert problem.fix == f"git -C '{tmp_path}/a clone' annex get --key=cd"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "tokenizer.json"])
def test_weights_that_are_pointers_are_named_before_anything_starts(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, LFS)
    for key, path in (("name_or_path", tmp_path), ("archive", tmp_path / name)):
        problem, *_ = source_problems({"model": {key: str(path)}, "loss": {}})
        assert problem.where == f"model.{key}"
        assert "is a pointer of git-LFS" in problem.message
    reference, *_ = source_problems({"model": {}, "loss": {"ref_model_id": str(tmp_path)}})
    assert reference.where == "loss.ref_model_id"


def test_weights_in_a_form_that_nobody_loads_may_stay_pointers(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", b"weights")
    for other in ("pytorch_model.bin", "tf_model.h5"):
        write(tmp_path / other, LFS)
    write(tmp_path / "config.json", b"{}")
    assert list(source_problems({"model": {"name_or_path": str(tmp_path), "archive": "embedded"}, "loss": {}})) == []


def test_a_folder_is_read_file_by_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "many"
    for part in range(3):
        write(folder / "deep" / f"part-{part}.jsonl.zst", zstd(lines(ROWS[14 * part : 14 * part + 14])))
    for name in ("README.md", "LICENSE", ".hidden.jsonl", "_SUCCESS"):
        write(folder / name, b"no rows")
    with caplog.at_level("WARNING", "gpt_opt"):
        assert everything(jsonl(folder)) == everything(hf(folder)) == PAIRS
    assert not [record for record in caplog.records if record.name.startswith("gpt_opt")]
    write(folder / "deep" / "part-3.jsonl", b"")
    write(folder / "notes.csv", b"a,b\n1,2\n")
    with caplog.at_level("WARNING", "gpt_opt"):
        assert everything(jsonl(folder)) == PAIRS
    told = " ".join(record.message for record in caplog.records)
    assert "part-3.jsonl is empty, and so left out" in told
    assert "not read: notes.csv" in told
    write(folder / "deep" / "part-1.jsonl.zst", zstd(lines(ROWS[:3]) + b"{]\n"))
    with pytest.raises(DataError, match=r"deep/part-1\.jsonl\.zst:4: must be a JSON object"):
        jsonl(folder)


def test_files_of_a_folder_need_no_suffix_and_names_say_the_split(tmp_path: Path) -> None:
    for part in range(2):
        write(tmp_path / "plain" / f"part-{part}", zstd(lines(ROWS[20 * part : 20 * part + 20])))
    assert everything(jsonl(tmp_path / "plain")) == PAIRS
    write(tmp_path / "splits" / "train-00.jsonl.gz", gz(lines(ROWS[:30])))
    write(tmp_path / "splits" / "validation.jsonl.gz", gz(lines(ROWS[30:])))
    data = hf(tmp_path / "splits", validation_split="validation")
    assert (len(data.train), len(data.validation)) == (30, 10)


HH = [{side: dialogue(n, f" {side}") for side in ("chosen", "rejected")} for n in range(60)]
SE = [{"question": f"q{n}", "answers": [{"text": "a", "pm_score": 1}, {"text": "b", "pm_score": 2}]} for n in range(60)]
UF = [
    {
        "prompt": f"q{n}",
        **{side: say(("user", f"q{n}"), ("assistant", side)) for side in ("chosen", "rejected")},
        "score_chosen": 2.0,
        "score_rejected": 1.0,
    }
    for n in range(60)
]
SHP = [comment(history=f"q{n}") for n in range(60)]
KTO = [{"prompt": f"p{n}", "completion": "c", "label": n % 2 == 0} for n in range(60)]
TALKS = [{"messages": say(("user", f"p{n}"), ("assistant", "c"))} for n in range(60)]


@pytest.mark.parametrize(
    ("rows", "options", "whose", "answer"),
    [
        (HH, ("hf", "jsonl", "shp", "se", "ultrafeedback"), "the layout of Anthropic/hh-rlhf", "data=hh PATH SHARE"),
        (SHP, ("hf", "jsonl", "hh", "se", "ultrafeedback"), "the layout of stanfordnlp/SHP", "data=shp PATH SHARE"),
        (SE, ("hf", "jsonl", "hh", "shp"), "the layout of HuggingFaceH4/stack-exchange-preferences", "data=se PATH"),
        (
            UF,
            ("hh", "shp", "se"),
            "the layout of HuggingFaceH4/ultrafeedback_binarized",
            "data=ultrafeedback PATH data.dataset.split=train SHARE",
        ),
        (ROWS, ("hh", "shp", "se", "ultrafeedback"), "its rows are pairs by columns", "data=hf PATH"),
        (KTO, ("hh", "ultrafeedback"), "its rows are unpaired preferences by columns", "data=hf PATH loss=kto"),
        (TALKS, ("hh", "se"), "its rows are demonstrations by columns", "data=hf PATH loss=sft"),
    ],
    ids=["hh", "shp", "se", "ultrafeedback", "pairs", "judged", "demonstrations"],
)
def test_rows_of_another_layout_are_answered_with_the_option_that_reads_them(
    tmp_path: Path, rows: list[dict[str, Any]], options: tuple[str, ...], whose: str, answer: str
) -> None:
    file = write(tmp_path / "rows.jsonl", lines(rows))
    more = {"hf": COLUMNS, "jsonl": {}, "shp": {"min_score_ratio": 2.0}}
    readers = {"jsonl": jsonl} | {
        name: partial(getattr(sources, f"build_{name}"), **COMMON, **more.get(name, {}))
        for name in ("hf", "hh", "shp", "se", "ultrafeedback")
    }
    for option in options:
        with pytest.raises(DataError) as caught:
            readers[option](str(file))
        (problem,) = caught.value.problems
        assert problem.where == str(file)
        assert whose in problem.message
        assert f"data={option} does not read" in problem.message
        share = "data.dataset.validation_split=0.1"  # a file has no splits
        assert problem.fix == answer.replace("PATH", f"data.dataset.path={file}").replace("SHARE", share)


def test_columns_that_nothing_reads_are_told_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a b.jsonl", lines([{"question": "q", "response_j": "a", "response_k": "b"}] * 60))
    with pytest.raises(DataError) as caught:
        jsonl(file)
    (problem,) = caught.value.problems
    assert "(its keys: question, response_j, response_k)" in problem.message
    assert problem.fix.startswith("data=hf 'data.dataset.path=")
    assert problem.fix.endswith("has a key for the name of each column")
