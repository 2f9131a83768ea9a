"""The contract of a backend, which every one of them is held to: on a real Slurm, or on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gpt_opt.cli import main
from gpt_opt.dispatch import start
from gpt_opt.dispatch.backends.base import BACKENDS
from gpt_opt.dispatch.backends.limits import usable
from gpt_opt.dispatch.jobs import living_jobs, unserved
from gpt_opt.dispatch.stages import classify_runs
from gpt_opt.dispatch.start import Outcome
from gpt_opt.records.sweep_dir import Job, Shape, StageRecord, Submission, Sweep, SweepRun, find
from gpt_opt.sweep.model import Resources
from tests.cluster.bench import Bench
from tests.cluster.cluster import Cluster
from tests.dispatch.on_disk import make_sweep

NEEDS = {"data.dataset.max_samples": [70, 71, 72], "resources.cpus_per_run": [1, 2, 1]}
"""Three runs of two shapes."""


class Contract:
    """What every backend does; the classes below say which, and where."""

    name: str
    flags: tuple[str, ...] = ()

    def test_it_gives_no_more_slots_than_there_are_runs(self) -> None:
        backend = BACKENDS[self.name]
        assert backend.slots(Resources(), 1) == 1
        assert 1 <= backend.slots(Resources(gpus_per_run=0, cpus_per_run=1), 100) < 100

    def test_its_text_depends_on_the_shape_and_writes_nothing(self, tmp_path: Path) -> None:
        shapes = tuple(Shape({"cpus_per_run": cores, "time_min": 5}, 2) for cores in (1, 2))
        sweep = make_sweep(tmp_path, [["seed=0"], ["seed=1"]], backend=self.name, shapes=shapes)
        before = set(tmp_path.rglob("*"))
        texts = [BACKENDS[self.name].script(sweep, sweep.submission(), shape) for shape in (0, 1, 0)]
        assert texts[0] == texts[2]
        assert all(str(sweep.root) in text for text in texts)
        assert (texts[0] == texts[1]) == (self.name == "local"), "on this machine one driver serves all"
        assert set(tmp_path.rglob("*")) == before

    @pytest.mark.slow
    def test_every_run_is_given_to_one_job_and_ends_completed_after_one_start(self, bench: Bench) -> None:
        bench.write([], steps=8, grid={"seed": [0]}, zip=NEEDS)
        sweep = bench.submit("--backend", self.name, *self.flags)
        jobs = sweep.submission().jobs
        given = [run.index for job in jobs for run in sweep.runs if run not in unserved(sweep.runs, [job])]
        assert sorted(given) == [0, 1, 2]
        bench.wait_until_done(timeout_s=300)
        bench.wait("no job", lambda: not bench.gptopt("status", "--json", expect=None).count('"alive": true'))
        bench.verify(steps=8)
        assert bench.starts() == [1, 1, 1]
        assert "nothing to submit" in bench.gptopt("submit", "sweep.json", "--backend", self.name, *self.flags)
        assert bench.sweep().submission().jobs == jobs


class OnSlurm(Contract):
    """A backend that makes Slurm jobs."""

    @pytest.fixture
    def bench(self, cluster: Cluster, tmp_path: Path, run_forks: Mapping[str, str]) -> Bench:
        cluster.reset()
        return Bench(tmp_path, cluster, run_forks)


@pytest.mark.slurm
class TestDisBatch(OnSlurm):
    name = "disbatch"


@pytest.mark.slurm
class TestSubmitit(OnSlurm):
    name = "submitit"
    flags = ("--time-min", "10")


class TestLocal(Contract):
    name = "local"

    @pytest.fixture
    def bench(self, tmp_path: Path, run_forks: Mapping[str, str]) -> Bench:
        return Bench(tmp_path, None, run_forks)

    def test_an_ended_driver_is_no_living_job(self, tmp_path: Path) -> None:
        assert living_jobs(make_sweep(tmp_path, [["seed=0"]])) == []


# -- a further backend: a class, and a line in the table -------------------------------------------------------------


class Toy:
    """Starts nothing."""

    on_slurm = False
    spans_nodes = True
    default_time_min: int | None = None
    takes_waiting = True

    def slots(self, resources: Resources, runs: int) -> int:
        return 3

    def script(self, sweep: Sweep, submission: Submission, shape: int) -> str:
        return f"toy {shape}\n"

    def start(self, sweep: Sweep, submission: Submission, runs: Sequence[SweepRun]) -> Iterator[list[Job]]:
        yield [Job("toy-1", submission.created)]


class TimedToy(Toy):
    default_time_min = 7


def test_the_table_alone_makes_a_backend_known(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin/none")
    resources = {"nodes_per_run": 2, "partition": "a"}
    Path("toy.json").write_text(json.dumps({"base": {"loss.beta": 0.1}, "resources": resources}))
    assert main(["submit", "toy.json", "--backend", "toy"]) == 2
    assert "'toy' is not one of 'disbatch', 'submitit', 'local'." in capsys.readouterr().err
    monkeypatch.setitem(BACKENDS, "toy", Toy())
    monkeypatch.setitem(BACKENDS, "timed", TimedToy())

    assert main(["submit", "--help"]) == main(["plan", "--help"]) == 0
    assert capsys.readouterr().out.count("[disbatch|submitit|local|toy|timed]") == 2
    assert main(["plan", "toy.json", "--backend", "local"]) == 2
    assert "add --backend submitit or --backend toy or --backend timed" in capsys.readouterr().err
    assert main(["plan", "toy.json", "--backend", "timed"]) == 2
    assert "time_min: must be given for the backend timed, whose own default would be 7 minutes" in (
        capsys.readouterr().err
    )
    assert main(["submit", "toy.json", "--backend", "toy", "--qos", "low"]) == 2
    assert "--qos: is low, which is for Slurm, but the backend is toy" in capsys.readouterr().err
    assert usable(Resources(partition="a", cpus_per_run=2), "toy") == Resources(cpus_per_run=2)
    caplog.clear()
    assert main(["submit", "toy.json", "--backend", "toy"]) == 0
    assert caplog.messages == ["not used on this machine, being for Slurm: partition=a"]
    assert "submitted job toy-1" in capsys.readouterr().out
    sweep = find("toy", Path("sweeps"))
    assert (sweep.submission().script, sweep.submission().shapes[0].slots) == ("toy 0\n", 3)
    assert living_jobs(sweep) == []

    monkeypatch.delitem(BACKENDS, "toy")
    assert main(["status", "toy"]) in (1, 3)
    assert main(["submit", "toy.json", "--backend", "local"]) == 2
    assert "nodes_per_run: is 2" in capsys.readouterr().err
    assert living_jobs(sweep, "local") == [], "its Slurm is asked, which is not there"


@pytest.mark.parametrize("takes_waiting", [True, False])
def test_a_job_asks_for_those_of_later_stages_where_they_could_not_wait_for_it(
    takes_waiting: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, asked = Toy(), list[Path]()
    toy.takes_waiting = takes_waiting
    monkeypatch.setitem(BACKENDS, "toy", toy)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    sweep = make_sweep(tmp_path, [["seed=0"]], backend="toy")
    sweep.write_submission(replace(sweep.submission(), stages=(StageRecord("sft"),)))

    def start_jobs(part: Sweep) -> Outcome:
        asked.append(part.root)
        return Outcome(part, (), (), classify_runs(part))

    monkeypatch.setattr(start, "start_jobs", start_jobs)
    start.start_ready(sweep)
    assert asked == ([] if takes_waiting else [sweep.root])
