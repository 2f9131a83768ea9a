"""GPUs of a run that is started by hand: `gpu.device_ids` and `gpu.use_ddp`."""

from __future__ import annotations

import os
from typing import Any

import pytest

from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.config.schema import register
from gpt_opt.errors import ConfigError
from gpt_opt.own_app.app import own_app
from gpt_opt.plan.compose.composer import Composer
from gpt_opt.plan.planner import Planner
from gpt_opt.records.run_id import run_id
from gpt_opt.run import devices
from gpt_opt.run.resolvers import register_resolvers
from tests.conftest import CONFIG_DIR, ROOT

PROGRAM = ["run_hydra.py", "loss.beta=0.1", "x='a b'"]


def config(*overrides: str) -> dict[str, Any]:
    register()
    register_resolvers()
    return Composer(CONFIG_DIR).compose(["loss.beta=0.1", *overrides]).config


@pytest.fixture(autouse=True)
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-a,7")
    for name in ("RANK", "WORLD_SIZE", devices.SWEEP):
        monkeypatch.delenv(name, raising=False)


def said(config: dict[str, Any]) -> list[str]:
    return [str(problem) for problem in (*constraint_problems(config), *devices.device_problems(config))]


def test_the_chosen_gpus_alone_are_visible_while_a_run_trains() -> None:
    with devices.chosen_devices(config("gpu.device_ids=[2]")):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    with devices.chosen_devices(config()):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5,GPU-a,7"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5,GPU-a,7"


def test_which_gpus_is_no_part_of_the_id() -> None:
    assert run_id(config("gpu.device_ids=[0,1]", "gpu.use_ddp=true")) == run_id(config())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["gpu.device_ids=[1,4,9]", "gpu.use_ddp=true"], "indices of visible GPUs, here 0 to 3, but has 4, 9"),
        (["gpu.device_ids=[0,1]"], "must be one GPU where gpu.use_ddp=false, which makes one process, but is [0, 1]"),
        (["gpu.device_ids=[0,0]", "gpu.use_ddp=true"], "must be null or different indices from 0"),
        (["gpu.device_ids=[]"], "must be null or different indices from 0"),
    ],
)
def test_gpus_that_cannot_be_used_are_refused(overrides: list[str], message: str) -> None:
    found = said(config(*overrides))
    assert len(found) == 1, found
    assert message in found[0]


def test_no_gpu_is_named_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "here none, since no GPU is visible, but has 0" in said(config("gpu.device_ids=[0]"))[0]
    assert said(config("gpu.use_ddp=true")) == []
    assert devices.wants_torchrun(config("gpu.use_ddp=true")) == 0  # one process does what torchrun would


def test_where_something_else_assigns_gpus_they_cannot_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = config("gpu.device_ids=[0]")
    with pytest.raises(ConfigError, match=r"gpu\.device_ids: must be null in a sweep, whose slots give each run"):
        Planner(own_app(CONFIG_DIR)).plan(ROOT / "params" / "beta_sweep.json", ["gpu.device_ids=[0]"])
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert "must be null under torchrun" in said(chosen)[0]
    assert said(config("gpu.use_ddp=true")) == []
    monkeypatch.setenv(devices.SWEEP, "some")
    assert "resources.gpus_per_run=N" in said(chosen)[0]


@pytest.mark.parametrize(
    ("overrides", "count", "visible"),
    [
        (["gpu.use_ddp=true"], "4", "4,5,GPU-a,7"),
        (["gpu.use_ddp=true", "gpu.device_ids=[3,0]"], "2", "7,4"),
        (["gpu.use_ddp=true", "gpu.device_ids=[1]", "fsdp=full_shard"], "1", "5"),
    ],
)
def test_a_process_a_gpu_is_started_by_becoming_torchrun(
    overrides: list[str], count: str, visible: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    became: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *call: became.append(call))
    devices.start_processes([config(*overrides)], PROGRAM, multirun=False)
    ((_, command, environment),) = became
    assert command[1:] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count, *PROGRAM]
    assert environment["CUDA_VISIBLE_DEVICES"] == visible
    monkeypatch.setattr(os, "environ", {**environment, "RANK": "0", "WORLD_SIZE": count})
    assert said(config(*overrides)) == []  # its processes choose no GPUs again
    with devices.chosen_devices(config(*overrides)):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


def test_nothing_else_becomes_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execve", lambda *call: pytest.fail(str(call)))
    for overrides in ([], ["gpu.device_ids=[2]"], ["gpu.use_ddp=true", "gpu.device_ids=[2]"]):
        devices.start_processes([config(*overrides)], PROGRAM, multirun=False)
    ddp = "gpu.use_ddp=true"
    with pytest.raises(ConfigError, match="must be false with --multirun"):
        devices.start_processes([config(ddp)], PROGRAM, multirun=True)
    with pytest.raises(ConfigError, match="must be the same for all runs of a sweep"):
        devices.start_processes([config("gpu.device_ids=[0]"), config()], PROGRAM, multirun=True)
    with pytest.raises(ConfigError, match=r"batch_size must be micro_batch_size x devices"):
        devices.start_processes([config(ddp, "training.training_params.batch_size=6")], PROGRAM, multirun=False)
