"""The status of a sweep, from real files: what each run is, tables, groups of failures, live views."""

from __future__ import annotations

import io
import json
import math
import os
import pty
import re
import subprocess
import termios
import threading
import time
from pathlib import Path

import pytest

from gpt_opt.cli import main
from gpt_opt.cli.views import status as show_status
from gpt_opt.cli.views.watch import watch
from gpt_opt.dispatch import slurm
from gpt_opt.dispatch.classify import STALLED_AFTER_S
from gpt_opt.dispatch.failure_groups import Failure, grouped, normalised
from gpt_opt.dispatch.progress import (
    BEST_LIMIT_BYTES,
    TAIL_BYTES,
    Metric,
    final_progress,
    read_progress,
    saved_steps,
)
from gpt_opt.dispatch.stages import classify_runs
from gpt_opt.dispatch.sweep_status import gather
from gpt_opt.records import stop_requests as control
from gpt_opt.records.attempts import CAUSES, note_retry
from gpt_opt.records.claim import acquire
from gpt_opt.records.io import to_json, write_text
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import State
from gpt_opt.records.sweep_dir import Job, Sweep
from tests.dispatch.on_disk import DEAD, STARTED, attempt, held, make_sweep, start, write_run

BETAS = [["data=jsonl", f"loss.beta={beta}"] for beta in (0.05, 0.1, 0.3, 0.5, 1.0, 2.0)]
LOWEST = {"name": "eval/loss", "goal": "minimize"}


def curve(*values: float | None, key: str = "eval/loss") -> list[dict[str, float | None]]:
    return [{"step": 10 * place, "time": 1e9 + 20 * place, key: value} for place, value in enumerate(values)]


def mixed(folder: Path) -> Sweep:
    """Returns a sweep with a run of every state but RUNNING and STALLED."""
    sweep = make_sweep(folder, BETAS, metric=LOWEST)
    write_run(sweep.runs[0], State.COMPLETED, 100, rows=curve(0.7, 0.41, 0.45), gpus=["0"])
    attempt(sweep, 0, "completed", gpus=("0",))
    write_run(sweep.runs[1], State.FAILED, 30, rows=curve(0.7, None), error={"type": "RuntimeError", "message": "NaN"})
    attempt(sweep, 1, "exception", "RuntimeError: loss is NaN at step 30")
    write_run(sweep.runs[2], State.RUNNING, 60)  # nobody holds it: interrupted
    attempt(sweep, 2, "time_limit")
    write_run(sweep.runs[3], State.INTERRUPTED, 20)
    control.cancel(sweep.control, sweep.runs[3].run_id)
    for run, saved in zip(sweep.runs[1:4], (30, 60, 20), strict=True):
        (run.paths().checkpoints / f"checkpoint-{saved}").mkdir(parents=True)
    attempt(sweep, 4, "gpu_busy", node="n2", gpus=("1",))
    return sweep


GOLDEN = """\
sweep beta/1: 6 runs, local, 2 slots
jobs: none alive
1 COMPLETED, 2 PENDING, 1 CANCELLED, 1 INTERRUPTED, 1 FAILED; 35% of all steps
sweep efficiency 0.20: 2 min of training in 10 min of slots
all runs: data=jsonl

index  beta  run           state        step     eval/loss  best    time   node  GPU
0      0.05  000000000000  COMPLETED    100/100  0.4500     0.4100  2 min  n1    0
1      0.1   000000000001  FAILED       30/100   nan        0.7000  5 min  n1
2      0.3   000000000002  INTERRUPTED  60/100                      5 min  n1
3      0.5   000000000003  CANCELLED    20/100                      5 min  n1
4      1.0   000000000004  PENDING                                         n2    1
5      2.0   000000000005  PENDING

1 x RuntimeError: loss is NaN at step 30 (run 1)
1 x interrupted: time limit (run 2)

3 runs wait and no job is alive: gptopt submit params/beta.json --backend local continues
gptopt retry beta/1 starts failed runs again
gptopt retry beta/1 --state CANCELLED starts cancelled runs again

1 of 6 done, 3 waiting, 1 failed, 1 cancelled, nothing works on it"""


