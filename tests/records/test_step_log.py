"""metrics.jsonl and samples.jsonl as their writer leaves them and a resume takes them up."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from gpt_opt.records.step_log import MetricsLog, StepLog, read_metrics, read_tail


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_a_row_has_step_time_and_metrics_and_what_is_no_number_is_null(file: Path) -> None:
    MetricsLog(file).append(3, {"loss": 0.1 + 0.2, "kl": math.nan, "eval/loss": math.inf})
    (row,) = read_metrics(file).records
    assert {**row, "time": None} == {"step": 3, "time": None, "loss": 0.1 + 0.2, "kl": None, "eval/loss": None}
    assert file.read_text().count("\n") == 1, "one line a row, as programs that read JSON lines expect"


def test_a_resume_drops_later_rows_a_torn_line_and_what_is_no_row(file: Path) -> None:
    log = MetricsLog(file)
    for step in (2, 4, 6):
        log.append(step, {"loss": step / 10, **({"eval/loss": 9.5} if step == 4 else {})})
    with file.open("ab") as stream:
        stream.write(b'no row\n{"step": 4, "loss": 0.45}\n' + '{"step": 4, "name": "ß'.encode()[:-1])
    assert log.keep_until(4) == {"loss": 0.45, "eval/loss": 9.5}
    assert [row["step"] for row in read_metrics(file).records] == [2, 4, 4]
    log.append(6, {"loss": 1.0})
    found = read_metrics(file)
    assert (found.records[-1]["loss"], found.left_out) == (1.0, 0)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_resume_from_the_start_keeps_nothing_and_an_absent_file_stays_absent(file: Path) -> None:
    assert MetricsLog(file).keep_until(0) == {}
    assert not file.exists()
    MetricsLog(file).append(1, {"loss": 1.0})
    assert MetricsLog(file).keep_until(0) == {}
    assert file.read_text() == ""


def test_rows_of_samples_hold_texts_and_metrics_do_not(file: Path) -> None:
    StepLog(file).write(2, [{"index": 0, "policy": "a\n東"}, {"index": 1, "policy": ""}])
    assert [json.loads(line)["index"] for line in file.read_text().splitlines()] == [0, 1]
    assert [fault.partition(",")[0] for _, fault in read_metrics(file).foreign] == ["metrics are numbers"] * 2


@pytest.mark.parametrize(
    "row", ['{"loss": 1}', '{"step": -1}', '{"step": 1.5}', '{"step": true}', '{"step": 1, "x": []}']
)
def test_a_row_without_a_step_or_with_another_value_is_foreign(file: Path, row: str) -> None:
    file.write_text(f'{row}\n{{"step": 1, "loss": 2}}\n')
    found = read_metrics(file)
    assert [number for number, _ in found.foreign] == [1]
    assert found.records == [{"step": 1, "loss": 2}]


def test_the_tail_is_the_end_of_the_file(file: Path) -> None:
    file.write_bytes(b"first line\nsecond\nthird")
    assert read_tail(file, 12) == ([b"second", b"third"], 23)
    assert read_tail(file, 1000)[0][0] == b"first line"
