"""Numbers that processes compute together: each once, whole after a kill, made anew where the file is damaged."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from gpt_opt.training import reference_file
from gpt_opt.training.reference_file import PartsFile, Values, fill

SIZES = [3, 1, 4, 2]
PARTS: list[Values] = [np.arange(size) / 3 - 7.25 * index for index, size in enumerate(SIZES)]
ALL = np.concatenate(PARTS)
BYTES = [8 * size + 32 for size in SIZES]

fork = multiprocessing.get_context("fork")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "name.logps"


def filled(path: Path, stop: Callable[[], bool] = lambda: False) -> tuple[Values, list[int]]:
    """Returns all numbers, and which parts were computed for them."""
    seen: list[int] = []

    def compute(part: int) -> Values:
        seen.append(part)
        return PARTS[part]

    file = PartsFile(path, SIZES)
    values, computed = fill(file, compute, stop)
    file.close()
    assert computed == sum(SIZES[part] for part in seen)
    return values, seen


def test_what_one_computes_the_next_reads(path: Path) -> None:
    first, second = filled(path), filled(path)
    assert first[0].tolist() == second[0].tolist() == ALL.tolist()
    assert (first[1], second[1]) == ([0, 1, 2, 3], [])


def torn(data: bytes) -> bytes:
    return data[: BYTES[0] + BYTES[1] + 5]


def flipped(data: bytes) -> bytes:
    place = BYTES[0] + BYTES[1] + 6
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def swapped(data: bytes) -> bytes:
    """The first two numbers and their SHA-256 in the last part, which is as long."""
    return data[: -BYTES[3]] + data[BYTES[0] + BYTES[1] + BYTES[2] - BYTES[3] : -BYTES[3]]


@pytest.mark.parametrize(
    ("damage", "again"),
    [(torn, [2, 3]), (flipped, [2]), (swapped, [3]), (lambda data: b"", [0, 1, 2, 3]), (lambda data: data + b"x", [])],
    ids=["torn", "flipped", "swapped", "empty", "longer"],
)
def test_only_what_is_damaged_is_made_anew(path: Path, damage: Callable[[bytes], bytes], again: Sequence[int]) -> None:
    filled(path)
    path.write_bytes(damage(path.read_bytes()))
    values, computed = filled(path)
    assert (values.tolist(), computed) == (ALL.tolist(), again)
    assert filled(path)[1] == []


def test_a_file_of_another_name_is_another_file(path: Path) -> None:
    filled(path)
    other = path.with_name("other.logps")
    path.rename(other)
    assert filled(other)[1] == [0, 1, 2, 3]


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    (precious := tmp_path / "precious").write_text("a thesis")
    path.parent.mkdir()
    path.symlink_to(precious)
    with pytest.raises(OSError, match=r"name\.logps"):
        filled(path)
    assert precious.read_text() == "a thesis"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_neither_kept_nor_believed(path: Path, bad: float) -> None:
    file = PartsFile(path, SIZES)
    file.write(2, np.array([1, bad, 3, 4]))  # with the right SHA-256
    assert file.read(2) is None
    bad_part = np.full(4, bad)
    values, _ = fill(file, lambda part: bad_part if part == 2 else PARTS[part], lambda: False)
    assert np.isfinite(values).tolist() == [True] * 4 + [False] * 4 + [True] * 2
    assert file.read(2) is None
    file.close()
    assert filled(path)[1] == [2]


def test_a_killed_process_leaves_what_it_has_done_and_the_next_goes_on_from_there(path: Path) -> None:
    def compute(part: int) -> Values:
        if part == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return PARTS[part]

    killed = fork.Process(target=lambda: fill(PartsFile(path, SIZES), compute, lambda: False))
    killed.start()
    killed.join(30)
    assert killed.exitcode == -signal.SIGKILL
    values, computed = filled(path)
    assert (values.tolist(), computed) == (ALL.tolist(), [2, 3])


def test_processes_that_start_at_once_compute_each_part_once_between_them(path: Path, tmp_path: Path) -> None:
    start = fork.Barrier(3)

    def work(number: int) -> None:
        def compute(part: int) -> Values:
            with (tmp_path / "computed").open("a") as stream:
                stream.write(f"{number} {part}\n")
            time.sleep(0.05)
            return PARTS[part]

        start.wait(30)
        values, _ = fill(PartsFile(path, SIZES), compute, lambda: False)
        assert values.tolist() == ALL.tolist()

    workers = [fork.Process(target=work, args=[number]) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    lines = [line.split() for line in (tmp_path / "computed").read_text().splitlines()]
    assert sorted(part for _, part in lines) == ["0", "1", "2", "3"]
    assert len({number for number, _ in lines}) > 1


def test_one_that_waits_for_another_heeds_a_stop_and_its_own_patience(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_lock, done = fork.Event(), fork.Event()

    def hold() -> None:
        with PartsFile(path, SIZES).claimed(1):
            has_lock.set()
            done.wait(30)

    holder = fork.Process(target=hold)
    holder.start()
    assert has_lock.wait(30)
    monkeypatch.setattr(reference_file, "_POLL_S", 0.01)
    asked: list[bool] = []
    known = [True] * 3 + [False] + [True] * 6
    values, computed = filled(path, lambda: asked.append(True) or len(asked) > 6)
    assert (np.isfinite(values).tolist(), computed) == (known, [0, 2, 3])
    monkeypatch.setattr(reference_file, "_PATIENCE_S", 0.05)
    assert np.isfinite(filled(path)[0]).tolist() == known
    done.set()
    holder.join(30)
    assert filled(path)[1] == [1]


def test_a_stop_leaves_the_rest(path: Path) -> None:
    asked: list[bool] = []
    values, computed = filled(path, lambda: asked.append(True) or len(asked) > 2)
    assert (np.isfinite(values).sum(), computed) == (4, [0, 1])
    assert filled(path)[1] == [2, 3]


def test_a_disk_that_fills_up_costs_a_line(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: PartsFile, part: int, values: Values) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PartsFile, "write", full)
    values, _ = filled(path)
    assert np.isfinite(values).tolist() == [True] * 3 + [False] * 7
    assert "cannot be kept, and are computed in each step: [Errno 28] No space left on device" in caplog.text


@pytest.mark.parametrize("call", ["pread", "close"])
def test_a_file_system_that_fails_costs_a_line(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    """A file that another machine has deleted, and room that is missing when the file is closed."""
    file = PartsFile(path, SIZES)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, lambda *_: (_ for _ in ()).throw(OSError(116, "Stale file handle")))
        values, _ = fill(file, PARTS.__getitem__, lambda: False)
        file.close()
    assert np.isfinite(values).all() == (call == "close")
    assert ("Stale file handle" in caplog.text) == (call == "pread")
