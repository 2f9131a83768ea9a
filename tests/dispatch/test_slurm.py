"""What Slurm prints, as recorded on a real cluster (22.05), read into states; and the environment to submit from."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpt_opt.cli import main
from gpt_opt.dispatch import driver, slurm
from gpt_opt.dispatch.actions import cancel
from gpt_opt.dispatch.backends import local
from gpt_opt.dispatch.jobs import living_jobs
from gpt_opt.dispatch.reconcile import cause_of_end
from gpt_opt.dispatch.slurm import JobState, SlurmError, options_of, outside_job
from gpt_opt.dispatch.stages import classify_runs
from gpt_opt.dispatch.start import start_jobs
from gpt_opt.dispatch.sweep_status import gather
from gpt_opt.errors import GptOptError
from gpt_opt.records import stop_requests as control
from gpt_opt.records.attempts import CAUSES
from gpt_opt.records.claim import acquire
from gpt_opt.records.job_id import this_job
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.speeds import read_speeds
from gpt_opt.records.sweep_dir import Job, Sweep, Workload
from gpt_opt.run.signals import handled
from tests.dispatch.on_disk import DEAD, attempt, make_sweep

ACCOUNTED = """\
7_0|COMPLETED|n1
7_1|RUNNING|n1
7_2|REQUEUED|n1
7_3|CANCELLED by 0|None assigned
8|NODE_FAIL|n[1-2]
8|REQUEUED|n[1-2]
8|COMPLETED|n[3-4]
"""
QUEUED = """\
7_2|PENDING|BeginTime|
7_1|RUNNING|None|n1
9|PENDING|JobHeldUser|
11|RUNNING|None|n4
"""


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Answers of Slurm's commands by name; None for a command that fails."""
    answers: dict[str, str | None] = {"sacct": ACCOUNTED, "squeue": QUEUED}

    def run(command: Sequence[str], *_: object, timeout_s: float = 60) -> str:
        if (answer := answers[command[0]]) is None:
            raise SlurmError(f"{command[0]} failed: recorded")
        return answer

    monkeypatch.setattr(slurm, "run", run)
    return answers


def test_the_current_state_comes_last_after_those_of_earlier_starts(says: dict[str, str | None]) -> None:
    found = slurm.states(["7_0", "7_1", "7_2", "7_3", "8", "9"])
    assert {job: [state.state for state in starts] for job, starts in found.items()} == {
        "7_0": ["COMPLETED"],
        "7_1": ["RUNNING"],
        "7_2": ["REQUEUED", "PENDING"],
        "7_3": ["CANCELLED"],
        "8": ["NODE_FAIL", "REQUEUED", "COMPLETED"],
        "9": ["PENDING"],
    }
    assert found["7_2"][-1] == JobState("7_2", "PENDING", "BeginTime", "")
    assert found["7_1"][-1] == JobState("7_1", "RUNNING", "", "n1")
    assert found["7_3"][-1].node == ""


def test_a_job_whose_former_start_completes_waits_for_another(says: dict[str, str | None]) -> None:
    says["squeue"] = "8|COMPLETING|None|n1\n"
    for accounted in ("8|REQUEUED|n1\n", "8|REQUEUED|n1\n8|PENDING|None assigned\n"):  # the second a little later
        says["sacct"] = accounted
        assert [state.state for state in slurm.states(["8"])["8"]] == ["REQUEUED", "PENDING"]
    for ended in ("PREEMPTED", "NODE_FAIL"):  # Slurm mostly starts such a job again, and says so when it has completed
        says["sacct"] = f"8|{ended}|n1\n"
        assert [state.state for state in slurm.states(["8"])["8"]] == [ended, "PENDING"]
    says["sacct"] = "8|REQUEUED|n1\n8|RUNNING|n1\n"
    assert not slurm.states(["8"])["8"][-1].alive, "its second start is over"
    says["sacct"] = "8|CANCELLED by 0|n1\n"
    assert not slurm.states(["8"])["8"][-1].alive