def test_the_text_of_a_small_sweep(tmp_path: Path) -> None:
    status = gather(mixed(tmp_path))
    assert show_status.as_text(status, 120) == GOLDEN
    assert not status.all_done


def test_lines_fit_the_terminal_and_values_keep_what_tells_them_apart(tmp_path: Path) -> None:
    points = [[f"data.dataset.path=/somewhere/deep/in/a/folder/{name}.jsonl"] for name in "abc"]
    text = show_status.as_text(gather(make_sweep(tmp_path, points)), 50)
    assert all(len(line) <= 50 for line in text.splitlines()[:8])
    assert "2      …c.jsonl  000000000002  PENDING\npath: … is /somewhere/deep/in/a/folder/\n" in text


def test_a_terminal_that_is_too_narrow_gets_rows_of_several_lines(tmp_path: Path) -> None:
    lines = show_status.as_text(gather(mixed(tmp_path)), 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[6:11] == [
        "index  beta  run           state        step     eval/loss  best    time   node",
        "    GPU",
        "0      0.05  000000000000  COMPLETED    100/100  0.4500     0.4100  2 min  n1",
        "    0",
        "1      0.1   000000000001  FAILED       30/100   nan        0.7000  5 min  n1",
    ]


@pytest.mark.parametrize("width", [1, 4, 40])
def test_no_terminal_is_too_narrow(width: int, tmp_path: Path) -> None:
    lines = show_status.as_text(gather(mixed(tmp_path)), width).splitlines()
    assert width < 40 or max(map(len, lines)) <= 40
    assert lines[-1].split()[-1] == "it"


def test_a_long_reason_has_lines_of_its_own(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, BETAS[:2])
    reason = "RuntimeError: " + " ".join(["something is not as it has to be"] * 3)
    attempt(sweep, 1, "exception", reason)
    write_run(sweep.runs[1], State.FAILED, 3)
    lines = show_status.as_text(gather(sweep), 80).splitlines()
    place = lines.index("1 x failed (run 1)")
    words = " ".join(line.strip() for line in lines[place + 1 : lines.index("", place)])
    assert words == reason
    assert max(map(len, lines)) <= 80


def test_exit_codes_and_the_last_line_say_how_the_sweep_stands(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, BETAS[:3])
    status = gather(sweep)
    assert (status.exit_code, show_status.outcome(status)) == (1, "0 of 3 done, 3 waiting, nothing works on it")
    with held(write_run(sweep.runs[1], State.RUNNING, 10)):
        write_run(sweep.runs[0], State.COMPLETED, 100)
        status = gather(sweep)
        assert (status.exit_code, show_status.outcome(status)) == (3, "1 of 3 done, 1 running, 1 waiting")
        attempt(sweep, 2, "exception", "RuntimeError: no")
        write_run(sweep.runs[2], State.FAILED, 3)
        status = gather(sweep)
        assert (status.exit_code, show_status.outcome(status)) == (1, "1 of 3 done, 1 running, 1 failed")
    for run in sweep.runs:
        write_run(run, State.COMPLETED, 100)
    status = gather(sweep)
    assert (status.exit_code, show_status.outcome(status)) == (0, "all 3 runs are done")


def test_the_record_has_every_run_and_is_json(tmp_path: Path) -> None:
    status = gather(mixed(tmp_path))
    record = json.loads(json.dumps(show_status.as_record(status), allow_nan=False))
    assert record["sweep"] == "beta/1"
    assert record["n"] == 6
    assert record["counts"]["PENDING"] == 2
    assert [item["state"] for item in record["items"]] == [str(item.state) for item in status.runs]
    assert record["items"][0]["best"] == 0.41
    assert record["items"][1]["metric"] is None
    assert record["failures"][0]["indices"] == [1]


def test_it_says_the_same_as_the_driver_would_do(tmp_path: Path) -> None:
    sweep = mixed(tmp_path)
    for _ in range(3):
        attempt(sweep, 5, "killed")
    with held(write_run(sweep.runs[4], State.RUNNING, 10)):
        wanted, items = classify_runs(sweep), gather(sweep).runs
        assert {item.run: item.what for item in items} == wanted.items
        assert {item.run for item in items if item.what.is_due} == set(wanted.due)
        assert {item.run for item in items if item.state is State.COMPLETED} == set(wanted.done)
        assert {item.run for item in items if item.state is State.RUNNING} == set(wanted.locked)
        assert {item.run for item in items if item.state in (State.FAILED, State.CANCELLED)} == set(wanted.needs_retry)


def test_progress_is_what_a_restart_finds_not_how_far_a_failed_run_came(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [["seed=0"]])
    for state, step, saved in ((State.FAILED, 50, 40), (State.INTERRUPTED, 45, 45), (State.COMPLETED, 100, 45)):
        paths = write_run(sweep.runs[0], state, step)
        (paths.checkpoints / f"checkpoint-{saved}").mkdir(parents=True, exist_ok=True)
        assert saved_steps(sweep) == (step + 1 if state is State.COMPLETED else saved)
        assert gather(sweep).runs[0].step == (step if state is State.COMPLETED else saved)


def test_a_failure_that_retry_reset_will_start_again(tmp_path: Path) -> None:
    sweep = mixed(tmp_path)
    note_retry(sweep.attempts(sweep.runs[1]))
    item = gather(sweep).runs[1]
    assert (item.state, item.what.is_due) == (State.FAILED, True)
    assert item.run in classify_runs(sweep).due
    assert "FAILED, will start again" in show_status.as_text(gather(sweep), 120)


def test_a_silent_owner_is_stalled_and_a_dead_one_interrupted(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, BETAS)
    paths = write_run(sweep.runs[0], State.RUNNING, 10)
    with held(paths) as owner:
        assert gather(sweep).runs[0].state is State.RUNNING
        old = time.time() - STALLED_AFTER_S - 15
        os.utime(paths.claims / "0001.json", (old, old))
        item = gather(sweep).runs[0]
        assert item.state is State.STALLED
        assert item.silent_s == pytest.approx(75, abs=5)
        assert re.search(r"STALLED for 7\d s", show_status.as_text(gather(sweep), 120))
        owner.kill()
        owner.wait()
        assert gather(sweep).runs[0].state is State.INTERRUPTED


def test_a_lost_attempt_of_a_dead_process_counts_as_lost_with_its_slot(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, BETAS[:1])
    write_run(sweep.runs[0], State.RUNNING, 10)
    attempt(sweep, 0, None, owner=DEAD)
    assert gather(sweep).runs[0].cause == "slot_lost"


@pytest.mark.parametrize("size", [0, 1, 40, 120])
def test_a_truncated_state_is_a_note_and_the_rest_is_told(tmp_path: Path, size: int) -> None:
    sweep = mixed(tmp_path)
    file = sweep.runs[2].paths().state
    file.write_bytes(file.read_bytes()[:size])
    status = gather(sweep)
    assert (status.runs[2].state, status.runs[2].step) == (State.INTERRUPTED, 60)
    assert status.runs[2].what.is_due
    (note,) = status.notes
    assert str(file) in note
    assert f"note: run 2: {file}" in show_status.as_text(status, None)
    assert status.counts[State.COMPLETED] == 1
    (sweep.runs[2].paths().checkpoints / "checkpoint-60").rmdir()
    assert gather(sweep).runs[2].state is State.PENDING


def test_a_state_of_other_types_is_a_note(tmp_path: Path) -> None:
    sweep = mixed(tmp_path)
    write_run(sweep.runs[5], State.PENDING, step="many", total_steps=10)  # type: ignore[arg-type]
    assert str(sweep.runs[5].paths().state) in gather(sweep).notes[0]


def test_completed_without_a_result_is_not_done(tmp_path: Path) -> None:
    sweep = mixed(tmp_path)
    sweep.runs[0].paths().summary.unlink()
    status = gather(sweep)
    assert status.runs[0].state is State.INTERRUPTED
    assert "summary.json: is not there" in status.notes[0]


def test_torn_attempts_are_a_note(tmp_path: Path) -> None:
    sweep = mixed(tmp_path)
    sweep.attempts(sweep.runs[4]).write_text('{"start": "a0"}\n')
    status = gather(sweep)
    assert "4.jsonl" in status.notes[0]
    assert status.runs[4].state is State.PENDING


def test_all_done_only_if_every_run_is_completed(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, BETAS[:2])
    for run in sweep.runs:
        assert not gather(sweep).all_done
        write_run(run, State.COMPLETED, 100)
    status = gather(sweep)
    assert status.all_done
    assert show_status.advice(status) == []


def test_a_run_is_found_by_its_id_whatever_its_label(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, BETAS[:1])
    paths = write_run(sweep.runs[0], State.COMPLETED, 100)
    other = paths.root.with_name(f"another-label-{sweep.runs[0].run_id}")
    paths.root.rename(other)
    assert gather(sweep).runs[0].run_dir == str(other)
    assert gather(sweep).all_done


# -- speed and time ---------------------------------------------------------------------------------------------------


def test_eta_is_what_remains_over_the_speed_of_the_slots_at_work(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, BETAS[:4])
    assert gather(sweep).eta_s is None
    write_run(sweep.runs[0], State.COMPLETED, 100)
    assert gather(sweep).eta_s is None
    rows = [{"step": step, "time": 1.8e9 + step / 2, "loss": 1.0} for step in (10, 20, 40)]  # 2 steps a second
    both = [write_run(run, State.RUNNING, 40, rows=rows) for run in sweep.runs[1:3]]
    with held(both[0]), held(both[1]):
        status = gather(sweep)
    assert status.runs[1].progress.steps_per_s == pytest.approx(2)
    assert status.eta_s == pytest.approx((60 + 60 + 100) / 2 / 2)
    assert "55 s left" in show_status.as_text(status, 120)


def test_the_slowest_running_run_bounds_the_eta(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, BETAS[:2])
    fast, slow = (
        write_run(run, State.RUNNING, 50, rows=[{"step": s, "time": 1.8e9 + s / v} for s in (0, 50)])
        for run, v in zip(sweep.runs, (10, 0.5), strict=True)
    )
    with held(fast), held(slow):
        assert gather(sweep).eta_s == pytest.approx(100)


def test_speed_leaves_out_rows_of_earlier_attempts(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    rows = [{"step": 0, "time": 0.0}, {"step": 10, "time": 1000.0}, {"step": 20, "time": 1005.0}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_progress(file, Metric("loss", None), 900.0).steps_per_s == pytest.approx(2)
    assert read_progress(file, Metric("loss", None), 1004.0).steps_per_s is None


def test_latest_and_best_of_a_long_file_with_a_torn_end(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"step": step, "time": step, "loss": 1 / (step + 1)}) for step in range(2000)]
    rows[3] = json.dumps({"step": 3, "eval/loss": 0.25})
    rows[4] = json.dumps({"step": 4, "eval/loss": 0.5})
    file.write_text("\n".join(rows) + '\n{"step": 2000, "lo')
    assert file.stat().st_size > TAIL_BYTES
    assert read_progress(file, Metric("loss", None), None).latest == 1 / 2000
    found = read_progress(file, Metric("eval/loss", "minimize"), None)
    assert (found.latest, found.best) == (0.5, 0.25)
    assert read_progress(file, Metric("eval/loss", "maximize"), None).best == 0.5
    assert read_progress(file, Metric("absent", "maximize"), None).latest is None


def test_a_very_large_file_has_a_latest_value_but_no_best(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    with file.open("w") as stream:
        stream.truncate(BEST_LIMIT_BYTES)
        stream.seek(0, 2)
        stream.write('\n{"step": 1, "loss": 0.5}\n')
    found = read_progress(file, Metric("loss", "minimize"), None)
    assert (found.latest, found.best) == (0.5, None)


@pytest.mark.parametrize(
    ("metrics", "shown"), [({"loss": 0.25}, 0.25), ({"loss": None}, math.nan), ({}, 0.5), (None, 0.5)]
)
def test_the_last_value_of_a_complete_run_is_that_of_its_summary(
    tmp_path: Path, metrics: dict[str, float | None] | None, shown: float
) -> None:
    sweep = make_sweep(tmp_path, [["seed=0"]])
    paths = write_run(sweep.runs[0], State.COMPLETED, 100, rows=[{"step": 100, "loss": 0.5}])
    write_text(paths.summary, to_json({"step": 100, "metrics": metrics}))
    assert gather(sweep).runs[0].progress.latest == pytest.approx(shown, nan_ok=True)
    assert final_progress({"metrics": metrics}, Metric("loss", "minimize")) is None, (
        "the best is in metrics.jsonl alone"
    )


# -- failures ---------------------------------------------------------------------------------------------------------


def failing(folder: Path) -> Sweep:
    points = [[f"size={size}", f"lr={lr}", f"seed={seed}"] for size in (16, 64) for lr in (1, 2) for seed in (0, 1, 2)]
    sweep = make_sweep(folder, points)
    for run in sweep.runs:
        size, lr, seed = (text.partition("=")[2] for text in run.overrides)
        if size == "64":
            attempt(sweep, run.index, "out_of_gpu_memory", f"OutOfMemoryError: tried to allocate {run.index} GiB")
        elif lr == "2":
            attempt(sweep, run.index, "exception", f"RuntimeError: loss is NaN at step {7 * run.index}, see /x/{seed}")
        else:
            continue
        write_run(run, State.FAILED, 3)
    return sweep


def test_failures_are_grouped_by_cause_with_what_they_share(tmp_path: Path) -> None:
    lines = show_status.as_text(gather(failing(tmp_path)), 200).splitlines()
    assert "6 x GPU out of memory, all size=64" in lines
    assert "3 x RuntimeError: loss is NaN at step …, see …, all size=16 lr=2" in lines


def test_nothing_is_said_of_parameters_that_all_runs_have_or_the_group_does_not() -> None:
    overrides = {0: ["a=1", "b=1"], 1: ["a=1", "b=2"], 2: ["a=1", "b=3"]}
    failures = [Failure(index, State.FAILED, "exception", "ValueError: no") for index in (0, 1)]
    (group,) = grouped(failures, overrides)
    assert group.shared == {}
    assert group.message == "ValueError: no"
    assert group.indices == (0, 1)


def test_messages_differ_by_more_than_numbers_and_paths() -> None:
    assert normalised("step 30 of /a/b-1.pt: 1e-5") == normalised("step 4 of outputs/x=2/c.pt: 0.25")
    assert normalised("loss is NaN") != normalised("loss is inf")
    failures = [Failure(0, State.FAILED, "exception", "A: x"), Failure(1, State.FAILED, "exception", "B: x")]
    assert len(grouped(failures, {0: ["a=1"], 1: ["a=2"]})) == 2


@pytest.mark.parametrize("cause", sorted(CAUSES))
def test_every_cause_has_a_group(cause: str) -> None:
    (group,) = grouped([Failure(0, State.FAILED, cause, "")], {0: ["a=1"]})
    assert group.message == CAUSES[cause].message


# -- jobs and long sweeps ---------------------------------------------------------------------------------------------


def test_without_an_answer_of_slurm_the_files_speak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm there
    sweep = make_sweep(tmp_path, BETAS[:2], jobs=[Job("12", STARTED)], backend="disbatch")
    status = gather(sweep)
    assert status.notes[0].startswith("Slurm does not answer: ")
    assert status.notes[0].endswith("what follows is from files alone")
    assert status.alive is None
    assert "jobs: 12 state unknown" in show_status.as_text(status, 120)
    assert show_status.advice(status) == []
    assert gather(sweep, ask_slurm=False).notes == ()


def test_a_driver_that_holds_the_sweep_is_alive(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, BETAS[:2], jobs=[Job("local-1", STARTED), Job(f"local-{os.getpid()}", STARTED)])
    assert gather(sweep).alive is False
    with acquire(RunPaths(sweep.root)):
        status = gather(sweep)
        assert status.alive
        assert f"jobs: local-{os.getpid()} RUNNING" in show_status.as_text(status, 120)
        assert show_status.advice(status) == []


def test_a_driver_that_was_started_by_hand_is_a_job(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, BETAS[:2], jobs=[Job("local-1", STARTED)])
    with acquire(RunPaths(sweep.root)):
        assert f"jobs: local-{os.getpid()} RUNNING\n" in show_status.as_text(gather(sweep), 120)


def test_a_long_sweep_shows_what_is_not_completed_first(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [[f"seed={seed}"] for seed in range(230)])
    for run in sweep.runs[:225]:
        write_run(run, State.COMPLETED, 100)
    text = show_status.as_text(gather(sweep), 120)
    table = text.splitlines()[4:]
    assert table[1].split()[:2] == ["225", "225"]
    assert table[6].split()[:2] == ["0", "0"]
    assert "... and 30 more runs (30 COMPLETED); --json has all" in table
    assert len(show_status.as_record(gather(sweep))["items"]) == 230


# -- live -------------------------------------------------------------------------------------------------------------


def test_watch_on_a_file_writes_only_when_counts_change(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, BETAS[:2])
    paths = write_run(sweep.runs[1], State.RUNNING, 10)
    write_run(sweep.runs[0], State.COMPLETED, 100)
    out = io.StringIO()
    with held(paths):
        thread = threading.Thread(target=watch, args=(sweep, out, 0.02))
        thread.start()
        time.sleep(0.4)
        assert thread.is_alive()
        write_run(sweep.runs[1], State.COMPLETED, 100)
        thread.join(10)
    assert not thread.is_alive()
    lines, table = out.getvalue().split("\n\n", 1)
    assert lines.splitlines()[1:] == ["1 of 2 done, 1 running", "all 2 runs are done"]
    assert lines.startswith("sweep beta/1: 2 runs")
    assert "\n2 COMPLETED\n" in table


def test_watch_ends_when_nothing_runs_and_says_what_to_do(tmp_path: Path) -> None:
    sweep, out = mixed(tmp_path), io.StringIO()
    assert watch(sweep, out).exit_code == 1
    assert "no job is alive" in out.getvalue()


def test_watch_with_json_prints_one_document_and_the_rest_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(mixed(tmp_path).root), "--watch", "--json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["counts"]["FAILED"] == 1
    assert "no job is alive" in printed.err


WATCH = """
import sys
from pathlib import Path
from gpt_opt.cli.views.watch import watch
from gpt_opt.errors import exit_code
from gpt_opt.records.sweep_dir import Sweep
sys.exit(exit_code(lambda: watch(Sweep(Path(sys.argv[1])), sys.stdout, 0.05).exit_code))
"""


def test_watch_on_a_terminal_draws_bars_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, BETAS)
    write_run(sweep.runs[0], State.COMPLETED, 100)
    paths = write_run(sweep.runs[1], State.RUNNING, 40, rows=curve(0.5, key="loss"))
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (20, 90))
    deadline = time.monotonic() + 30
    with held(paths), start(WATCH, sweep, stdout=theirs, stderr=subprocess.PIPE, text=True) as process:
        os.close(theirs)
        text, sent = "", False
        while True:
            try:
                text += os.read(ours, 4096).decode(errors="replace")
            except OSError:  # the other end is closed
                break
            if not sent and (text.count("40/100") > 2 or time.monotonic() > deadline):
                process.send_signal(2)
                sent = True
        _, said = process.communicate(timeout=10)
        assert process.returncode == 130
        assert said == "stopped: beta/1 goes on: gptopt status beta/1 shows it, gptopt cancel beta/1 ends it\n"
    os.close(ours)
    text = re.sub(r"\x1b\[[\d;]*m", "", text)  # colours
    assert re.search(r"all .*23%", text)
    assert re.search(r"1 beta=0.1 .*40/100, .*loss=0.5", text)
    assert "\x1b[1A\x1b[2K" in text  # drawn over the lines before
    assert "0.1   000000000001  RUNNING" in text  # the table at the end


def test_a_job_that_ended_before_it_started_a_run_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep(tmp_path, BETAS[:1], backend="disbatch", jobs=[Job("12", STARTED), Job("14", STARTED)])
    (sweep.logs / "driver-14.out").write_text("loading\nslurm_script: line 17: exec: gptopt: not found\n")
    monkeypatch.setattr(slurm, "states", lambda jobs: {job: [slurm.JobState(job, "FAILED")] for job in jobs})
    said = "job 14 started no run and said at last: slurm_script: line 17: exec: gptopt: not found"
    assert gather(sweep).notes == (said,)
    sweep.submitit.mkdir()
    (sweep.logs / "driver-14.out").replace(sweep.submitit / "14_0_log.err")
    assert gather(sweep).notes == (said,)
    attempt(sweep, 0, "killed", session="14.0")
    assert gather(sweep).notes == ()
