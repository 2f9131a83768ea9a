"""Checkpoints that are written while the next steps train."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import TrainerCallback

from gpt_opt.errors import ClaimLost
from gpt_opt.records.io import unfenced
from gpt_opt.records.run_dir import checkpoints
from gpt_opt.training import memory
from gpt_opt.training.checkpointing import (
    commit_checkpoint,
    damage,
    remove_beyond,
    remove_unfinished,
    staging_folder,
)
from gpt_opt.training.loop import train
from gpt_opt.training.memory import host_room
from gpt_opt.training.saving import Saving, on_host
from tests.training.test_training import DPO, config, finish, folder, hooks

seen: list[list[str]] = []


class Looking(TrainerCallback):
    """A callback of a user's that looks for the checkpoint that it is told of, and for the last one."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir)
        assert not damage(folder / f"checkpoint-{state.global_step}")
        seen.append([path.name for path in checkpoints(folder)])


class AtTheEnd(TrainerCallback):
    """One that looks at the end alone."""

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        seen.append([path.name for path in Path(args.output_dir).iterdir()])


class Changing(TrainerCallback):
    """One that changes a model in the third step."""

    do: Callable[[int, Any], None]

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        if state.global_step == 3:
            Changing.do(state.global_step, model)


@pytest.fixture
def before_writing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Lets the writer of a checkpoint do something first."""

    def let(do: Callable[[], object]) -> None:
        def slowly(self: Saving, write: Callable[[], None]) -> None:
            start(self, lambda: (do(), write())[1])

        start = Saving.start
        monkeypatch.setattr(Saving, "start", slowly)

    return let


@pytest.mark.parametrize("own", [[], ["training.training_params.ema_decay=0.5"]], ids=["last", "averaged"])
def test_a_checkpoint_that_is_written_late_holds_its_own_step(
    tmp_path: Path, small: list[str], before_writing: Callable[[Callable[[], object]], None], own: list[str]
) -> None:
    overrides = [*small, *DPO, *own, "training.training_params.save_total_limit=null"]
    at_once, late, goes_on = folder(tmp_path / "at_once"), folder(tmp_path / "late"), threading.Event()
    finish(overrides, at_once)

    def look(step: int) -> None:
        if step == 7:
            assert not checkpoints(late.checkpoints)
            goes_on.set()

    before_writing(lambda: goes_on.wait(60))
    assert train(config(overrides), late, hooks(on_step=look)) is not None
    for first, second in zip(checkpoints(at_once.checkpoints), checkpoints(late.checkpoints), strict=True):
        for name in ("model.safetensors", "optimizer.pt"):
            assert (first / name).read_bytes() == (second / name).read_bytes(), name
        assert [file.name for file in sorted(first.iterdir())] == [file.name for file in sorted(second.iterdir())]


def test_a_callback_of_a_user_finds_what_it_is_told_of(
    tmp_path: Path, small: list[str], before_writing: Callable[[Callable[[], object]], None]
) -> None:
    seen.clear()
    before_writing(lambda: time.sleep(0.2))
    limit = "training.training_params.save_total_limit=2"
    finish([*small, *DPO, limit, f"callbacks=[{{_target_: {__name__}.Looking}}]"], folder(tmp_path / "run"))
    assert seen == [["checkpoint-4"], ["checkpoint-4", "checkpoint-8"], ["checkpoint-8", "checkpoint-12"]]
    finish([*small, *DPO, f"callbacks=[{{_target_: {__name__}.AtTheEnd}}]"], folder(tmp_path / "end"))
    assert seen[3:] == [["checkpoint-12"]]


def fail() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_checkpoint_that_cannot_be_written_ends_the_training_soon(
    tmp_path: Path, small: list[str], before_writing: Callable[[Callable[[], object]], None]
) -> None:
    place, steps = folder(tmp_path / "run"), list[int]()

    def slowly(step: int) -> None:
        steps.append(step)
        time.sleep(0.05 if step > 4 else 0)

    before_writing(fail)
    with pytest.raises(OSError, match="No space left"):
        train(config([*small, *DPO]), place, hooks(on_step=slowly))
    assert 4 <= steps[-1] < 8, "not only by the next checkpoint"
    assert not checkpoints(place.checkpoints)


def test_of_two_errors_that_of_the_training_is_raised(
    tmp_path: Path,
    small: list[str],
    before_writing: Callable[[Callable[[], object]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed = threading.Event()

    def crash(step: int) -> None:
        if step == 5:
            failed.set()
            raise ZeroDivisionError

    before_writing(lambda: (failed.wait(60), fail()))
    with caplog.at_level(logging.WARNING), pytest.raises(ZeroDivisionError):
        train(config([*small, *DPO]), folder(tmp_path / "run"), hooks(on_step=crash))
    assert "the last checkpoint was not saved: [Errno 28] No space left on device" in caplog.text


def test_an_interrupt_waits_for_no_checkpoint(
    tmp_path: Path, small: list[str], before_writing: Callable[[Callable[[], object]], None]
) -> None:
    place, goes_on = folder(tmp_path / "run"), threading.Event()

    def interrupt(step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    before_writing(lambda: goes_on.wait(60))
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        train(config([*small, *DPO]), place, hooks(on_step=interrupt))
    assert time.monotonic() - begun < 50
    (writer,) = [thread for thread in threading.enumerate() if thread.name == "checkpoint"]
    goes_on.set()
    writer.join(60)
    assert list(place.checkpoints.iterdir()) == [], "nor does one come later"


def test_what_the_memory_has_no_room_for_twice_is_written_at_once(
    tmp_path: Path,
    small: list[str],
    before_writing: Callable[[Callable[[], object]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, written = folder(tmp_path / "run"), list[list[str]]()

    def look() -> None:
        (saved,) = place.checkpoints.glob(".saving-*/checkpoint-*")
        written.append([name for name in ("model.safetensors", "optimizer.pt") if (saved / name).exists()])

    before_writing(look)
    for room in (1 << 40, 0):
        monkeypatch.setattr("gpt_opt.training.saving.host_room", lambda room=room: room)
        finish([*small, *DPO, "training.training_params.max_steps=1"], place)
        assert not damage(place.checkpoints / "checkpoint-1")
        shutil.rmtree(place.checkpoints)
    assert written == [[], ["model.safetensors", "optimizer.pt"]]


def test_the_room_of_the_host_is_that_of_the_tightest_cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_cgroup_rooms", lambda: iter([5, 3, 9]))
    assert host_room() == 3
    monkeypatch.setattr(memory, "_cgroup_rooms", lambda: iter([]))
    assert 0 < host_room() <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("version", "names"),
    [(1, ("limit_in_bytes", "usage_in_bytes", "total_inactive_file")), (2, ("max", "current", "inactive_file"))],
)
def test_a_cgroup_has_room_for_what_its_limit_and_those_above_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, names: tuple[str, str, str]
) -> None:
    monkeypatch.setattr(memory, "memory_cgroups", lambda: iter([(version, tmp_path, tmp_path / "job" / "step")]))
    for place, limit, used, unused in (("job/step", "max", 1, 0), ("job", "1000", 700, 200)):
        folder = tmp_path / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"memory.{names[0]}").write_text(f"{limit}\n")
        (folder / f"memory.{names[1]}").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {unused}\n")
    assert list(memory._cgroup_rooms()) == [500]


def test_a_sampler_at_work_leaves_no_trace_in_a_checkpoint(
    tmp_path: Path, small: list[str], before_writing: Callable[[Callable[[], object]], None]
) -> None:
    place, looked = folder(tmp_path / "run"), threading.Event()
    before_writing(lambda: looked.wait(60))

    def sampling(step: int, model: Any) -> None:
        model.generation_config.max_new_tokens, model.config.n_head = 77, 5
        looked.set()

    Changing.do = staticmethod(sampling)
    limit = ["training.training_params.max_steps=4", f"callbacks=[{{_target_: {__name__}.Changing}}]"]
    finish(
        [*small, *DPO, "training.training_params.save_every=2", "training.training_params.save_total_limit=2", *limit],
        place,
    )
    first = place.checkpoints / "checkpoint-2"
    assert "max_new_tokens" not in json.loads((first / "generation_config.json").read_text())
    assert json.loads((first / "config.json").read_text())["n_head"] == 2


def test_a_copy_is_no_view_and_ties_stay() -> None:
    weight = torch.arange(4.0)
    state = {"a": weight, "b": weight, "part": weight[:2], "steps": [torch.tensor(1.0), 3]}
    copied = on_host(state)
    weight.add_(1)
    state["steps"][0].add_(1)
    assert copied["a"].tolist() == [0, 1, 2, 3]
    assert copied["a"] is copied["b"]
    assert copied["part"].tolist() == [0, 1]
    assert copied["steps"] == [torch.tensor(1.0), 3]
    wrapped = [torch.nn.Parameter(torch.ones(0)), torch.nn.Parameter(torch.zeros(0)), torch.eye(2).to_sparse()]
    held = on_host({"items": wrapped})["items"]
    assert held[0] is not held[1], "an address of 0 says nothing"
    assert torch.equal(held[2].to_dense(), torch.eye(2))


def test_an_attempt_that_was_replaced_touches_nothing_of_the_later_one(tmp_path: Path) -> None:
    staging, theirs = staging_folder(tmp_path, 4, 1), tmp_path / "checkpoint-4"
    being_saved, newer = staging_folder(tmp_path, 4, 2), tmp_path / "checkpoint-8"
    for place in (staging / "checkpoint-4", theirs, being_saved, newer):
        place.mkdir(parents=True)

    def replaced() -> None:
        raise ClaimLost("replaced")

    remove_unfinished(tmp_path, 2)
    being_saved.mkdir()
    with pytest.raises(FileNotFoundError):  # it slept after it had asked
        commit_checkpoint(staging / "checkpoint-4", tmp_path, unfenced)
    with pytest.raises(ClaimLost):
        remove_beyond(tmp_path, 4, 1, None, replaced)
    remove_unfinished(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [being_saved.name, theirs.name, newer.name]


def test_a_checkpoint_replaces_one_of_the_same_step(tmp_path: Path) -> None:
    staging, former = staging_folder(tmp_path, 4, 1), tmp_path / "checkpoint-4"
    for place in (staging / "checkpoint-4", former):
        place.mkdir(parents=True)
        (place / place.parent.name).touch()
    commit_checkpoint(staging / "checkpoint-4", tmp_path, unfenced)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        "checkpoint-4",
        f"checkpoint-4/{staging.name}",
    ]