def test_why_a_job_ended_is_not_guessed_before_accounting_knows(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [["seed=1"]], backend="disbatch")
    elsewhere = replace(DEAD, machine="another")
    lost = attempt(sweep, 0, None, session="8.0", owner=elsewhere)
    completing = JobState("8", "COMPLETING")
    assert cause_of_end(lost, {"8": [completing]}) is None
    assert cause_of_end(lost, {"8": [JobState("8", "CANCELLED"), completing]}) == "stopped"
    # Whoever drains waits for runs of its own slots alone: of a job that accounting does not know nobody sees the end.
    began, work = time.monotonic(), SimpleNamespace(session="9.0", wait=lambda _: False)
    driver._wait_for_runs(sweep, classify_runs(sweep).due, work)  # type: ignore[arg-type]
    assert time.monotonic() - began < 5


def test_what_accounting_calls_running_but_the_queue_does_not_know_is_not_alive(says: dict[str, str | None]) -> None:
    says["squeue"] = ""
    assert slurm.states(["7_1"])["7_1"] == [JobState("7_1", "UNKNOWN", "", "n1")]


def test_jobs_of_others_and_unknown_ones_are_left_out(says: dict[str, str | None]) -> None:
    assert "11" not in slurm.states(["9"])
    assert slurm.states(["local-77"]) == {}


def test_without_accounting_the_queue_has_to_do(says: dict[str, str | None]) -> None:
    says["sacct"] = None
    assert {job: starts[-1].state for job, starts in slurm.states(["7_1", "8", "9"]).items()} == {
        "7_1": "RUNNING",
        "7_2": "PENDING",
        "9": "PENDING",
    }


def test_a_slurm_that_does_not_answer_is_an_error(says: dict[str, str | None]) -> None:
    says["squeue"] = None
    with pytest.raises(SlurmError, match="squeue failed"):
        slurm.states(["9"])


