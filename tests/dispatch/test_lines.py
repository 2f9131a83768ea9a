"""Task lines: how many runs share one, how long runs take, and which are left for the next allocation."""

from __future__ import annotations

import heapq
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_opt.dispatch import driver, measure, slurm
from gpt_opt.dispatch.backends.disbatch import Round
from gpt_opt.dispatch.feed import Feed
from gpt_opt.dispatch.lines import MOST_LINE_S, line_length
from gpt_opt.dispatch.measure import SpeedMeter
from gpt_opt.dispatch.slot.slot import DRIVER, Slot
from gpt_opt.dispatch.sweep_status import gather
from gpt_opt.errors import RunFailed
from gpt_opt.records import stop_requests
from gpt_opt.records.attempts import History, read_history
from gpt_opt.records.claim import acquire
from gpt_opt.records.drivers import driving
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.speeds import Speed, Speeds, read_speeds, write_speeds
from gpt_opt.records.state import State
from gpt_opt.records.stop_requests import driver_name
from gpt_opt.records.sweep_dir import Sweep, SweepRun, Workload
from tests.cluster.bench import Bench
from tests.dispatch.on_disk import attempt, make_sweep, write_run

WORK = Workload("aaaa", steps=100, save_every=40)


def runs_of(number: int) -> list[SweepRun]:
    return [SweepRun(index, f"{index:012x}", f"/x/{index}", ()) for index in range(number)]


def lines_of(seconds: Sequence[float | None], slots: int, together: int = 1) -> list[list[float | None]]:
    """Returns the lines that are made of runs that take so long."""
    waiting, lines = runs_of(len(seconds)), []
    while waiting:
        length = line_length(waiting, slots, together, lambda run: seconds[run.index])
        lines.append([seconds[run.index] for run in waiting[:length]])
        del waiting[:length]
    return lines


def ends_of(lines: Sequence[Sequence[float]], slots: int) -> list[float]:
    """Returns when each slot ends if the next line goes to the first one that is free."""
    free = [0.0] * slots
    for line in lines:
        heapq.heapreplace(free, free[0] + sum(line))
    return sorted(free)


def test_short_runs_share_lines_that_get_shorter_towards_the_end() -> None:
    lines = lines_of([1.5] * 200, slots=4)
    lengths = [len(line) for line in lines]
    assert lengths == sorted(lengths, reverse=True)
    assert (lengths[0], lengths[-1], len(lines)) == (25, 1, 29)
    ends = ends_of([[1.5] * length for length in lengths], 4)
    assert ends[-1] == pytest.approx(1.5 * 200 / 4)
    assert ends[-1] - ends[0] <= 1.5


@given(st.lists(st.one_of(st.none(), st.floats(0.01, 500)), max_size=60), st.integers(1, 8), st.integers(1, 3))
def test_no_line_is_longer_than_a_minute_unless_by_one_run(
    seconds: list[float | None], slots: int, together: int
) -> None:
    lines = lines_of(seconds, slots, together)
    assert [value for line in lines for value in line] == seconds, "every run has a line, in order"
    for line in lines:
        if len(line) > together:
            assert None not in line
            assert sum(filter(None, line)) <= MOST_LINE_S * together + 1e-9


def test_runs_on_one_gpu_share_a_line_whatever_they_take() -> None:
    assert [len(line) for line in lines_of([None] * 5, slots=1, together=2)] == [2, 2, 1]
    assert [len(line) for line in lines_of([100.0] * 5, slots=1, together=2)] == [2, 2, 1]
    assert len(lines_of([10.0] * 40, slots=1, together=2)[0]) == 12, "two at a time take 60 s"


# -- how long runs take -----------------------------------------------------------------------------------------------


def sweep_with(folder: Path, works: Sequence[Workload | None]) -> Sweep:
    sweep = make_sweep(folder, [[f"seed={index}"] for index in range(len(works))])
    sweep.write_plan([replace(run, workload=work) for run, work in zip(sweep.runs, works, strict=True)])
    return Sweep(sweep.root)


def measured(sweep: Sweep) -> Mapping[str, Speed]:
    return SpeedMeter(sweep).measure().workloads


