"""Slots that do not come up on a real Slurm: no allocation is held for them, and the nodes that work go on."""

from __future__ import annotations

import pytest

from tests.cluster.bench import Bench
from tests.cluster.cluster import ROOT
from tests.helpers.forking import sitecustomize

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def submitted(bench: Bench) -> bool:
    return (bench.folder / "sweeps" / "sweep" / "1" / "tasks").exists()


SRUN = """\
#!/bin/bash
for node in $(cat {folder}/refused); do
  case "$*" in *"-w $node "*) echo "srun: error: Unable to create step for job: refused on purpose" >&2; exit 1 ;; esac
done
exec /usr/bin/srun "$@"
"""
BROKEN = """\
import os, sys
if os.environ.get("SLURMD_NODENAME") == "n3" and "exec" in sys.orig_argv:
    sys.stderr.write("the repository is not mounted here\\n")
    os._exit(1)
exec(open({forking!r}).read())  # which this one hides
"""


def test_jobs_work_without_the_environment_of_the_submitter(bench: Bench) -> None:
    submit = ["env", "SBATCH_EXPORT=NONE", "gptopt", "submit", "sweep.json", "--slots", "1"]
    script = str(ROOT / "slurm_scripts" / "submit.sh")
    ways = {
        "disbatch": submit,
        "submitit": [*submit, "--backend", "submitit", "--time-min", "10"],
        "script": ["sbatch", "--export=NONE", "-n", "1", "--gpus-per-task=0", script, "sweep.json"],
    }
    places = []
    for name, command in ways.items():
        (folder := bench.folder / name).mkdir()
        places.append(place := Bench(folder, bench.cluster, bench.forks))
        # GPU locks would be in another TMPDIR, and the bench's own source is found by PYTHONPATH.
        place.write([70], steps=8, resources={"gpus_per_run": 0})
        place.call(*command, "data.dataset._target_=gpt_opt.training.data.build_jsonl")
    for place in places:
        place.wait("a sweep", lambda place=place: submitted(place))  # type: ignore[misc]
        place.wait_until_done()
        place.wait_until_idle()
        place.verify(steps=8)


def test_nodes_that_give_no_slot_are_named_and_no_run_is_counted_for_them(bench: Bench) -> None:
    (commands := bench.folder / "bin").mkdir()
    (srun := commands / "srun").write_text(SRUN.format(folder=bench.folder))
    srun.chmod(0o700)
    (refused := bench.folder / "refused").write_text("n2")
    (bench.folder / "sitecustomize.py").write_text(BROKEN.format(forking=sitecustomize.__file__))
    with_ours = ["env", f"PATH={commands}:{bench.env['PATH']}", "gptopt", "submit", "sweep.json", "--slots", "3"]
    spread = "--sbatch=--nodelist=n1,n2,n3"
    bench.write([70, 71, 72], steps=8)
    bench.call(*with_ours, spread)
    bench.wait_until_done()
    bench.wait_until_idle()
    bench.verify(steps=8)
    assert bench.starts() == [1, 1, 1]
    assert {bench.history(index).attempts[0].node for index in range(3)} == {"n1"}
    told = bench.gptopt("status", "sweep")
    assert "node n2 gave no slot: srun: error: Unable to create step for job: refused on purpose" in told
    assert "node n3 gave no slot: the repository is not mounted here" in told

    refused.write_text("n1 n2")
    bench.write([73, 74, 75], steps=8)
    bench.call(*with_ours, spread)
    assert bench.cluster is not None
    assert bench.cluster.wait_job(bench.jobs()[-1], timeout_s=90) == "FAILED"
    assert bench.starts() == [0, 0, 0]
    told = bench.gptopt("status", "sweep", expect=None)
    assert "3 PENDING" in told
    assert "node n1 gave no slot: srun: error: Unable to create step for job: refused on purpose" in told


@pytest.mark.new_process  # a fault that hits processes of runs
def test_a_step_that_is_killed_is_not_waited_for(bench: Bench) -> None:
    """disBatch would wait for ever: it does not look at how its parts ended."""
    bench.write([70], pause_s=0.1)
    bench.submit("--slots", "1")
    bench.wait_for_step(0)
    bench.call("scancel", "--signal=KILL", f"{bench.jobs()[0]}.0")
    bench.wait_until_done()
    bench.wait_until_idle()
    bench.verify()
    assert [item.cause for item in bench.history(0).attempts] == ["slot_lost", "completed"]
