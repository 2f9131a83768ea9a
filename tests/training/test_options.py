"""Options of training: what ends a run early, and what a failure says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import torch
from torch import nn

from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.dispatch.failure_groups import normalised
from gpt_opt.dispatch.slot.diagnose import End, diagnose
from gpt_opt.errors import ConfigError, DataError
from gpt_opt.records.io import read_json_object
from gpt_opt.records.run_dir import checkpoints
from gpt_opt.records.state import RunState, State
from gpt_opt.run.distributed import error_record
from gpt_opt.training import forwards, loop
from gpt_opt.training.build import build as build_parts
from gpt_opt.training.checkpointing import final_checkpoint
from gpt_opt.training.data.order import Collator, TrainingOrder
from gpt_opt.training.failures import (
    GPUOutOfMemoryError,
    HostMemoryFull,
    LossNotFinite,
    memory_failures_named,
    require_finite,
)
from gpt_opt.training.loop import train
from gpt_opt.training.parts import Parts
from tests.conftest import ROOT, Runner
from tests.training.test_training import DPO, config, equal, final_weights, finish, folder, hooks, rows

KEYS = "training.training_params"
FINETUNING = "training.finetuning"
LEAST_KL = [f"{FINETUNING}.metric_for_best_model=eval/kl", "optimizer.optimizer_params.lr=1e-3"]
"""By this metric the first evaluation in training is the best: the policy goes away from the reference."""
Hook = Callable[[nn.Module], None]


@pytest.fixture
def at_forward(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Hook], None]:
    """Calls something with the policy before the n-th of its forwards with gradients.

    In the first step it has others: its log-probabilities are then those of the reference.
    """

    def register(number: int, hook: Hook) -> None:
        seen = [0]

        def count(model: nn.Module, *_: Any) -> None:
            seen[0] += torch.is_grad_enabled()
            if seen[0] == number and torch.is_grad_enabled():
                hook(model)

        whole = build_parts

        def build(*args: Any) -> Parts:
            parts = whole(*args)
            parts.policy.register_forward_pre_hook(count)
            return parts

        monkeypatch.setattr(loop, "build", build)

    return register


def poison(model: nn.Module) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))


@pytest.mark.parametrize("log_every", [1, 100])
@pytest.mark.parametrize("micro", [8, 2])
def test_a_loss_that_is_not_finite_ends_the_run_with_the_step_and_its_pairs(
    tmp_path: Path, small: list[str], at_forward: Callable[[int, Hook], None], log_every: int, micro: int
) -> None:
    """In step 6: neither a step of evaluation nor of a checkpoint, which come at 4 and 8."""
    order = TrainingOrder(range(len(build_parts(config([*small, *DPO])).items.train)), 8, 12, 0, "pairs")
    at_forward(5 * 8 // micro + 1, poison)
    place, extra = folder(tmp_path / "run"), [f"{KEYS}.log_every={log_every}", f"{KEYS}.micro_batch_size={micro}"]
    ids = [order[index] for index in range(40, 48)]
    with pytest.raises(LossNotFinite) as caught:
        train(config([*small, *DPO, *extra, "seed=0"]), place, hooks())
    lines = str(caught.value).splitlines()
    assert lines[0] == f"loss is NaN at step 6 (pairs {ids[0]}, {ids[1]}, {ids[2]}, ...)"
    assert lines[1].endswith(f": {', '.join(map(str, ids))}")
    assert [path.name for path in checkpoints(place.checkpoints)] == ["checkpoint-4"]
    assert rows(place)[-1]["step"] == (5 if log_every == 1 else 4)
    assert all(value is not None for row in rows(place) for value in row.values())


@pytest.mark.parametrize("step", [4, 12])
def test_no_checkpoint_is_made_of_a_step_that_failed(
    tmp_path: Path, small: list[str], at_forward: Callable[[int, Hook], None], step: int
) -> None:
    """At a step of a checkpoint, and at the last one."""
    at_forward(step, poison)
    place = folder(tmp_path / "run")
    with pytest.raises(LossNotFinite, match=f"at step {step} "):
        train(config([*small, *DPO]), place, hooks())
    assert [path.name for path in checkpoints(place.checkpoints)] == (["checkpoint-8"] if step == 12 else [])


def test_a_diverged_run_is_failed_without_a_summary(tmp_path: Path, small: list[str], run_hydra: Runner) -> None:
    done = run_hydra([*small, *DPO, "optimizer.optimizer_params.lr=1e30"])
    assert done.returncode == 1, done.stderr
    (state,) = (tmp_path / "outputs").rglob("state.json")
    record = read_json_object(state)
    assert record["state"] == "FAILED"
    assert record["error"]["type"] == "LossNotFinite"
    assert record["error"]["message"].startswith("loss is ")
    assert not state.with_name("summary.json").exists()


def test_a_validation_loss_that_is_not_finite_ends_the_run() -> None:
    with pytest.raises(LossNotFinite, match="validation loss is -inf at step 3\n"):
        require_finite(float("-inf"), "validation loss", 3)
    require_finite(1e30, "loss", 3)


def test_runs_that_diverged_at_other_steps_are_one_group() -> None:
    texts = set()
    for step, positions in [(3, [1, 22, 3, 4]), (77, [123, 4, 5, 6, 7])]:
        with pytest.raises(LossNotFinite) as caught:
            require_finite(float("nan"), "loss", step, "pairs", positions)
        texts.add(normalised(str(caught.value).splitlines()[0]))
    assert len(texts) == 1


@pytest.mark.usefixtures("forked")
def test_two_processes_agree_that_a_run_diverged(tmp_path: Path, small: list[str]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(ROOT / "run_hydra.py"), *small, *DPO, "optimizer.optimizer_params.lr=1e30"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode != 0
    (state,) = (tmp_path / "outputs").rglob("state.json")
    record = read_json_object(state)
    assert (record["state"], record["error"]["type"]) == ("FAILED", "LossNotFinite"), done.stderr


def full_gpu(_: nn.Module) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has ...")


def full_host(_: nn.Module) -> None:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ...")


def no_memory(_: nn.Module) -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("hook", "kind", "cause"),
    [
        (full_gpu, GPUOutOfMemoryError, "out_of_gpu_memory"),
        (full_host, HostMemoryFull, "out_of_memory"),
        (no_memory, HostMemoryFull, "out_of_memory"),
    ],
)
def test_want_of_memory_names_the_batch_and_what_to_lower(
    tmp_path: Path,
    small: list[str],
    at_forward: Callable[[int, Hook], None],
    hook: Hook,
    kind: type[Exception],
    cause: str,
) -> None:
    parts = build_parts(config([*small, *DPO]))
    order = TrainingOrder(parts.items.train, 8, 12, 0, "pairs")
    batch = Collator()([order[index] for index in order.of_step(2)])
    width, tokens = batch["input_ids"].shape[1], batch["packed"].ids.numel()
    at_forward(3, hook)
    with pytest.raises(kind) as caught:
        train(config([*small, *DPO, "seed=0"]), folder(tmp_path / "run"), hooks())
    text = str(caught.value)
    assert f", at step 3: a batch of 16 sequences of up to {width} tokens, packed into {tokens} tokens\n" in text
    for words in ("micro_batch_size (8", "max_length (64)", "lora=lora"):
        assert words in text
    assert "gradient_checkpointing=true" in text
    state = RunState("id", State.FAILED, error=error_record(caught.value))
    assert diagnose(End(1, state=state, is_own=True))[0] == cause


def test_what_saves_memory_already_is_not_advised(
    tmp_path: Path, small: list[str], at_forward: Callable[[int, Hook], None]
) -> None:
    at_forward(1, full_gpu)
    extra = [f"{KEYS}.micro_batch_size=1", f"{KEYS}.gradient_checkpointing=true"]
    with pytest.raises(GPUOutOfMemoryError) as caught:
        train(config([*small, *DPO, *extra]), folder(tmp_path / "run"), hooks())
    assert "micro_batch_size" not in str(caught.value)
    assert "gradient_checkpointing" not in str(caught.value)


def test_want_of_memory_names_a_padded_batch(
    tmp_path: Path, small: list[str], at_forward: Callable[[int, Hook], None]
) -> None:
    at_forward(1, full_gpu)
    padded = [*small, *DPO, "model.attn_implementation=eager"]
    with pytest.raises(GPUOutOfMemoryError, match=r", at step 1: a batch of 16 sequences x \d+ tokens\n"):
        train(config(padded), folder(tmp_path / "run"), hooks())


def test_want_of_memory_before_the_first_batch_names_what_is_tried(
    tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        full_gpu(nn.Identity())

    monkeypatch.setattr(forwards, "prove", full)
    with pytest.raises(GPUOutOfMemoryError, match=": a batch of 2 sequences x 64 tokens\n"):
        train(config([*small, *DPO]), folder(tmp_path / "run"), hooks())


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes$"), memory_failures_named(lambda: "step 1", "lower"):
        raise RuntimeError("shapes")


def steps(place: Path) -> list[int]:
    return [int(path.name.rpartition("-")[2]) for path in checkpoints(place)]


def test_training_ends_when_no_evaluation_was_better_for_too_long(tmp_path: Path, small: list[str]) -> None:
    for patience, last in [(1, 8), (2, 12)]:
        place = folder(tmp_path / str(patience))
        result = finish([*small, *DPO, *LEAST_KL, f"{FINETUNING}.early_stopping_patience={patience}"], place)
        assert (result.step, result.final_step, rows(place)[-1]["step"]) == (last, last, last)
        assert steps(place.checkpoints) == [last]


def test_the_best_checkpoint_is_kept_as_the_final_one(tmp_path: Path, small: list[str]) -> None:
    place = folder(tmp_path / "run")
    overrides = [*small, *DPO, *LEAST_KL, f"{FINETUNING}.load_best_model_at_end=true", f"{KEYS}.save_every=3"]
    result = finish(overrides, place)
    assert (result.step, result.final_step) == (12, 4)
    assert steps(place.checkpoints) == [4, 12]
    assert final_checkpoint(place.checkpoints) == place.checkpoints / "checkpoint-4"
    assert (place.checkpoints / "final" / "model.safetensors").is_file()
    kl = {row["step"]: row["eval/kl"] for row in rows(place) if "eval/kl" in row}
    assert result.metrics["eval/kl"] == kl[4] == min(kl[4], kl[8], kl[12])
    assert final_checkpoint(folder(tmp_path / "none").checkpoints) is None


def test_a_better_evaluation_replaces_the_best_checkpoint(tmp_path: Path, small: list[str]) -> None:
    place, greater = folder(tmp_path / "run"), f"{FINETUNING}.greater_is_better=true"
    result = finish([*small, *DPO, *LEAST_KL, greater, f"{FINETUNING}.load_best_model_at_end=true"], place)
    assert (result.final_step, steps(place.checkpoints)) == (12, [12])


@pytest.mark.parametrize("stop_at", [1, 4, 5])
def test_patience_and_the_best_evaluation_survive_an_interruption(
    tmp_path: Path, small: list[str], stop_at: int
) -> None:
    """Best at 2, none better at 4 and 6."""
    overrides = [*small, *DPO, *LEAST_KL, f"{KEYS}.eval_every=2", f"{KEYS}.save_every=100"]
    overrides += [f"{FINETUNING}.early_stopping_patience=2", f"{FINETUNING}.load_best_model_at_end=true"]
    whole, broken = folder(tmp_path / "whole"), folder(tmp_path / "broken")
    expected = finish(overrides, whole)
    assert train(config(overrides), broken, hooks(stop_at)) is None
    found = finish(overrides, broken)
    assert (expected.step, expected.final_step) == (found.step, found.final_step) == (6, 2)
    assert rows(whole) == rows(broken)
    again = finish(overrides, broken)  # as after a kill between the last checkpoint and the summary
    assert (again.step, again.final_step, rows(broken)) == (6, 2, rows(whole))


def test_where_the_best_checkpoint_is_damaged_training_goes_on_to_another_best_one(
    tmp_path: Path, small: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It had ended for want of a better evaluation, and was killed before the summary."""
    overrides = [*small, *DPO, *LEAST_KL, f"{KEYS}.eval_every=2", f"{KEYS}.save_every=100"]
    overrides += [f"{FINETUNING}.early_stopping_patience=1", f"{FINETUNING}.load_best_model_at_end=true"]
    place = folder(tmp_path / "run")
    result = finish(overrides, place)
    assert (result.step, result.final_step) == (4, 2)
    weights = place.checkpoints / "checkpoint-2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    again = finish(overrides, place)
    assert (again.step, again.final_step) == (8, 6)
    assert again.metrics["eval/kl"] == {row["step"]: row["eval/kl"] for row in rows(place) if "eval/kl" in row}[6]
    assert any("checkpoint-2, the best so far, is gone or damaged" in text for text in caplog.messages)


