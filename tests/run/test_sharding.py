"""Divided trainings, on two CPU processes: the numbers and the files of one process; and what DeepSpeed is told."""

from __future__ import annotations

import json
import os
import signal
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.errors import ConfigError
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.run_id import run_id
from gpt_opt.records.state import State, read_state
from gpt_opt.training.checkpointing import latest_checkpoint
from gpt_opt.training.evaluation import even_batches
from gpt_opt.training.sharding import deepspeed_settings, sharding_arguments
from tests.conftest import Runner, small_overrides
from tests.run.test_distributed import (
    DPO,
    LONG,
    SAMPLES,
    assert_same,
    only_run,
    rows,
    run,
    start,
    wait_for_step,
)
from tests.training.test_training import config

pytestmark = pytest.mark.usefixtures("forked")

needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None or which("c++") is None,
    reason="DeepSpeed is not installed; it needs a C++ compiler: pip install 'gpt-opt[deepspeed]'",
)


def last(paths: RunPaths) -> Path:
    found = latest_checkpoint(paths.checkpoints)
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.parametrize("finish", [pytest.param(2, id="goes-on-divided"), pytest.param(1, id="goes-on-whole")])
def test_fsdp_gives_the_numbers_and_files_of_one_process_through_an_interruption(
    tmp_path: Path, run_hydra: Runner, small: list[str], alone: RunPaths, finish: int
) -> None:
    overrides = [*small, *LONG, *DPO]
    process = start([*overrides, "fsdp=full_shard"])
    paths = wait_for_step(tmp_path, process, 10)
    os.kill(process.pid, signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert read_state(paths).state is State.INTERRUPTED, output + errors
    done = run([*overrides, "fsdp=shard_grad_op"]) if finish == 2 else run_hydra(overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming from checkpoint-" in done.stdout
    assert_same(paths, alone)
    own, other = (load_file(last(item) / "model.safetensors") for item in (paths, alone))
    assert own.keys() == other.keys()
    assert all(torch.allclose(own[name], other[name], atol=1e-4) for name in own)
    mine, theirs = (torch.load(last(item) / "optimizer.pt", weights_only=True) for item in (paths, alone))
    groups = [json.dumps(item["param_groups"]) for item in (mine, theirs)]  # which does not tell a tuple from a list
    assert groups[0] == groups[1]
    assert mine["state"].keys() == theirs["state"].keys()
    for index, state in mine["state"].items():
        assert state["step"] == theirs["state"][index]["step"] == 150
        assert torch.allclose(state["exp_avg"], theirs["state"][index]["exp_avg"], atol=1e-4)


@pytest.mark.slow
def test_fsdp_with_adapters_saves_the_adapters_alone(tmp_path: Path, small: list[str], run_hydra: Runner) -> None:
    adapters = [*DPO, "lora=lora", "training.training_params.gradient_checkpointing=true"]
    divided = run([*small, *adapters, *SAMPLES, "fsdp=full_shard"])
    assert divided.returncode == 0, divided.stdout + divided.stderr
    whole = tmp_path / "whole"
    whole.mkdir()
    assert run_hydra([*small_overrides(whole), *adapters, *SAMPLES]).returncode == 0
    assert_same(only_run(tmp_path), only_run(whole))
    texts = [only_run(item).samples.read_text().splitlines() for item in (tmp_path, whole)]
    assert texts[0][:4] == texts[1][:4]  # before training; later weights differ by rounding
    assert len(texts[0]) == len(texts[1]) == 16
    own, other = (load_file(last(only_run(item)) / "adapter_model.safetensors") for item in (tmp_path, whole))
    assert own.keys() == other.keys()
    assert all(torch.allclose(own[name], other[name], atol=1e-5) for name in own)


@pytest.mark.slow
def test_fsdp_in_16_bits_computes_policy_and_reference_alike(tmp_path: Path, small: list[str]) -> None:
    overrides = [*small, *DPO, "training.training_params.mixed_precision=bf16", "model.policy_dtype=bfloat16"]
    done = run([*overrides, "fsdp=full_shard"])
    assert done.returncode == 0, done.stdout + done.stderr
    start = rows(only_run(tmp_path))[0]
    assert (start["eval/kl"], start["eval/rewards/margins"]) == (0, 0)
    weights = load_file(last(only_run(tmp_path)) / "model.safetensors")
    assert {item.dtype for item in weights.values()} == {torch.float32}


@pytest.mark.slow
def test_fsdp_goes_on_with_an_optimizer_without_states(
    tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), os.pathsep)
    (tmp_path / "plain.py").write_text(
        "from torch.optim import SGD\ndef build(parameters, lr, **others): return SGD(parameters, lr)\n"
    )
    overrides = [*small, *LONG, *DPO, "optimizer.optimizer_params._target_=plain.build", "fsdp=full_shard"]
    process = start(overrides)
    paths = wait_for_step(tmp_path, process, 10)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    done = run(overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    rates = {row["step"]: row["learning_rate"] for row in rows(paths) if "learning_rate" in row}
    assert sorted(rates) == list(range(2, 151, 2))
    assert all(rates[step] > rates[step + 2] for step in range(16, 148, 2)), "the schedule goes on where it was"


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("stage", ["zero1", "zero2", "zero3"])
def test_deepspeed_gives_the_numbers_of_one_process_through_an_interruption(
    tmp_path: Path, run_hydra: Runner, small: list[str], alone: RunPaths, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    overrides = [*small, *LONG, *DPO, f"deepspeed={stage}"]
    if stage == "zero3":  # else the few weights here would stay whole
        overrides.append("deepspeed.zero_optimization.stage3_param_persistence_threshold=0")
    process = start(overrides)
    paths = wait_for_step(tmp_path, process, 10)
    os.kill(process.pid, signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert read_state(paths).state is State.INTERRUPTED, output + errors
    undivided = run_hydra([*small, *LONG, *DPO])
    assert undivided.returncode == 2
    assert f"saved with ZeRO {stage[-1]} on 2 processes" in undivided.stderr
    done = run(overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(paths, alone)
    weights, other = (load_file(last(item) / "model.safetensors") for item in (paths, alone))
    assert all(torch.allclose(weights[name], other[name], atol=1e-4) for name in other)


def test_an_engine_needs_torchrun_and_has_no_part_in_the_id(small: list[str], run_hydra: Runner) -> None:
    done = run_hydra([*small, *DPO, "fsdp=full_shard"])
    assert done.returncode == 2
    assert "torchrun --nproc-per-node N run_hydra.py" in done.stderr
    ids = {run_id(config([*small, *DPO, option])) for option in ("fsdp=none", "fsdp=full_shard", "deepspeed=zero2")}
    assert len(ids) == 1
    both = constraint_problems(config([*small, *DPO, "fsdp=full_shard", "deepspeed=zero3"]))
    assert "fsdp" in {problem.where for problem in both}


def told(option: str, *overrides: str) -> dict[str, Any]:
    """What DeepSpeed is told of a run of two processes."""
    found = config([*DPO, f"deepspeed={option}", *overrides])
    return deepspeed_settings(found["deepspeed"], found["training"]["training_params"], devices=2)


def test_what_deepspeed_is_told_follows_from_the_training_keys() -> None:
    params = "training.training_params"
    batches = [f"{params}.batch_size=32", f"{params}.micro_batch_size=4", f"{params}.max_grad_norm=0.5"]
    assert told("zero2", *batches, f"{params}.mixed_precision=bf16") == {
        "train_batch_size": 32,
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 0.5,
        "bf16": {"enabled": True},
        "fp16": {"enabled": False},
        "zero_optimization": {
            "stage": 2,
            "overlap_comm": True,
            "contiguous_gradients": True,
            "reduce_bucket_size": 500_000_000,
            "allgather_bucket_size": 500_000_000,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


VARIANTS = [
    "_".join(filter(None, parts))
    for parts in product(("zero1", "zero2", "zero3"), ("", "offload"), ("", "cosine"), ("", "fp16", "bf16"))
]


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_is_its_stage_and_its_parts(name: str) -> None:
    stage, *parts = name.split("_")
    schedule = "optimizer.optimizer_params.lr_schedule=constant"
    found, base = config([*DPO, f"deepspeed={name}"]), config([*DPO, f"deepspeed={stage}"])
    zero, plain = (item["deepspeed"]["zero_optimization"] for item in (found, base))
    assert plain["stage"] == zero["stage"] == int(stage[-1])
    places = {key for key in zero if zero[key] != plain[key]}
    offloaded = {"offload_optimizer", "offload_param"} if stage == "zero3" else {"offload_optimizer"}
    assert places == (offloaded if "offload" in parts else set())
    assert all(zero[place] == {"device": "cpu", "pin_memory": True} for place in places)
    precision = found["training"]["training_params"]["mixed_precision"]
    assert precision == next((part for part in parts if part in ("fp16", "bf16")), "no")
    assert told(name)["fp16"]["enabled"] == ("fp16" in parts)
    other = config([*DPO, f"deepspeed={name}", "optimizer=rmsprop"])["optimizer"]["optimizer_params"]["lr_schedule"]
    default = config([*DPO, "optimizer=rmsprop"])["optimizer"]["optimizer_params"]["lr_schedule"]
    assert other == ("warm-up-cosine" if "cosine" in parts else default)
    said = config([*DPO, f"deepspeed={name}", schedule])["optimizer"]["optimizer_params"]["lr_schedule"]
    assert said == "constant", "the command line beats a part"


@pytest.mark.parametrize(("items", "size", "count"), product((2, 3, 7, 16, 33), (1, 2, 8), (1, 2)))
def test_every_process_has_the_same_number_of_batches_and_each_item_comes_once(
    items: int, size: int, count: int
) -> None:
    batches = [even_batches(items, size, rank, count) for rank in range(count)]
    assert len({len(mine) for mine in batches}) == 1
    assert sorted(place for mine in batches for batch in mine for place in batch) == list(range(items))
    assert all(0 < len(batch) <= max(size, count) for mine in batches for batch in mine)


@pytest.mark.skipif(
    torch.accelerator.is_available() or torch.ops.mkldnn._is_mkldnn_fp16_supported(), reason="float16 is computed here"
)
def test_deepspeed_in_fp16_is_refused_where_the_cpu_cannot_compute_it() -> None:
    with pytest.raises(
        ConfigError, match="mixed_precision: is fp16, which DeepSpeed cannot compute on the CPU of this"
    ):
        sharding_arguments(config(["loss.beta=0.1", "deepspeed=zero3_fp16"]), 2)
    assert sharding_arguments(config(["loss.beta=0.1", "deepspeed=zero3_bf16"]), 2)["deepspeed"]["bf16"]["enabled"]
