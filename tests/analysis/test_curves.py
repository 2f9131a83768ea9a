"""The quick way to read metrics.jsonl gives what the way line by line does, whatever the files hold."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analysis import curves
from analysis.curves import metrics_frame, read_curves
from analysis.entries import joined
from tests.helpers.examples import examples

NUMBERS = st.none() | st.integers(-(2**70), 2**70) | st.floats() | st.integers(0, 3)
NAMES = st.sampled_from(["loss", "eval/loss", "kl", "time", "run_id", "ä", "own: metric"])
ROWS = st.fixed_dictionaries({"step": st.integers(0, 4)}, optional={}).flatmap(
    lambda row: st.dictionaries(NAMES, NUMBERS, max_size=4).map(lambda values: {**row, **values})
)
ODD = st.sampled_from(
    [
        *(b"", b" ", b"{}", b"[1]", b"null", b"garbage", b'\xff{"step": 1}', b'{"step":', b"1}", b'{"loss": 1}'),
        *(b'{"step": 1, "loss": Inf}', b'{"step": 1, "loss": -Infinity}', b'{"step": 1, "loss": NaN}'),
        *(b'{"step": 1}{"step": 2}', b'{"step": 1, "loss": 1, "loss": 2}', b'{"step": 1.0}', b'{"step": true}'),
        *(b'{"step": -1, "loss": 1}', b'{"step": 99999999999999999999}', b'{"step": 1, "kl": true}'),
        *(b'{"step": 1, "kl": "2020-01-01"}', b'{"step": 1, "kl": [1]}', b'{"step": 1, "kl": {"a": 1}}'),
        *(b'{"step": 1, "loss": 1e400}', b'{"step": 1, "loss": ' + b"9" * 400 + b"}", b'{"step": 1, "loss": 1}  \r'),
        *(b'{"step": 1, "kl": 9007199254740993}', b'{"step": 2, "kl": -0}', b' {"step": 1, "kl": 3}'),
        *(b'{"step": 1, "\\ud800": 1}', b'{"step": 1,\r"loss": 2}', b'{"step": 3, "": 5}'),
    ]
)
LINES = ROWS.map(lambda row: json.dumps(row).encode()) | ODD
FILES = st.lists(
    st.tuples(st.lists(LINES, max_size=6), st.sampled_from([b"\n", b"\n", b"\n", b"", b'{"st'])), max_size=4
)


def frame(folders: list[str], quick: bool) -> pd.DataFrame:
    if quick:
        return metrics_frame(read_curves(folders), folders)
    return metrics_frame(joined([curves._line_by_line(folder) for folder in folders], folders), folders)


def write(root: Path, contents: list[bytes]) -> list[str]:
    for number, content in enumerate(contents):
        (root / str(number)).mkdir()
        (root / str(number) / "metrics.jsonl").write_bytes(content)
    return [str(root / str(number)) for number in range(len(contents))]


@settings(max_examples=examples(80))
@given(FILES)
@example([([b'{"step": 1, "loss": 1}', b'{"step": 1, "loss": null}'], b"\n")])
@example([([b'{"step": 1}{"step": 2}', b'{"step": 3,', b'"loss": 1}'], b"\n")])
@example([([b'{"step": 2, "loss": 1}', b'{"step": 1, "loss": 2}', b'{"step": 2, "eval/loss": 3}'], b"\n")] * 2)
def test_both_ways_give_the_same_frame(files: list[tuple[list[bytes], bytes]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        contents = [b"\n".join(lines) + end for lines, end in files if lines]
        if not contents:
            return
        folders = write(Path(name), contents)
        quick, slow = read_curves(folders), [curves._line_by_line(folder) for folder in folders]
        assert quick.problems == [lines for part in slow for lines in part.problems]
        pd.testing.assert_frame_equal(frame(folders, quick=True), frame(folders, quick=False), check_exact=True)


def test_plain_files_do_take_the_quick_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"step": step, "time": 1.76e9 + step, "loss": 1 / (step + 1), "kl": step} for step in range(5)]
    rows.insert(3, {"step": 2, "time": 1.77e9, "eval/loss": 0.25})
    folders = write(tmp_path, ["".join(json.dumps(row) + "\n" for row in rows).encode()] * 3)
    expected = frame(folders, quick=False)
    monkeypatch.delattr(curves, "_line_by_line")
    found = frame(folders, quick=True)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert found["eval/loss"].dropna().tolist() == [0.25] * 3
    assert found["time"][2] == pd.Timestamp(1.77e9, unit="s", tz="UTC")


def test_many_files_are_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "_BATCH_BYTES", 60)
    folders = write(tmp_path, [f'{{"step": {number}, "loss": {number}.5}}\n'.encode() for number in range(7)])
    found = frame(folders, quick=True)
    assert found["loss"].tolist() == [number + 0.5 for number in range(7)]
    assert found["path"].tolist() == folders
    assert np.isfinite(found["loss"]).all()
    assert found["time"].isna().all()
    assert math.isclose(found["loss"].sum(), 24.5)