def test_a_metric_that_no_evaluation_has_is_an_error_before_training(tmp_path: Path, small: list[str]) -> None:
    names = [f"{FINETUNING}.metric_for_best_model=eval/nonsense", f"{FINETUNING}.greater_is_better=true"]
    with pytest.raises(ConfigError, match=r"must be one of eval/kl, eval/logps/chosen, .* but is 'eval/nonsense'"):
        finish([*small, *DPO, *names, f"{FINETUNING}.load_best_model_at_end=true"], folder(tmp_path / "run"))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"metric_for_best_model": "eval/loss"}, "it is ignored"),
        ({"greater_is_better": "false"}, "it is ignored"),
        ({"early_stopping_patience": "0"}, "must be at least 1"),
        ({"early_stopping_patience": "1", "metric_for_best_model": "loss"}, "must be a metric of the evaluation"),
        ({"load_best_model_at_end": "true", "metric_for_best_model": "eval/seconds"}, "must be given for"),
        ({"early_stopping_patience": "1", "metric_for_best_model": "eval/los"}, "did you mean eval/loss?"),
        ({"resume_from_checkpoint": "/no/such"}, "has no trainer_state.json"),
    ],
)
def test_keys_that_would_be_ignored_or_mean_nothing_are_refused(
    small: list[str], keys: dict[str, str], words: str
) -> None:
    overrides = [f"{FINETUNING}.{key}={value}" for key, value in keys.items()]
    (problem,) = constraint_problems(config([*small, *DPO, *overrides]))
    assert words in str(problem)


