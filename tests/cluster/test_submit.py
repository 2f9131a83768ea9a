"""The ways to submit, on a real Slurm: submit.sh, arrays and limits of submitit, dry runs, resources, cancel."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gpt_opt.records.state import State, read_state
from tests.cluster.bench import Bench
from tests.cluster.cluster import ROOT
from tests.cluster.config import MAX_ARRAY_SIZE, TINY_QOS_MAX_SUBMIT

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SCRIPT = ROOT / "slurm_scripts" / "submit.sh"
SUBMITIT = ("--backend", "submitit", "--time-min", "10")


def finish(bench: Bench, steps: int) -> None:
    bench.wait_until_done()
    bench.wait_until_idle()
    bench.verify(steps)
    assert set(bench.starts()) == {1}


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def submitted(bench: Bench) -> bool:
    return (bench.folder / "sweeps" / "sweep" / "1" / "tasks").exists()


# -- submitit ---------------------------------------------------------------------------------------------------------


def test_an_array_is_recorded_or_withdrawn_whatever_becomes_of_sbatch(bench: Bench) -> None:
    bench.write([40, 41], steps=2)
    (bin_dir := bench.folder / "bin").mkdir()
    (sbatch := bin_dir / "sbatch").touch(0o755)
    submit = ["env", "--default-signal=INT", f"PATH={bin_dir}:{bench.env['PATH']}", "gptopt", "submit", "sweep.json"]
    real = shutil.which("sbatch")
    sbatch.write_text(f"#!/bin/sh\n{real} \"$@\"; echo 'sbatch: error: Socket timed out' >&2; exit 1\n")
    assert "Socket timed out" in bench.call(*submit, *SUBMITIT, "--sbatch=--hold", expect=1)
    bench.wait_until_idle()
    assert not list((bench.folder / "sweeps" / "sweep" / "1" / "submitit").glob("*"))
    sbatch.write_text(f'#!/bin/bash\nkill -INT $PPID $$; exec {real} "$@"\n')
    stopped = bench.call(*submit, *SUBMITIT, "--sbatch=--hold", expect=130)
    (array,) = {job.partition("_")[0] for job in bench.jobs()}
    assert f"stopped: {array} goes on" in stopped
    assert len(list(bench.sweep().submitit.glob(f"{array}_*_submitted.pkl"))) == 2
    bench.gptopt("cancel", "sweep", "--yes")
    bench.wait_until_idle()


def test_arrays_are_split_and_cancel_withdraws_what_waits(bench: Bench) -> None:
    bench.write(range(40, 80), steps=2)
    stale = ["env", "SBATCH_TIMELIMIT=3", "SBATCH_PARTITION=absent"]
    told = bench.call(*stale, "gptopt", "submit", "sweep.json", *SUBMITIT, "--partition=gpu", "--sbatch=--hold")
    jobs = bench.sweep().submission().jobs
    assert [job.runs for job in jobs] == [(index,) for index in range(40)]
    arrays = [job.id.partition("_")[0] for job in jobs]
    first, last = dict.fromkeys(arrays)
    assert [arrays.count(first), arrays.count(last)] == [MAX_ARRAY_SIZE, 40 - MAX_ARRAY_SIZE]
    assert f"submitted job {first}, {last}" in told
    assert bench.cluster is not None
    shown = bench.cluster.run("scontrol", "show", "job", first)
    assert "TimeLimit=00:10:00" in shown, "what was asked for beats SBATCH_*"
    again = bench.gptopt("submit", "sweep.json", *SUBMITIT, "--sbatch=--hold")
    assert f"submitted already: job {first}, {last}" in again
    assert bench.sweep().submission().jobs == jobs
    bench.gptopt("cancel", "sweep", "--yes")
    bench.wait_until_idle()
    assert "40 CANCELLED" in bench.gptopt("status", "sweep", expect=1)
    assert set(bench.starts()) == {0}


def test_a_limit_on_submitted_jobs_takes_what_fits_and_the_rest_later(bench: Bench) -> None:
    bench.write(range(70, 75), steps=8)
    command = ("submit", "sweep.json", *SUBMITIT, "--qos", "tiny")
    told = bench.gptopt(*command, expect=1)
    assert f"Slurm took {TINY_QOS_MAX_SUBMIT} of 5 jobs and then refused" in told
    assert "the same command submits the rest once there is room" in told
    assert [job.runs for job in bench.sweep().submission().jobs] == [(0,), (1,), (2,)]
    bench.wait("three done", lambda: len(bench.results()) == TINY_QOS_MAX_SUBMIT)
    bench.wait_until_idle()
    bench.gptopt(*command)
    assert [job.runs for job in bench.sweep().submission().jobs[3:]] == [(3,), (4,)]
    finish(bench, 8)
    assert "nothing to submit" in bench.gptopt(*command)


@pytest.mark.slow(80)
def test_the_time_limit_of_a_submitit_job_of_two_processes(bench: Bench) -> None:
    steps = 20
    bench.write([70], steps=steps, pause_s=0.1)
    # Slurm warns up to half a minute early: 30 to 60 s after the start here. Until then the run does not get on, so
    # that it has work left however fast it is.
    with bench.held():
        limit = ["--backend", "submitit", "--time-min", "2", "--sbatch=--signal=USR2@60"]
        bench.submit(*limit, "--gpus-per-run", "2")
        logs = bench.sweep().logs
        bench.wait("a warning", lambda: any("writing a checkpoint" in file.read_text() for file in logs.iterdir()))
    bench.wait_until_done(timeout_s=420)
    bench.wait_until_idle()
    bench.verify(steps)
    causes = [item.cause for item in bench.history(0).attempts]
    assert causes[-1] == "completed"
    assert set(causes[:-1]) == {"stopped"}, "every earlier attempt was asked to checkpoint, none was cut off"
    (job,) = bench.jobs()
    sessions = [item.session for item in bench.history(0).attempts]
    assert sessions == [f"{job}.{restart}" for restart in range(len(causes))]
    assert bench.cluster is not None
    assert bench.cluster.wait_job(job) == "COMPLETED"


def test_folders_with_odd_names(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOPT_CACHE", str(bench.folder / "cache"))
    ways = {
        "disbatch": ["gptopt", "submit", "sweep.json", "--slots", "1"],
        "submitit": ["gptopt", "submit", "sweep.json", *SUBMITIT, "--sbatch=--job-name=two words"],
        "script": [str(SCRIPT), "-n", "1", "sweep.json"],
    }
    places = []
    for name, command in ways.items():
        (folder := bench.folder / f"my {name} [ü] 50%").mkdir()
        places.append(place := Bench(folder, bench.cluster, bench.forks))
        place.write([70], steps=8)
        place.call(*command)
    for place in places:
        place.wait("a sweep", lambda place=place: submitted(place))  # type: ignore[misc]
        finish(place, 8)
    assert list(places[-1].folder.glob("gptopt-*.out"))


# -- submit.sh --------------------------------------------------------------------------------------------------------


def test_the_script_submits_itself_and_takes_options(bench: Bench) -> None:
    bench.write([70, 71], steps=8)
    told = bench.call(str(SCRIPT), "-n", "2", "-t", "10", "--job-name", "mine", "sweep.json", "seed=5")
    job = told.split()[-1]
    assert bench.cluster is not None
    assert "JobName=mine" in (shown := bench.cluster.run("scontrol", "show", "job", job))
    assert "NumTasks=2" in shown
    assert "TimeLimit=00:10:00" in shown
    bench.wait("sweep directory", lambda: submitted(bench))
    finish(bench, 8)
    assert all("seed=5" in run.overrides for run in bench.sweep().runs)
    assert bench.jobs() == [job]
    assert bench.cluster.wait_job(job) == "COMPLETED"


def test_the_script_finds_the_repository_by_what_slurm_knows_of_the_job(bench: Bench) -> None:
    """From another directory, by a relative path, with nothing in the environment."""
    bench.write([70], steps=8)
    script = os.path.relpath(SCRIPT, bench.folder)
    told = bench.call("sbatch", "-n", "1", "--export=PATH,PYTHONPATH,SLURM_CONF,TMPDIR", script, "sweep.json")
    bench.wait("sweep directory", lambda: submitted(bench))
    finish(bench, 8)
    assert bench.jobs() == [told.split()[-1]]


def test_the_script_fails_clearly(bench: Bench) -> None:
    told = bench.call(str(SCRIPT), "absent.json", expect=2)
    assert "absent.json" in told
    assert "but nothing does; the form is" in bench.call(str(SCRIPT), "-n", "2", expect=2)
    bench.write([70], steps=8)
    told = bench.call("sbatch", "--wait", "-o", "job.out", str(SCRIPT), "-n", "1", "sweep.json", expect=2)
    assert "go before submit.sh" in (bench.folder / "job.out").read_text()
    assert not (bench.folder / "sweeps").exists()
    (bench.folder / "break-70").touch()
    bench.call("sbatch", "--wait", "-n", "1", "-o", "failed.out", str(SCRIPT), "sweep.json", expect=1)
    assert "broken on purpose" in (bench.sweep().logs / "0.err").read_text()
    assert "raised an exception" in (bench.folder / "failed.out").read_text()


def test_the_script_runs_on_this_machine_where_there_is_no_slurm(bench: Bench) -> None:
    bench.write([70, 71], steps=8)
    commands = bench.folder / "bin"
    commands.mkdir()
    for name in ("bash", "sh", "dirname", "readlink", "env", "uname", "hostname", "git", "cat", "sed", "ssh"):
        if (found := shutil.which(name)) is not None:
            (commands / name).symlink_to(found)
    environment = bench.env | {"PATH": str(commands)}
    done = subprocess.run(
        [str(SCRIPT), "-n", "2", "sweep.json"],
        cwd=bench.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 2 runs are COMPLETED" in done.stdout
    assert set(bench.starts()) == {1}
    assert bench.sweep().needs().slots == 2
    assert read_state(bench.sweep().runs[0].paths()).slurm is None


# -- gptopt submit ----------------------------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing_and_prints_what_would_be_submitted(bench: Bench) -> None:
    bench.write([70, 71], steps=8, resources={"cpus_per_run": 1, "mem_gb": 0.5, "time_min": 30})
    before = files(bench.folder)
    more = ["resources.mem_gb=0.75", "resources.time_min=20", "--time-min", "10"]
    shown = bench.gptopt("submit", "sweep.json", *more, "--slots", "2", "--dry-run")
    assert files(bench.folder) == before
    assert bench.cluster is not None
    assert not bench.cluster.run("squeue", "-h").strip()
    bench.gptopt("submit", "sweep.json", *more, "--slots", "2")
    sweep, (job,) = bench.sweep(), bench.jobs()
    assert shown == f"{sweep.submission().script}\n# {sweep.tasks}\n{sweep.tasks.read_text()}"
    said = bench.cluster.run("scontrol", "show", "job", job)
    assert "TimeLimit=00:10:00" in said, "a flag beats the group and the file"
    assert "MinMemoryCPU=768M" in said, "the group beats the file"
    assert "CPUs/Task=1" in said
    assert "TresPerTask=gres:gpu:1" in said
    finish(bench, 8)


def test_wait_ends_with_0_only_if_all_is_completed(bench: Bench) -> None:
    bench.write([70, 71], steps=8)
    (bench.folder / "break-71").touch()
    told = bench.gptopt("submit", "sweep.json", "--slots", "2", "--wait", expect=1)
    assert "1 of 2 done, 1 failed" in told
    bench.wait_until_idle()
    (bench.folder / "break-71").unlink()
    bench.gptopt("retry", "sweep")
    bench.gptopt("submit", "sweep.json", "--slots", "2", "--wait")
    bench.wait_until_idle()
    bench.verify(steps=8)
    assert bench.starts() == [1, 2]


@pytest.mark.slow(60)
def test_cancel_checkpoints_what_runs_and_nothing_starts_it_again(bench: Bench) -> None:
    bench.write([70, 71], steps=60, pause_s=0.3)
    bench.submit("--slots", "1")
    bench.wait_for_step(0)
    bench.gptopt("cancel", "sweep", expect=1)
    bench.gptopt("cancel", "sweep", "--yes")
    bench.wait_until_idle()
    stopped = read_state(bench.sweep().runs[0].paths())
    assert stopped.state is State.INTERRUPTED
    assert (bench.sweep().runs[0].paths().checkpoints / f"checkpoint-{stopped.step}").is_dir()
    assert bench.starts() == [1, 0]
    assert "2 CANCELLED" in bench.gptopt("status", "sweep", expect=1)
    assert "nothing to cancel" in bench.gptopt("cancel", "sweep", "--yes")
    assert "not started again" in bench.gptopt("submit", "sweep.json", "--slots", "1")
    assert bench.starts() == [1, 0]
    bench.gptopt("retry", "sweep", "--state", "CANCELLED")
    bench.wait_until_done()
    bench.wait_until_idle()
    bench.verify(steps=60)
    assert bench.starts() == [2, 1]


def test_cancel_withdraws_a_job_that_waits(bench: Bench) -> None:
    bench.write([70, 71], steps=8)
    bench.submit("--slots", "1", "--sbatch=--hold")
    (job,) = bench.jobs()
    bench.gptopt("cancel", "sweep", "1", "--yes")
    assert bench.cluster is not None
    assert bench.cluster.job_states(job) == {job: "PENDING"}, "the other run still needs it"
    bench.gptopt("cancel", "sweep", "0", "--yes")
    bench.wait_until_idle()
    assert bench.cluster.wait_job(job) == "CANCELLED"
    assert "2 CANCELLED" in bench.gptopt("status", "sweep", expect=1)
