"""Output of runs and drivers: printed whole, followed to the end of what writes it."""

from __future__ import annotations

import io
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_opt.cli.views import logs
from gpt_opt.errors import GptOptError
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import State
from gpt_opt.records.sweep_dir import Job, Sweep
from tests.dispatch.on_disk import held, make_sweep, start, write_run


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return make_sweep(tmp_path, [["seed=0"], ["seed=1"]])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_output_and_errors_of_a_run_under_their_names(sweep: Sweep) -> None:
    (sweep.logs / "1.out").write_text("step=1\nstep=2\n")
    (sweep.logs / "1.err").write_bytes(b"caf\xc3\xa9 \xff\n")
    (sweep.logs / "0.out").write_text("another run\n")
    out = io.StringIO()
    logs.show(sweep, sweep.runs[1], False, out)
    wanted = f"==> {sweep.logs}/1.out <==\nstep=1\nstep=2\n\n==> {sweep.logs}/1.err <==\ncaf\xe9 \ufffd\n"
    assert out.getvalue() == wanted


def test_a_run_without_output_in_the_sweep_shows_its_own_log(sweep: Sweep) -> None:
    paths = write_run(sweep.runs[0], State.COMPLETED, 100)
    paths.task_log.write_text("trained\n")
    (sweep.logs / "0.out").touch()
    out = io.StringIO()
    logs.show(sweep, sweep.runs[0], False, out)
    assert out.getvalue() == f"==> {paths.task_log} <==\ntrained\n"


def test_without_a_run_the_drivers_speak(sweep: Sweep) -> None:
    (sweep.logs / "driver-12.out").write_text("first\n")
    (sweep.logs / "driver-13.out").write_text("second\n")
    (sweep.logs / "0.out").write_text("a run\n")
    out = io.StringIO()
    logs.show(sweep, None, False, out)
    assert [line for line in out.getvalue().splitlines() if line] == [
        f"==> {sweep.logs}/driver-12.out <==",
        "first",
        f"==> {sweep.logs}/driver-13.out <==",
        "second",
    ]


def test_nothing_to_show_is_an_error_that_says_where_to_look(sweep: Sweep) -> None:
    for run in (None, sweep.runs[0]):
        with pytest.raises(GptOptError, match="gptopt status beta/1"):
            logs.show(sweep, run, False, io.StringIO())


def test_following_a_run_ends_when_the_run_ends(sweep: Sweep) -> None:
    run, out = sweep.runs[0], io.StringIO()
    file = sweep.logs / "0.out"
    thread = threading.Thread(target=logs.show, args=(sweep, run, True, out))
    with held(RunPaths(sweep.root)), file.open("a", buffering=1) as stream:
        thread.start()  # the run is PENDING, and a driver will start it: it is waited for
        with held(write_run(run, State.RUNNING, 1)):
            stream.write("step=1\n")
            until(lambda: "step=1" in out.getvalue())
            stream.write("step=2\n")
            until(lambda: "step=2" in out.getvalue())
            assert thread.is_alive()
            stream.write("the last line\n")
            write_run(run, State.COMPLETED, 2)
        thread.join(20)
    assert not thread.is_alive()
    assert out.getvalue() == f"==> {file} <==\nstep=1\nstep=2\nthe last line\n"


def test_following_goes_on_over_an_interruption_while_a_driver_holds_the_sweep(sweep: Sweep) -> None:
    run, out = sweep.runs[0], io.StringIO()
    write_run(run, State.INTERRUPTED, 1)
    (sweep.logs / "0.out").write_text("stopped\n")
    with held(RunPaths(sweep.root)) as driver:
        thread = threading.Thread(target=logs.show, args=(sweep, run, True, out))
        thread.start()
        until(lambda: "stopped" in out.getvalue())
        thread.join(3 * logs.POLL_S)
        assert thread.is_alive()
        driver.kill()
        driver.wait()
        thread.join(20)
    assert not thread.is_alive()


def test_the_log_of_a_driver_whose_job_waits_is_waited_for_and_slurm_is_not_asked_in_every_round(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def jobs(_: Sweep) -> list[Job]:
        time.sleep(0.1)
        asked.append(time.monotonic())
        if len(asked) == 2:
            (sweep.logs / "driver-12.out").write_text("at work\n")
        return [Job("12", "2026")] * (len(asked) < 2)

    monkeypatch.setattr(logs, "living_jobs", jobs)
    logs.show(sweep, None, True, out := io.StringIO())
    assert out.getvalue().endswith("at work\n")
    assert asked[1] - asked[0] > 1.9


def test_a_file_that_is_begun_anew_is_shown_anew(sweep: Sweep) -> None:
    run, out = sweep.runs[0], io.StringIO()
    file = sweep.logs / "0.out"
    file.write_text("a long first line\n")
    with held(write_run(run, State.RUNNING, 1)):
        thread = threading.Thread(target=logs.show, args=(sweep, run, True, out))
        thread.start()
        until(lambda: "first" in out.getvalue())
        file.write_text("anew\n")
        until(lambda: "anew" in out.getvalue())
        write_run(run, State.FAILED, 2)
        thread.join(20)
    assert not thread.is_alive()


FOLLOW = """
import sys
from pathlib import Path
from gpt_opt.cli.views.logs import show
from gpt_opt.errors import exit_code
from gpt_opt.records.sweep_dir import Job, Sweep
sweep = Sweep(Path(sys.argv[1]))
sys.exit(exit_code(lambda: show(sweep, sweep.runs[0], True, sys.stdout)))
"""


def test_ctrl_c_ends_following_without_a_traceback(sweep: Sweep) -> None:
    (sweep.logs / "0.out").write_text("hello\n")
    with (
        held(write_run(sweep.runs[0], State.RUNNING, 1)),
        start(FOLLOW, sweep, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline().startswith("==> ")
        assert process.stdout.readline() == "hello\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, "stopped\n")