def test_a_run_goes_on_from_the_checkpoint_of_another(tmp_path: Path, small: list[str]) -> None:
    whole, first, second = (folder(tmp_path / name) for name in ("whole", "first", "second"))
    finish([*small, *DPO], whole)
    assert train(config([*small, *DPO]), first, hooks(stop_at=4)) is None
    start = f"{FINETUNING}.resume_from_checkpoint={first.checkpoints / 'checkpoint-4'}"
    assert train(config([*small, *DPO, start]), second, hooks(stop_at=3)) is None
    finish([*small, *DPO, start], second)  # from its own checkpoint
    assert equal(final_weights(whole), final_weights(second))
    assert rows(second) == [row for row in rows(whole) if row["step"] > 4]


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path, small: list[str]) -> None:
    place = folder(tmp_path / "first")
    assert train(config([*small, *DPO]), place, hooks(stop_at=4)) is None
    start = f"{FINETUNING}.resume_from_checkpoint={place.checkpoints / 'checkpoint-4'}"
    cases = {
        "model.config.n_embd=32": "must have weights of the model's shape",
        "optimizer.optimizer_params.lr=0.5": r"optimizer_params\.lr: must be that of",
        "optimizer=rmsprop": r"1 problem:\n.*optimizer: must be that of .* only one of the two has alpha, amsgrad, ",
        "lora=lora": "must hold adapters, as lora says, but holds a whole model",
        f"{KEYS}.max_steps=4": "has done 4 of 4",
        f"{KEYS}.batch_size=16": rf"{KEYS}\.batch_size: must be that of .*checkpoint-4, 8, whose order .* is 16",
        "seed=1": r"seed: must be that of .*checkpoint-4, 0, whose order of rows goes on; is 1",
    }
    for number, (override, words) in enumerate(cases.items()):
        with pytest.raises(ConfigError, match=words):
            finish([*small, *DPO, start, override], folder(tmp_path / str(number)))
    (tmp_path / "pairs.jsonl").write_text("\n".join((tmp_path / "pairs.jsonl").read_text().splitlines()[1:]))
    with pytest.raises(DataError, match="must be the data that checkpoint-4 was trained on") as caught:
        finish([*small, *DPO, start], folder(tmp_path / "data"))
    assert "restore the data, or start from the weights alone: set model.archive instead" in str(caught.value)
    (place.checkpoints / "checkpoint-4" / "scheduler.pt").unlink()
    with pytest.raises(ConfigError, match=r"must be a whole checkpoint, but of .*checkpoint-4: lacks scheduler\.pt"):
        finish([*small, *DPO, start], folder(tmp_path / "damaged"))


