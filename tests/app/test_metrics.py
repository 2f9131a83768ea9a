"""Metrics of apps, read from what their loggers write: whole, as it grows, damaged, and copied into metrics.jsonl."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_opt.app.keys import SOURCES
from gpt_opt.app.metrics import Follower, MetricsCopy, rows_of
from gpt_opt.app.settings import MetricsSource
from gpt_opt.app.sources import READERS
from gpt_opt.records.step_log import read_metrics
from tests.helpers.examples import examples
from tests.helpers.loggers import TIME, wandb_log, wandb_run, write_events


def source(name: str, step: str = "step") -> MetricsSource:
    return MetricsSource(name, SOURCES[name], step)


def flat(rows: list[Any]) -> list[tuple[Any, ...]]:
    return [(row["step"], row["time"], row["values"]) for row in rows]


def test_every_source_that_a_file_can_name_has_a_reader() -> None:
    assert set(READERS) == set(SOURCES)


@pytest.mark.parametrize("as_tensors", [False, True])
def test_scalars_of_event_files(tmp_path: Path, as_tensors: bool) -> None:
    values = [(1, "train/loss", 0.5), (2, "train/loss", math.nan), (2, "val/acc", 0.0)]
    write_events(tmp_path / "tb" / "version_0", values, as_tensors)
    found = flat(rows_of(tmp_path, source("tensorboard")))
    assert [(step, time) for step, time, _ in found] == [(1, TIME + 1), (2, TIME + 2), (2, TIME + 2)]
    assert (found[0][2], found[2][2]) == ({"train/loss": 0.5}, {"val/acc": 0.0})
    assert math.isnan(found[1][2]["train/loss"])


def test_what_is_no_scalar_is_left_out(tmp_path: Path) -> None:
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    text = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    image = Summary.Image(height=1, width=1, encoded_image_string=b"\x89PNG")
    summary = Summary(
        value=[
            Summary.Value(tag="note", tensor=TensorProto(dtype=7, string_val=[b"hello"]), metadata=text),
            Summary.Value(tag="weights", histo=HistogramProto(min=0, max=1, bucket=[1.0])),
            Summary.Value(tag="image", image=image),
            Summary.Value(tag="loss", simple_value=0.25),
        ]
    )
    writer = EventFileWriter(str(tmp_path))
    writer.add_event(Event(step=3, session_log=SessionLog(status=SessionLog.START)))
    writer.add_event(Event(step=3, wall_time=TIME, summary=summary))
    writer.add_event(Event(step=-1, wall_time=TIME, summary=Summary(value=[Summary.Value(tag="x", simple_value=1)])))
    writer.close()
    assert flat(rows_of(tmp_path, source("tensorboard"))) == [(3, TIME, {"loss": 0.25})]


def test_rows_of_wandb(tmp_path: Path) -> None:
    folder = tmp_path / "wandb" / "offline-run-20261129_120000-abc123"
    folder.mkdir(parents=True)
    logged = [{"loss": 1.0, "val/loss": 2.0, "note": "x", "trainer/global_step": 0}, {"loss": math.nan}]
    (folder / "run-abc123.wandb").write_bytes(wandb_run({"lr": 0.1}, logged))
    (tmp_path / "wandb" / "latest-run").symlink_to(folder)  # as wandb makes it: the same file once more
    found = flat(rows_of(tmp_path, MetricsSource("wandb", "wandb/*/*.wandb", "trainer/global_step")))
    assert found[0] == (0, TIME, {"loss": 1.0, "val/loss": 2.0})
    assert (found[1][0], found[1][1]) == (1, TIME + 1)
    assert math.isnan(found[1][2]["loss"])
    assert len(found) == 2


CSV = "epoch,step,train_loss,val_loss\n0,9,0.5,\n0,9,,0.75\n1,19,nan,\n1,x,1,\n1,29\n"


def test_rows_of_csv_logs_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2):
        (tmp_path / f"version_{number}").mkdir()
    (tmp_path / "version_2" / "metrics.csv").write_text(CSV)
    (tmp_path / "version_10" / "metrics.csv").write_text("step,acc\n29.0,1e-3\n")
    found = flat(rows_of(tmp_path, source("csv")))
    assert found[:2] == [(9, None, {"epoch": 0.0, "train_loss": 0.5}), (9, None, {"epoch": 0.0, "val_loss": 0.75})]
    assert math.isnan(found[2][2]["train_loss"])
    assert found[3:] == [(29, None, {"epoch": 1.0}), (29, None, {"acc": 1e-3})]


def test_a_csv_log_without_its_step_says_what_it_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "metrics.csv").write_text("iteration,loss\n1,0.5\n")
    follower = Follower(tmp_path, source("csv"))
    assert follower.new_rows() == []
    assert "must have a column step with the step, but has iteration, loss" in caplog.text
    caplog.clear()
    assert follower.new_rows() == []
    assert caplog.text == ""  # once is enough
    assert flat(rows_of(tmp_path, source("csv", "iteration"))) == [(1, None, {"loss": 0.5})]


def test_a_csv_log_that_gets_a_column_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("step,loss\n1,0.5\n2,0.25\n")
    follower = Follower(tmp_path, source("csv"))
    assert [row["step"] for row in follower.new_rows()] == [1, 2]
    file.write_text("step,loss,acc\n1,0.5,\n2,0.25,\n3,,0.75\n")  # as Lightning does
    assert flat(follower.new_rows()) == [(3, None, {"acc": 0.75})]
    file.write_text("step,loss\n1,0.125\n")  # of a further attempt, from its start
    assert flat(follower.new_rows()) == [(1, None, {"loss": 0.125})]


def trainer_state(folder: Path, losses: list[float], seconds: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    history = [{"step": step, "loss": loss} for step, loss in enumerate(losses, start=1)]
    file = folder / "trainer_state.json"
    file.write_text(json.dumps({"global_step": len(losses), "log_history": [*history, {"step": 1, "eval_loss": 9.0}]}))
    os.utime(file, (TIME + seconds, TIME + seconds))


def test_the_newest_trainer_state_counts(tmp_path: Path) -> None:
    follower = Follower(tmp_path, source("trainer_state"))
    assert follower.new_rows() == []
    trainer_state(tmp_path / "checkpoint-2", [0.5, 0.25], 0)
    first = flat(follower.new_rows())
    assert first == [(1, None, {"loss": 0.5}), (2, None, {"loss": 0.25}), (1, None, {"eval/loss": 9.0})]
    trainer_state(tmp_path / "checkpoint-10", [0.5, 0.25, 0.125], 1)
    assert [row["step"] for row in follower.new_rows()] == [3, 1]
    trainer_state(tmp_path / "checkpoint-2", [0.5, 0.75], 2)  # resumed from before, on another way
    assert [row["values"] for row in follower.new_rows()] == [{"loss": 0.75}, {"eval/loss": 9.0}]
    assert follower.new_rows() == []


def _event_file(tmp_path: Path) -> tuple[str, bytes]:
    file = write_events(tmp_path / "made", [(step, "loss", step / 4) for step in range(12)])
    return "run/events.out.tfevents.1.host", file.read_bytes()


def _wandb_record(tmp_path: Path) -> tuple[str, bytes]:
    long = "x" * 40_000  # over a block
    return "run/run-a.wandb", wandb_run({"a": long}, [{"loss": step / 4, "note": long[:9_000]} for step in range(6)])


def _csv_log(tmp_path: Path) -> tuple[str, bytes]:
    return "run/metrics.csv", CSV.replace("nan", "1").encode()


def _report(tmp_path: Path) -> tuple[str, bytes]:
    rows = [{"step": step, "time": TIME + step, "loss": step / 4} for step in range(8)]
    return "run/metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize(
    ("name", "make"),
    [("tensorboard", _event_file), ("wandb", _wandb_record), ("csv", _csv_log), ("report", _report)],
)
@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.floats(0, 1), max_size=6))
def test_a_file_that_grows_is_read_once(
    tmp_path: Path, name: str, make: Callable[[Path], tuple[str, bytes]], cuts: list[float]
) -> None:
    relative, data = make(tmp_path)
    file = tmp_path / relative
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    whole = rows_of(file.parent, source(name))
    assert len(whole) > 3
    follower, found = Follower(file.parent, source(name)), []
    for end in (*sorted(int(cut * len(data)) for cut in cuts), len(data)):
        file.write_bytes(data[:end])
        found += follower.new_rows()
    assert found == whole


@pytest.mark.parametrize(
    ("name", "file", "data"),
    [
        ("tensorboard", "events.out.tfevents.1.host", b"garbage of some length, which is no record"),
        ("wandb", "run-a.wandb", b"garbage of some length, which is no record"),
        ("wandb", "run-a.wandb", wandb_log([b"\x17\xff\xff"])),
        ("trainer_state", "trainer_state.json", b'{"log_history": [}'),
    ],
)
def test_what_is_damaged_is_named_and_what_is_before_it_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, file: str, data: bytes
) -> None:
    (tmp_path / file).write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert rows_of(tmp_path, source(name)) == []
    assert f"{file}: its metrics cannot be read to the end: " in caplog.text


def test_rows_before_a_damaged_event_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write_events(tmp_path, [(1, "loss", 0.5)])
    file.write_bytes(file.read_bytes() + b"\0" * 40)
    assert flat(rows_of(tmp_path, source("tensorboard"))) == [(1, TIME + 1, {"loss": 0.5})]
    assert "is no event" in caplog.text


def test_a_copy_is_metrics_jsonl(tmp_path: Path) -> None:
    log, target = tmp_path / "metrics.csv", tmp_path / "metrics.jsonl"
    log.write_text("step,loss,time\n1,0.5,7\n2,nan,8\n")
    copy = MetricsCopy(tmp_path, source("csv"))
    assert copy.update() == 2
    assert copy.update() is None
    with log.open("a") as stream:
        stream.write("3,0.25,9\n")
    assert copy.update() == 3
    found = read_metrics(target)
    assert not found.left_out
    assert [row["loss"] for row in found.records] == [0.5, None, 0.25]
    assert [row["logged_time"] for row in found.records] == [7.0, 8.0, 9.0]
    assert [("time" in row) for row in found.records] == [False, False, True]  # when the first two came, nobody saw
    moment = found.records[2]["time"]
    again = MetricsCopy(tmp_path, source("csv"))  # of a further attempt
    assert again.update() == 3
    assert [row.get("time") for row in read_metrics(target).records] == [None, None, moment]


def test_what_an_app_reports_needs_no_copy(tmp_path: Path) -> None:
    target = tmp_path / "metrics.jsonl"
    first = '{"step": 1, "time": 5.0, "total_steps": 9, "loss": null}\n'
    target.write_text(first + '{"no": "row"}\n{"step": 4, "loss": 1}\n{"step": 5')
    before = target.read_bytes()
    copy = MetricsCopy(tmp_path, MetricsSource())
    assert copy.update() == 4
    assert copy.total_steps == 9
    assert target.read_bytes() == before


def test_what_a_further_attempt_logs_again_is_there_once(tmp_path: Path) -> None:
    for number, lines in enumerate(("1,3\n2,2\n3,1\n", "")):
        (tmp_path / f"version_{number}").mkdir()
        (tmp_path / f"version_{number}" / "metrics.csv").write_text(f"step,loss\n{lines}")
    copy = MetricsCopy(tmp_path, source("csv"))
    assert copy.update() == 3
    times = [row.get("time") for row in read_metrics(tmp_path / "metrics.jsonl").records]
    (tmp_path / "version_1" / "metrics.csv").write_text("step,loss\n2,20\n")  # from a checkpoint at step 1
    assert copy.update() == 2
    rows = read_metrics(tmp_path / "metrics.jsonl").records
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 3), (2, 20)]
    with (tmp_path / "version_1" / "metrics.csv").open("a") as stream:
        stream.write("4,10\n")
    assert copy.update() == 4
    rows = read_metrics(tmp_path / "metrics.jsonl").records
    assert [(row["step"], "time" in row) for row in rows] == [(1, False), (2, True), (4, True)]
    assert times == [None] * 3  # when the first attempt logged, nobody saw


def test_files_of_other_folders_are_no_further_attempt(tmp_path: Path) -> None:
    for folder, tag in (("train", "loss"), ("validation", "loss"), ("train", "lr")):
        write_events(tmp_path / folder, [(1, tag, 0.5), (2, tag, 0.25)])
    assert len(rows_of(tmp_path, source("tensorboard"))) == 6


def test_writers_of_one_tag_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for folder in ("train", "validation", "runs/A_loss_mean", "runs/1"):
        write_events(tmp_path / folder, [(1, "A/loss", 0.5)])
    write_events(tmp_path / "test", [(1, "test/loss", 0.5)])
    names = [name for row in rows_of(tmp_path, source("tensorboard")) for name in row["values"]]
    assert sorted(names) == ["A/loss", "A/loss/mean", "test/loss", "train/A/loss", "validation/A/loss"]


def test_what_an_attempt_logged_that_was_put_aside_does_not_count(tmp_path: Path) -> None:
    for folder, losses in (("superseded/before-attempt-0002/logs", "1,9\n2,8\n3,7\n"), ("logs", "1,3\n2,2\n")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "metrics.csv").write_text(f"step,loss\n{losses}")
    assert flat(rows_of(tmp_path, source("csv"))) == [(1, None, {"loss": 3.0}), (2, None, {"loss": 2.0})]
    trainer_state(tmp_path / "superseded" / "before-attempt-0002" / "checkpoint-2", [0.5, 0.25], 0)
    assert rows_of(tmp_path, source("trainer_state")) == []
