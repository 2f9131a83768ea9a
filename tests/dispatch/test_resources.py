"""Where resources come from: the sweep file, then the config group, then flags."""

from __future__ import annotations

import json

import pytest

from gpt_opt.dispatch.backends.resources import mem_mb, site_options
from gpt_opt.errors import ConfigError
from gpt_opt.plan.resources import from_record, merged, to_record
from gpt_opt.sweep.model import Resources


def test_a_flag_beats_the_group_which_beats_the_file() -> None:
    file = Resources(cpus_per_run=1, mem_gb=1, time_min=10, partition="a")
    group = {"cpus_per_run": 2, "mem_gb": 2.5, "time_min": None, "partition": None, "sbatch": []}
    flags = {"cpus_per_run": 3, "mem_gb": None, "time_min": None, "qos": None, "sbatch": None}
    assert merged(file, group, flags) == Resources(cpus_per_run=3, mem_gb=2.5, time_min=10, partition="a")


def test_zero_is_an_answer() -> None:
    assert merged(Resources(gpus_per_run=2), {"gpus_per_run": 0}, {}).gpus_per_run == 0
    assert merged(Resources(gpus_per_run=2), {}, {"gpus_per_run": 0}).gpus_per_run == 0


def test_lines_of_the_user_are_replaced_as_a_whole() -> None:
    file = Resources(sbatch=("--reservation=a", "--nice"))
    assert merged(file, {"sbatch": []}, {}).sbatch == ("--reservation=a", "--nice")
    assert merged(file, {"sbatch": ["--hold"]}, {"sbatch": None}).sbatch == ("--hold",)
    assert merged(file, {"sbatch": ["--hold"]}, {"sbatch": ["--nice=5"]}).sbatch == ("--nice=5",)


def test_all_wrong_values_are_told_at_once_with_where_they_were_said() -> None:
    with pytest.raises(ConfigError) as caught:
        merged(Resources(), {"mem_gb": 0, "cpus_per_run": 2.5}, {"time_min": 0, "sbatch": ["reservation=a"]})
    told = str(caught.value)
    for part in ("resources.mem_gb", "resources.cpus_per_run", "--time-min", "--sbatch", "nothing was submitted"):
        assert part in told
    assert "must be an integer, at least 1, but is 0" in told


@pytest.mark.parametrize(
    "resources",
    [Resources(), Resources(gpus_per_run=0, mem_gb=0.5), Resources(partition="a", sbatch=("--nice", "--hold"))],
)
def test_a_record_reads_back_as_it_was(resources: Resources) -> None:
    record = json.loads(json.dumps(to_record(resources)))
    assert from_record(record) == resources
    assert None not in record.values()


def test_options_of_the_site_come_as_sbatch_takes_them() -> None:
    resources = Resources(time_min=5, partition="a,b", account="lab", constraint="a100|h100", exclude="n[1-3]")
    assert site_options(resources) == {
        "time": 5,
        "partition": "a,b",
        "account": "lab",
        "constraint": "a100|h100",
        "exclude": "n[1-3]",
    }
    assert site_options(Resources()) == {}


@pytest.mark.parametrize(("mem_gb", "mib"), [(None, None), (1, 1024), (0.5, 512), (0.0001, 1)])
def test_memory_in_the_units_of_slurm(mem_gb: float | None, mib: int | None) -> None:
    assert mem_mb(Resources(mem_gb=mem_gb)) == mib
