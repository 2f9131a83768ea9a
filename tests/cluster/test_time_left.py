"""The end of an allocation comes near: runs that would not get far are left for the next one, short ones are made."""

from __future__ import annotations

import json

import pytest

from gpt_opt.dispatch import slurm
from gpt_opt.records.drivers import read_drivers
from gpt_opt.records.speeds import read_speeds
from tests.cluster.bench import Bench

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.mark.slow(240)
def test_what_cannot_reach_a_checkpoint_is_left_for_the_next_allocation(bench: Bench) -> None:
    file = bench.write([70], pause_s=1.0)
    spec, params = json.loads(file.read_text()), "training.training_params"
    spec["base"] |= {f"{params}.save_every": 100, f"{params}.log_every": 10, f"{params}.eval_every": 100}
    del spec["grid"], spec["base"][f"{params}.max_steps"]
    # Pauses alone make a long one take 100 s: the 240 s less 60 s of warning have no time for two, however fast they
    # start. One and the short one take some 130 s: they end before Slurm warns, which it does up to 30 s early.
    spec["zip"] = {"seed": [0, 1, 2], f"{params}.max_steps": [100, 100, 5]}
    file.write_text(json.dumps(spec))
    bench.submit("--slots", "1", "--time-min", "4")
    bench.wait("runs left", lambda: bool(read_speeds(bench.sweep().part(0).speeds).left), timeout_s=400)
    assert "note: left for the next allocation: run " in bench.gptopt("status", expect=3)
    speeds = read_speeds(bench.sweep().part(0).speeds)
    bench.wait_until_done(timeout_s=400)
    bench.wait_until_idle()
    assert bench.starts() == [1] * 3, "no run was begun that could not end"
    assert speeds.left == (1,)
    (job,) = bench.jobs()
    sessions = [f"{job}.0", f"{job}.1", f"{job}.0"]
    assert [bench.history(index).attempts[0].session for index in range(3)] == sessions, "the short one came before it"
    assert [item.session for item in read_drivers(bench.sweep().drivers)] == [f"{job}.0", f"{job}.1"]
    assert "left for" not in bench.gptopt("status")


def test_slurm_says_how_much_time_is_left(bench: Bench) -> None:
    assert bench.cluster is not None
    options = ("--parsable", "--wrap", "sleep 60", "--output=/dev/null")
    # Said in words: where nothing is said Slurm's backfill scheduler, if it is the one that starts the job, limits it
    # to a year.
    limits = ("--time=1-01:00:00", "--time=UNLIMITED")
    limited, unlimited = (bench.call("sbatch", *options, limit).strip() for limit in limits)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in bench.env.items():
            patch.setenv(name, value)
        bench.wait("both run", lambda: bench.cluster.run("squeue", "-h", "-o", "%T").split() == ["RUNNING"] * 2)
        left_s = slurm.time_left_s(limited)
        assert left_s is not None
        assert 25 * 3600 - 120 < left_s <= 25 * 3600
        assert slurm.time_left_s(unlimited) is None
