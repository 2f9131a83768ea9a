"""The spelling of a Slurm job: parsed, printed, taken from the environment, and as earlier versions wrote it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gpt_opt.records.attempts import Attempt, note_start, read_history
from gpt_opt.records.claim import acquire, read_claim
from gpt_opt.records.job_id import JobId, this_job
from gpt_opt.records.process import this_process
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import RunState


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("text", "array", "job", "restart"),
    [
        ("12", "12", "12", None),
        ("12.0", "12", "12", 0),
        ("12_3", "12", "12_3", None),
        ("12_3.11", "12", "12_3", 11),
        ("12_[4-7%2]", "12", "12_[4-7%2]", None),  # how squeue names the tasks that wait
    ],
)
def test_a_slurm_id_has_its_parts(text: str, array: str, job: str, restart: int | None) -> None:
    found = JobId(text)
    assert found.is_slurm
    assert (found.array, found.job, found.restart) == (array, job, restart)
    assert f"{found}" == text == json.loads(json.dumps(found))


@pytest.mark.parametrize("text", ["local-815", "", "12+1", "by hand", "12.batch", "12_3.1 "])
def test_any_other_text_names_no_slurm_job_and_is_kept(text: str) -> None:
    found = JobId(text)
    assert not found.is_slurm
    assert (found.array, found.job, found.restart) == (text, text, None)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_JOB_ID": "12"}, "12.0"),
        ({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "2"}, "12.2"),
        ({"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}, "12_3.0"),
        ({"SLURM_CLUSTER_NAME": "c"}, "local-PID"),  # a login node
        ({}, "local-PID"),
    ],
)
def test_a_process_knows_the_start_of_the_job_it_is_in(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert this_job() == expected.replace("PID", str(os.getpid()))


def test_a_state_names_the_start_it_was_written_in() -> None:
    ids = {"slurm_job_id": "15", "slurm_array_job_id": "12", "slurm_array_task_id": "0", "slurm_restart_count": "1"}
    assert RunState("x", slurm=ids).job == "12_0.1"
    assert RunState("x").job is None


@pytest.mark.parametrize(("session", "job"), [("12.0", "12"), ("12_3.1", "12_3"), ("local-5", None), (None, None)])
def test_an_attempt_knows_its_job(tmp_path: Path, session: str | None, job: str | None) -> None:
    file = tmp_path / "attempts" / "0.jsonl"
    note_start(file, Attempt("a", "2026-01-01T10:00:00.000+00:00", session, this_process(), "n1"))
    (found,) = read_history(file).attempts
    assert found.session == session
    assert (found.job.job if found.job is not None else None) == job


def restarted(monkeypatch: pytest.MonkeyPatch, count: int, **ids: str) -> None:
    for name, value in {"SLURM_JOB_ID": "15", "SLURM_RESTART_COUNT": str(count), **ids}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("ids", [{}, {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}])
def test_a_later_start_of_a_job_takes_over_from_the_first(
    tmp_path: Path, ids: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = RunPaths(tmp_path)
    restarted(monkeypatch, 0, **ids)
    acquire(paths)
    claim = read_claim(paths)
    assert claim is not None
    assert claim.job == ("12_3.0" if ids else "15.0")
    assert not claim.is_over()
    restarted(monkeypatch, 1, **ids)
    assert claim.is_over()
    restarted(monkeypatch, 1, SLURM_JOB_ID="16", SLURM_ARRAY_TASK_ID="4")
    assert not claim.is_over(), "another job"


def test_a_claim_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    paths.claims.mkdir()
    record = {**this_process().to_record(), "slurm": ["12", 1], "claimed": "2026-01-01T10:00:00.000+00:00"}
    (paths.claims / "0001.json").write_text(json.dumps(record))
    claim = read_claim(paths)
    assert claim is not None
    assert claim.job == "12.1"