def test_times_are_those_of_finished_runs_else_of_begun_ones_else_of_the_plan(tmp_path: Path) -> None:
    sweep = sweep_with(tmp_path, [replace(WORK, step_s=2.0)] * 3 + [Workload("bbbb", 10, 5), None])
    assert measured(sweep) == {"aaaa": Speed(10.0, 2.0, 0, "the estimate of the plan")}
    begin = 1767261600.0  # STARTED
    rows = [{"step": 0, "time": begin - 50}, {"step": 0, "time": begin + 20}, {"step": 30, "time": begin + 50}]
    write_run(sweep.runs[0], State.INTERRUPTED, 30, rows=rows)
    attempt(sweep, 0, "stopped")
    assert measured(sweep)["aaaa"] == Speed(20.0, 1.0, 1, "runs of this sweep that have begun")
    write_run(sweep.runs[1], State.COMPLETED, 100)  # of 300 s of its attempt it trained 120
    attempt(sweep, 1, "completed")
    assert measured(sweep)["aaaa"] == Speed(180.0, 1.2, 1, "finished runs of this sweep")
    write_run(sweep.runs[2], State.COMPLETED, 100)
    attempt(sweep, 2, "killed")
    attempt(sweep, 2, "completed")
    assert measured(sweep)["aaaa"].runs == 1, "what several attempts took says nothing of one"
    assert "bbbb" not in measured(sweep)


def test_runs_are_read_that_were_started_and_of_them_those_that_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = sweep_with(tmp_path, [WORK, Workload("bbbb", 10, 5), None] * 2)
    read: list[str] = []

    def counted(file: Path) -> History:
        read.append(file.stem)
        return read_history(file)

    monkeypatch.setattr(measure, "read_history", counted)
    for index in (0, 1, 2):
        attempt(sweep, index, "stopped")
    SpeedMeter(sweep).measure()
    assert set(read) == {"0", "1"}
    read.clear()
    SpeedMeter(sweep, "bbbb").measure()
    assert set(read) == {"1"}


def test_speeds_survive_the_disk_and_what_is_no_record_says_nothing(tmp_path: Path) -> None:
    speeds = Speeds({"aaaa": Speed(1.0, 0.5, 3, "x")}, 10.0, 20.0, 4, (1, 2))
    write_speeds(tmp_path / "speeds.json", speeds)
    assert read_speeds(tmp_path / "speeds.json") == speeds
    for text in ("", "{", "[]", '{"workloads": 3}', '{"workloads": {"a": {"x": 1}}}'):
        (tmp_path / "speeds.json").write_text(text)
        assert read_speeds(tmp_path / "speeds.json") == Speeds()
    assert read_speeds(tmp_path / "absent") == Speeds()