def test_a_command_that_was_killed_is_told_and_a_requeue_may_end_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scontrol := tmp_path / "scontrol").write_text("#!/bin/sh\nkill -TERM $$\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert slurm.problem() == "scontrol was ended by SIGTERM"
    slurm.requeue("12")


def test_a_new_job_does_not_answer_for_nodes_of_one_before(says: dict[str, str | None], tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [["seed=1"]], backend="disbatch", jobs=[Job("8", "2026")])
    sweep.lost_nodes.write_text('{"n2": "not mounted"}')
    says["sbatch"] = "13"
    assert [job.id for job in start_jobs(sweep).started] == ["13"]
    assert not gather(sweep).notes


def test_a_job_is_recorded_although_ctrl_c_comes_as_slurm_takes_it(
    says: dict[str, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep(tmp_path, [["seed=1"]], backend="disbatch")

    monkeypatch.setattr(slurm, "sbatch", lambda *_: subprocess.check_output(sbatch, text=True).strip())
    sbatch = ["bash", "-c", "kill -INT $PPID $$; exit 1"]  # not sh, which clears the mask
    with (
        handled([signal.SIGINT], signal.default_int_handler),
        pytest.raises(KeyboardInterrupt, match="no job was submitted"),
    ):
        start_jobs(sweep)
    sbatch[-1] = "kill -INT $PPID $$; echo 13"
    told = re.escape("13 goes on: gptopt status beta/1 shows it, gptopt cancel beta/1 ends it")
    with handled([signal.SIGINT], signal.default_int_handler), pytest.raises(KeyboardInterrupt, match=told):
        start_jobs(sweep)
    assert [job.id for job in sweep.submission().jobs] == ["13"]


def test_a_driver_is_recorded_although_ctrl_c_comes_before_it_has_claimed_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep(tmp_path, [["seed=1"]])

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    (driver := tmp_path / "gptopt").write_text("#!/bin/sh\nsleep 60 &\nwait\n")
    driver.chmod(0o755)
    monkeypatch.setattr(local, "program", lambda _: str(driver))
    monkeypatch.setattr(local.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt, match="goes on: gptopt status beta/1 shows it"):
        start_jobs(sweep)
    (job,) = sweep.submission().jobs
    assert gather(sweep).jobs[0].alive
    assert living_jobs(sweep) == [job]
    os.killpg(int(job.id.removeprefix("local-")), signal.SIGKILL)


@pytest.mark.parametrize(
    ("state", "alive", "cause"),
    [
        ("PENDING", True, None),
        ("RUNNING", True, None),
        ("COMPLETING", False, None),
        ("UNKNOWN", False, None),
        ("SUSPENDED", True, None),
        ("COMPLETED", False, None),
        ("FAILED", False, None),
        ("NODE_FAIL", False, "node_failure"),
        ("REQUEUED", False, "requeued"),
        ("TIMEOUT", False, "time_limit"),
        ("OUT_OF_MEMORY", False, "out_of_memory"),
        ("PREEMPTED", False, "preempted"),
        ("CANCELLED", False, "stopped"),
    ],
)
def test_a_state_says_whether_the_job_lives_and_why_it_ended(state: str, alive: bool, cause: str | None) -> None:
    found = JobState("1", state)
    assert (found.alive, found.cause) == (alive, cause)
    assert cause is None or cause in CAUSES


def test_jobs_are_found_by_their_whole_comment(says: dict[str, str | None]) -> None:
    says["squeue"] = "6|/my work/a|b\n7_[2-4%2]|/my work/a\n8|/my work/a \n9|(null)\n"
    assert slurm.jobs_with_comment("/my work/a|b") == {"6": ""}
    assert slurm.jobs_with_comment("/my work/a") == {"7_[2-4%2]": "", "8": ""}
    says["squeue"] = "6|/my work/a:shape-1\n7|/my work/a1\n8|/x/my work/a\n"
    assert slurm.jobs_with_comment("/my work/a") == {"6": "shape-1"}


def test_the_largest_array(says: dict[str, str | None]) -> None:
    says["scontrol"] = "MaxArraySize            = 31\nMaxBatchRequeue         = 5\n"
    assert slurm.max_array_size() == 31
    says["scontrol"] = ""
    assert slurm.max_array_size() == 1001


def test_nothing_of_a_surrounding_job_goes_into_a_new_one() -> None:
    inside = {
        "SLURM_JOB_ID": "1",
        "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
        "SLURMD_NODENAME": "n1",
        "SRUN_DEBUG": "3",
        "PMI_RANK": "0",
        "PMIX_RANK": "0",
        "DISBATCH_TASKID": "4",
        "CUDA_VISIBLE_DEVICES": "1",
        "GPU_DEVICE_ORDINAL": "1",
    }
    kept = {"HOME": "/h", "PATH": "/bin", "SLURM_CONF": "/c", "HF_HOME": "/cache"}
    assert outside_job(inside | kept) == kept


def test_outside_a_job_the_users_choice_of_gpus_stays() -> None:
    assert outside_job({"CUDA_VISIBLE_DEVICES": "1"}) == {"CUDA_VISIBLE_DEVICES": "1"}


def test_variables_that_would_beat_what_was_asked_for_are_dropped() -> None:
    said = {"SBATCH_TIMELIMIT": "1", "SBATCH_PARTITION": "old", "SBATCH_CPUS_PER_TASK": "9", "SBATCH_ACCOUNT": "mine"}
    options = ["--time=240", "--partition=gpu", "--cpus-per-task=4", "--requeue"]
    assert outside_job(said, options) == {"SBATCH_ACCOUNT": "mine"}
    script = "#!/bin/bash\n\n#SBATCH --time=240\n#SBATCH --partition=gpu\necho '#SBATCH'\n"
    assert options_of(script) == ["--time=240", "--partition=gpu"]


NO_CLUSTER = """\
scontrol: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host
scontrol: error: fetch_config: DNS SRV lookup failed
scontrol: error: _establish_config_source: failed to fetch config
scontrol: fatal: Could not establish a configuration source
"""
NO_CONTROLLER = """\
Slurmctld(primary) at vm is DOWN
*****************************************
** RESTORE SLURMCTLD DAEMON TO SERVICE **
*****************************************
"""
NO_MUNGE = """\
scontrol: error: If munged is up, restart with --num-threads=10
scontrol: error: Munge encode failed: Failed to access "/run/munge/munge.socket.2": No such file or directory
scontrol: error: slurm_send_node_msg: auth_g_create: REQUEST_PING has authentication error
"""
REFUSED = """\
sbatch: error: invalid partition specified: nope
sbatch: error: Batch job submission failed: Invalid partition name specified
"""


def command(folder: Path, name: str, out: str = "", error: str = "", first: str = "", code: int = 1) -> None:
    """Makes a command that answers what was recorded of Slurm's."""
    (folder / "out").write_text(out)
    (folder / "error").write_text(error)
    (folder / name).write_text(f"#!/bin/bash\n{first}\ncat {folder}/out; cat {folder}/error >&2; exit {code}\n")
    (folder / name).chmod(0o700)


@pytest.mark.parametrize(
    ("out", "error", "says"),
    [
        ("", NO_CLUSTER, "Could not establish a configuration source"),
        (NO_CONTROLLER, "", "Slurmctld(primary) at vm is DOWN"),
        (
            NO_CONTROLLER,
            NO_MUNGE,
            'Munge encode failed: Failed to access "/run/munge/munge.socket.2": No such file or directory',
        ),
        (
            "",
            REFUSED,
            "invalid partition specified: nope; Batch job submission failed: Invalid partition name specified",
        ),
    ],
)
def test_what_slurm_says_is_told_in_one_line(
    out: str, error: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(tmp_path, "scontrol", out, error)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert slurm.problem() == f"scontrol failed: {says}"


def test_a_slurm_that_is_silent_is_not_waited_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = "cannot stat file /none: No such file or directory, retrying in 1sec up to 60sec"
    command(tmp_path, "scontrol", first=f"echo 'scontrol: error: {waits}' >&2; exec sleep 60")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(SlurmError, match=f"scontrol did not answer within 1 s: {waits}"):
        slurm.run(["scontrol", "ping"], timeout_s=1)


@pytest.mark.parametrize("flags", [[], ["--backend", "submitit"], ["--dry-run"]])
def test_a_slurm_without_a_cluster_is_told_before_anything_is_written(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sbatch", "scontrol"):
        command(tmp_path, name, error=NO_CLUSTER)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.json").write_text('{"loss.beta": 0.1}')
    assert main(["submit", "grid.json", *flags]) == 2
    assert "Slurm, which is installed, does not work here: scontrol failed: Could not" in (
        said := capsys.readouterr().err
    )
    assert "run the sweep on this machine: gptopt submit grid.json --backend local" in said
    assert not (tmp_path / "sweeps").exists()


@pytest.mark.parametrize("given", ["1", "0,3", None])
def test_a_local_driver_in_an_allocation_uses_its_gpus_alone(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    environment = local._of_this_machine()
    assert environment["CUDA_VISIBLE_DEVICES"] == (given or "")
    assert "SLURM_JOB_ID" not in environment


def test_a_local_driver_does_not_wait_for_a_slurm_that_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = make_sweep(tmp_path, [["seed=1"]], backend="disbatch", jobs=[Job("12", "2026")])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match="squeue must be on the path"):
        living_jobs(sweep)
    assert living_jobs(sweep, "local") == []
    assert "what its Slurm jobs do is not known: squeue must be on the path" in caplog.text
    with pytest.raises(GptOptError, match="waiting jobs cannot be withdrawn now: squeue must be"):
        cancel(sweep, sweep.runs)
    assert control.read(sweep.control).cancelled, "what runs is stopped all the same"


def test_an_allocation_does_not_go_by_without_a_start(
    says: dict[str, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reached(Exception):
        """A round begins."""

    def begin(*_: object) -> None:
        raise Reached

    says["squeue"] = "1:00"  # less than the time of Slurm's warning
    sweep = make_sweep(tmp_path, [["seed=1"]], backend="disbatch")
    sweep.write_plan([replace(run, workload=Workload("aaaa", 100, 40, step_s=9.0)) for run in sweep.runs])
    sweep = Sweep(sweep.root).part(0)
    monkeypatch.setattr(driver, "Round", begin)
    with acquire(RunPaths(tmp_path)) as claim:
        with pytest.raises(Reached):
            driver._rounds(sweep, 1, True, driver._Stop(), claim)
        attempt(sweep, 0, "killed", session=this_job())
        assert driver._rounds(sweep, 1, True, driver._Stop(), claim), "what is begun now would get nowhere"
    assert read_speeds(sweep.speeds).left == (0,)
