"""The contract of a backend, which every one of them is held to: on a real Slurm, or on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from gpt_opt.dispatch.backends.base import BACKENDS
from gpt_opt.dispatch.jobs import living_jobs, unserved
from gpt_opt.records.sweep_dir import Shape
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