def test_notes_that_cannot_be_written_cost_no_driver(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sweep = sweep_with(tmp_path, [WORK])
    for file in (sweep.speeds, sweep.drivers):
        file.mkdir()  # as a full disk, which a test has not
    meter = SpeedMeter(sweep)
    meter.write(3)
    with driving(sweep.drivers, "7.0", 0, 4):
        assert meter.speeds.runs_a_line == 3
    assert caplog.text.count("is not written down") == 1
    assert caplog.text.count("could not be written") == 2


def test_a_run_is_left_that_reaches_neither_a_checkpoint_nor_its_end() -> None:
    (run,) = (replace(run, workload=WORK) for run in runs_of(1))
    speeds = Speeds({"aaaa": Speed(10.0, 1.0, 3, "x")}, begins=0.0, ends=1000.0)
    assert (speeds.run_s(run), speeds.checkpoint_s(run)) == (110.0, 50.0)
    assert speeds.checkpoint_s(run, step=41) == 49.0, "from a checkpoint to the next"
    assert speeds.checkpoint_s(run, step=90) == 20.0, "its end comes first"
    assert speeds.too_late_for(run, 0, 950.0) == ""
    assert "takes 50 s to its next checkpoint, and 49 s are left" in speeds.too_late_for(run, 0, 951.0)
    assert speeds.too_late_for(run, 90, 979.0) == "", "the last minutes go to runs that fit"
    assert "0 s are left" in speeds.too_late_for(run, 0, 2000.0)


def test_nothing_is_left_for_ever_and_nothing_of_which_nothing_is_known() -> None:
    (run,) = (replace(run, workload=WORK) for run in runs_of(1))
    slow = Speeds({"aaaa": Speed(10.0, 1000.0, 3, "x")}, begins=0.0, ends=1000.0)
    assert slow.too_late_for(run, 0, 50.0) == "", "no allocation is long enough: a new one starts it all the same"
    assert slow.too_late_for(run, 0, 150.0) != ""
    assert replace(slow, ends=None).too_late_for(run, 0, 150.0) == ""
    assert replace(slow, workloads={}).too_late_for(run, 0, 999.0) == ""
    assert slow.too_late_for(replace(run, workload=None), 0, 999.0) == ""
    assert slow.too_late_for(replace(run, workload=replace(WORK, steps=None)), 0, 150.0) != "", "checkpoints are known"


def test_a_job_that_slurm_does_not_put_back_says_what_goes_on_with_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = sweep_with(tmp_path, [WORK])

    def refuse(job: str) -> None:
        raise slurm.SlurmError(f"scontrol failed: job {job} is none of batch")

    monkeypatch.setattr(driver, "_rounds", lambda *_: True)
    monkeypatch.setattr(slurm, "requeue", refuse)
    with pytest.raises(RunFailed, match=r"1 to run; gptopt status beta/1 says more, the same command goes on"):
        driver.drive(sweep, in_job=True)
    assert "does not put this job back into the queue: scontrol failed" in caplog.text


def test_a_slot_leaves_a_run_that_comes_too_late(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = sweep_with(tmp_path, [WORK])
    late = Speeds({"aaaa": Speed(10.0, 1.0, 3, "x")}, time.time() - 1000, time.time() + 30, left=(0,))
    write_speeds(sweep.speeds, late)
    with acquire(RunPaths(sweep.root)) as claim:
        name = driver_name(0, claim.attempt)
        assert not Slot(sweep, {**os.environ, DRIVER: name}).execute(sweep.runs)
    assert "is not started: it takes 50 s to its next checkpoint" in capsys.readouterr().out
    assert not read_history(sweep.attempts(sweep.runs[0])).attempts
    assert "left for the next allocation: run 0" in gather(sweep, ask_slurm=False).notes
    write_run(sweep.runs[0], State.COMPLETED, 100)
    assert not gather(sweep, ask_slurm=False).notes, "it was started since"


# -- lines that are not handed out, or cut off ------------------------------------------------------------------------


class Lines:
    """A round of one slot whose lines never end."""

    slots, together, is_open, has_shared_lines = 1, 1, True, False

    def __init__(self) -> None:
        self.handed_out: list[int] = []

    @property
    def outstanding(self) -> int:
        return len(self.handed_out)

    def feed(self, lines: Sequence[Sequence[SweepRun]], is_last: bool) -> None:
        self.handed_out += [run.index for line in lines for run in line]
        self.is_open = not is_last

    def take_ended(self) -> list[Sequence[SweepRun]]:
        return []

    def flush(self) -> None:
        """Nothing waits."""


def test_runs_that_are_cancelled_while_they_wait_are_not_handed_out(tmp_path: Path) -> None:
    sweep, work = sweep_with(tmp_path, [None] * 6), Lines()
    feed = Feed(sweep, cast("Round", work), sweep.runs, SpeedMeter(sweep))
    assert work.handed_out == [0, 1, 2]
    for run in sweep.runs[:5]:
        stop_requests.cancel(sweep.control, run.run_id)
    work.handed_out.clear()  # the slot has declined them
    feed.go_on()
    assert work.handed_out == [5]
    assert not work.is_open, "nothing may follow"


def test_what_a_lost_line_has_not_begun_is_started_at_once(tmp_path: Path, run_forks: Mapping[str, str]) -> None:
    bench = Bench(tmp_path, None, run_forks)
    file = bench.write([70], steps=4, pause_s=0.05)
    file.write_text(json.dumps({**json.loads(file.read_text()), "grid": {"seed": list(range(6))}}))
    bench.submit("--backend", "local", "--slots", "1")

    def shared() -> list[list[str]]:
        lines = [line.split()[3:] for line in bench.sweep().tasks.read_text().splitlines()]
        return [line for line in lines if len(line) > 1]

    bench.wait("a line of several runs", lambda: bool(shared()), timeout_s=100)
    first, *rest = [bench.sweep().run(name) for name in shared()[0]]
    bench.wait("the start of its first run", lambda: bench.starts()[first.index] == 1)
    (bench.folder / "hold").touch()
    bench.wait("its first run at work", lambda: bench.step(first.index) >= 0)
    os.kill(bench.history(first.index).attempts[0].owner.pid, signal.SIGKILL)
    (bench.folder / "hold").unlink()
    bench.wait_until_done()
    bench.wait("the driver's end", lambda: not gather(bench.sweep()).driven)
    assert bench.starts() == [2 if index == first.index else 1 for index in range(6)]
    (round_folder,) = bench.sweep().disbatch.glob("*-0")
    lines = [line.rpartition("\t")[2].split()[3:] for line in (round_folder / "d_status.txt").read_text().splitlines()]
    handed_out = Counter(name for line in lines for name in line)
    assert all(handed_out[run.run_id] == 2 for run in rest), "in the same round, and so before the run that was hit"
    assert all([run.run_id] in lines for run in rest)
    assert read_speeds(bench.sweep().part(0).speeds).workloads