def test_a_run_goes_on_in_other_micro_batches_and_with_its_own_times_to_log_and_to_save(
    tmp_path: Path, small: list[str]
) -> None:
    """The checkpoint of the other run says neither."""
    whole, first, second = (folder(tmp_path / name) for name in ("whole", "first", "second"))
    own = [f"{KEYS}.log_every=1", f"{KEYS}.save_every=3", f"{KEYS}.save_total_limit=null"]
    finish([*small, *DPO, *own], whole)
    assert train(config([*small, *DPO]), first, hooks(stop_at=4)) is None
    start = f"{FINETUNING}.resume_from_checkpoint={first.checkpoints / 'checkpoint-4'}"
    finish([*small, *DPO, *own, start, f"{KEYS}.micro_batch_size=2"], second)
    assert steps(second.checkpoints) == [6, 9, 12]
    logged = {row["step"]: row["loss"] for row in rows(second) if "loss" in row}
    assert list(logged) == list(range(5, 13))
    expected = {row["step"]: row["loss"] for row in rows(whole) if "loss" in row and row["step"] > 4}
    assert logged == pytest.approx(expected, rel=1e-4)


def test_the_number_of_examples_says_how_long_to_train(tmp_path: Path, small: list[str]) -> None:
    result = finish([*small, *DPO, f"{KEYS}.max_steps=null", f"{KEYS}.n_examples=31"], folder(tmp_path / "run"))
    assert result.step == 3


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ({"n_examples": "31"}, "exactly one of max_steps, num_epochs and n_examples must be given"),
        ({"max_steps": "null"}, "but they are None, None, None"),
        ({"max_steps": "null", "n_examples": "7"}, "must be at least batch_size=8"),
    ],
)
def test_exactly_one_key_says_how_long_to_train(small: list[str], lengths: dict[str, str], words: str) -> None:
    overrides = [f"{KEYS}.{key}={value}" for key, value in lengths.items()]
    (problem,) = constraint_problems(config([*small, *DPO, *overrides]))
    assert words in str(problem)


@pytest.mark.slow
@pytest.mark.skipif(which("c++") is None, reason="compile=true needs a C++ compiler on a CPU: apt-get install g++")
def test_a_compiled_model_trains_alike_and_resumes(tmp_path: Path, small: list[str]) -> None:
    plain, compiled = folder(tmp_path / "plain"), folder(tmp_path / "compiled")
    finish([*small, *DPO], plain)
    overrides = [*small, *DPO, f"{KEYS}.compile=true"]
    torch.compiler.reset()
    assert train(config(overrides), compiled, hooks(stop_at=5)) is None
    finish(overrides, compiled)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert final_weights(plain).keys() == final_weights(compiled).keys()
    losses = [[row["loss"] for row in rows(place) if "loss" in row] for place in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
