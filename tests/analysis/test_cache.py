"""The cache of loads: never stale, never needed, safe with many readers and writers."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis import cache, load_metrics, load_runs
from analysis.cache import FOLDER, source_hash
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import State

MakeRun = Callable[..., RunPaths]

RUNS = 6


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps few runs too, and files of this moment."""
    monkeypatch.setattr(cache, "LEAST", 2)
    monkeypatch.setattr(cache, "MARGIN_S", -3600.0)


@pytest.fixture
def runs(make_run: MakeRun) -> list[RunPaths]:
    return [make_run({"loss.beta": number / 10, "seed": number}, scale=number) for number in range(RUNS)]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories whose files were read, in this process."""
    found: list[str] = []
    from analysis import load

    for name in ("_RUNS", "_METRICS"):
        kind = getattr(load, name)

        def read(folders: list[str], own: Callable[..., object] = kind.read) -> object:
            found.extend(folders)
            return own(folders)

        monkeypatch.setattr(load, name, replace(kind, read=read, least=10**9))
    return found


def kept(outputs: Path) -> list[Path]:
    return sorted((outputs / FOLDER).glob("*.parquet"))


def both(outputs: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return load_runs(outputs), load_metrics(outputs)


def without_cache(outputs: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the frames of a folder that cannot have a cache."""
    hidden = outputs.parent / "cache-put-aside"
    if (outputs / FOLDER).exists():
        (outputs / FOLDER).rename(hidden)
    (outputs / FOLDER).touch()
    found = both(outputs)
    (outputs / FOLDER).unlink()
    if hidden.exists():
        hidden.rename(outputs / FOLDER)
    return found


def assert_same(found: tuple[pd.DataFrame, ...], expected: tuple[pd.DataFrame, ...]) -> None:
    for one, other in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
        assert one.attrs == other.attrs


def test_what_has_not_changed_is_not_read_again(runs: list[RunPaths], outputs: Path, reads: list[str]) -> None:
    first = both(outputs)
    assert len(reads) == 2 * RUNS
    reads.clear()
    assert_same(both(outputs), first)
    assert reads == []
    assert_same(first, without_cache(outputs))


def test_by_another_name_of_the_folder_the_paths_are_those_of_the_name(
    runs: list[RunPaths], outputs: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    both(outputs)
    reads.clear()
    monkeypatch.chdir(outputs.parent)
    (outputs.parent / "link").symlink_to(outputs)
    for name in ("outputs", "link", "outputs/../outputs/tiny-gpt2"):
        found = load_runs(name)
        assert found["path"].str.startswith(name).all()
        assert [os.path.realpath(path) for path in found["path"]] == [str(paths.root) for paths in runs]
    assert load_runs([paths.root for paths in runs])["path"].tolist() == [str(paths.root) for paths in runs]
    assert reads == []
    assert [folder.parent for folder in outputs.parent.rglob(FOLDER)] == [outputs]


def edit(file: Path, old: str, new: str) -> None:
    """Rewrites a file in place, with the times it had: size, inode and time of content stay."""
    times = file.stat()
    text = file.read_text()
    assert old in text
    assert len(old) == len(new)
    with file.open("r+") as stream:
        stream.write(text.replace(old, new))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_file_rewritten_with_its_former_times_is_seen(runs: list[RunPaths], outputs: Path, reads: list[str]) -> None:
    both(outputs)
    reads.clear()
    edit(runs[1].summary, "0.4523", "0.9999")
    edit(runs[2].metrics, '"eval/loss": 0.6', '"eval/loss": 0.7')
    edit(runs[3].config, '"beta": 0.3', '"beta": 0.9')
    edit(runs[4].state, '"COMPLETED"', '"FAILED"   ')
    found, curves = both(outputs)
    assert found["loss"][1] == 0.9999
    assert found["loss.beta"][3] == 0.9
    assert found["state"][4] == "FAILED"
    assert curves[curves["path"] == str(runs[2].root)]["eval/loss"].tolist() == [0.7, 0.7]
    assert reads == [str(runs[number].root) for number in (1, 3, 4, 2)]
    assert_same((found, curves), without_cache(outputs))


def test_runs_that_come_go_and_change_are_seen(make_run: MakeRun, outputs: Path) -> None:
    """Types, order, columns and what varies are those of the runs that are there, whatever was kept."""
    draw = random.Random(1)
    values = [0.1, 1, 1.0, True, "auto", None, [1, 2], {"a": 1}, {}, 2**70, "1"]
    for _ in range(4):
        make_run({"loss.beta": draw.choice(values)})
    for number in range(25):
        present = sorted(path.parent for path in outputs.glob("*/*/*/*/config.json"))
        what = draw.choice(["add", "add", "remove", "config", "summary", "metrics", "interrupt"])
        chosen = RunPaths(draw.choice(present))
        if what == "add":
            make_run({"loss.beta": draw.choice(values), f"own.key{draw.randrange(3)}": draw.choice(values)})
        elif what == "remove" and len(present) > 2:
            shutil.rmtree(chosen.root)
            chosen.root.mkdir()  # the next run takes another name
        elif what == "config":
            chosen.config.write_text(json.dumps({"loss": {"beta": draw.choice(values), "gamma": number}}))
        elif what == "summary":
            chosen.summary.write_text(json.dumps({"metrics": {"loss": draw.random(), f"own{number % 3}": None}}))
        elif what == "metrics":
            chosen.metrics.write_text(f'{{"step": 1, "loss": {number}}}\n{{"step": 2, "own{number % 3}": null}}\n')
        elif what == "interrupt":
            chosen.summary.unlink(missing_ok=True)
            chosen.state.write_text(json.dumps({"run_id": "0", "state": "INTERRUPTED", "attempt": number}))
        if number % 2:
            assert_same(both(outputs), without_cache(outputs))
    assert kept(outputs)


def test_new_metrics_of_a_run_without_a_result_are_seen(
    make_run: MakeRun, runs: list[RunPaths], outputs: Path, reads: list[str]
) -> None:
    waiting = make_run(state=State.INTERRUPTED, final=None)
    first = both(outputs)
    reads.clear()
    assert_same(both(outputs), first)
    assert reads == []
    with waiting.metrics.open("a") as stream:
        stream.write('{"step": 30, "loss": 0.125}\n')
    found = both(outputs)
    assert found[0]["loss"].tolist()[-1] == 0.125
    assert reads == [str(waiting.root)] * 2
    assert_same(found, without_cache(outputs))
    waiting.summary.write_text('{"metrics": {"loss": 0.25}}')
    assert load_runs(outputs)["loss"].tolist()[-1] == 0.25


def test_young_files_are_not_trusted(
    runs: list[RunPaths], outputs: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MARGIN_S", 3600.0)
    both(outputs)
    assert kept(outputs) == []
    reads.clear()
    both(outputs)
    assert len(reads) == 2 * RUNS


def test_runs_whose_files_do_not_tell_all_are_read_each_time(
    make_run: MakeRun, outputs: Path, reads: list[str]
) -> None:
    for _ in range(3):
        make_run()
    running = make_run(state=State.RUNNING, final=None)
    broken = make_run()
    broken.config.write_text("torn")
    broken.metrics.write_text("garbage\n")
    first = both(outputs)
    reads.clear()
    assert_same(both(outputs), first)
    assert reads == [str(running.root), str(broken.root), str(broken.root)]


def damages(file: Path) -> Iterator[bytes]:
    """Yields contents that a file of the cache may have after a crash or a bad disk."""
    whole = file.read_bytes()
    yield from (b"", b"PAR1", b"garbage" * 100, whole[: len(whole) // 2], whole[:-1], whole + b"x")
    draw = random.Random(2)
    for _ in range(10):
        place = draw.randrange(len(whole))
        yield whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :]


@pytest.mark.parametrize("load", [load_runs, load_metrics])
def test_a_damaged_file_is_made_anew(runs: list[RunPaths], outputs: Path, load: Callable[[Path], pd.DataFrame]) -> None:
    expected = load(outputs)
    (file,) = kept(outputs)
    for content in damages(file):
        for other in kept(outputs):
            other.unlink()
        file.write_bytes(content)
        assert_same((load(outputs),), (expected,))
        assert_same((load(outputs),), (expected,))


def test_files_of_another_version_are_left_alone(runs: list[RunPaths], outputs: Path) -> None:
    (outputs / FOLDER).mkdir()
    other = outputs / FOLDER / "runs.v999.x.parquet"
    other.write_bytes(b"of the future")
    both(outputs)
    assert other.read_bytes() == b"of the future"
    assert len(kept(outputs)) == 3
    os.utime(other, (0, 0))  # nobody has used that version for long
    runs[0].config.write_text(json.dumps({"loss": {"beta": 7}}))
    runs[1].config.write_text(json.dumps({"loss": {"beta": 8}}))
    load_runs(outputs)
    assert not other.exists()


def test_what_other_code_made_is_read_anew(
    runs: list[RunPaths], outputs: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = both(outputs)
    reads.clear()
    with monkeypatch.context() as patch:
        patch.setattr(cache, "VERSION", "another")
        assert_same(both(outputs), first)
        assert len(reads) == 2 * RUNS
    reads.clear()
    assert_same(both(outputs), first)
    assert reads == []


def test_the_version_is_the_code_that_makes_rows(tmp_path: Path) -> None:
    from analysis import curves, entries, files, run_rows, run_table
    from gpt_opt.records import state, step_log

    modules = (cache, curves, entries, files, run_rows, run_table, state, step_log)
    assert {Path(str(module.__file__)).parent for module in modules} == set(cache.SOURCES)
    assert source_hash(cache.SOURCES) == cache.VERSION
    (tmp_path / "rows.py").write_text("A = 1\n")
    (tmp_path / "text.txt").write_text("1")
    first = source_hash([tmp_path])
    (tmp_path / "text.txt").write_text("2")
    assert source_hash([tmp_path]) == first
    (tmp_path / "rows.py").write_text("A = 2\n")
    assert source_hash([tmp_path]) != first


def test_a_file_that_disappears_leaves_the_others_in_use(runs: list[RunPaths], outputs: Path, reads: list[str]) -> None:
    first = both(outputs)
    for kind in ("runs", "metrics"):
        gone = outputs / FOLDER / f"{kind}.v{cache.VERSION}.gone.parquet"
        gone.symlink_to(outputs / "nowhere")  # glob finds it, stat does not
    reads.clear()
    assert_same(both(outputs), first)
    assert reads == []


def test_where_nothing_can_be_written_loading_works(runs: list[RunPaths], outputs: Path) -> None:
    (outputs / FOLDER).touch()  # like a read-only folder: no directory can be made
    assert len(load_runs(outputs)) == RUNS
    assert len(load_metrics(outputs)) == 2 * RUNS


def test_few_runs_leave_no_cache(runs: list[RunPaths], outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LEAST", RUNS + 1)
    both(outputs)
    assert not (outputs / FOLDER).exists()


def test_many_or_outdated_files_become_one(
    runs: list[RunPaths], outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_FILES", 2)
    for number in range(5):
        for paths in runs[:3]:
            paths.config.write_text(json.dumps({"loss": {"beta": number}}))
        load_runs(outputs)
    assert len(kept(outputs)) <= 3
    assert_same((load_runs(outputs),), without_cache(outputs)[:1])


def _keep_loading(outputs: Path, expected: tuple[pd.DataFrame, ...], number: int) -> None:
    draw = random.Random(number)
    code = 1
    try:
        for _ in range(12):
            if draw.random() < 0.3:
                for file in kept(outputs):
                    file.unlink(missing_ok=True)
            assert_same(both(outputs), expected)
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def test_many_read_and_write_at_once(runs: list[RunPaths], outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_FILES", 1)
    expected = without_cache(outputs)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_keep_loading, args=(outputs, expected, number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        if worker.is_alive():  # a fork may deadlock: then this fails, and does not hang
            worker.kill()
            worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert not list((outputs / FOLDER).glob(".*.tmp"))


def test_several_processes_read_what_one_does(
    runs: list[RunPaths], outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from analysis import entries, load

    expected = without_cache(outputs)
    for name in ("_RUNS", "_METRICS"):
        kind = getattr(load, name)
        monkeypatch.setattr(load, name, replace(kind, least=1))
    monkeypatch.setattr(entries, "_PROCESSES", 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(3))
    assert_same(both(outputs), expected)
    assert len(kept(outputs)) == 4
    assert_same(both(outputs), expected)


def test_what_a_dead_process_did_not_read_is_read_here(
    runs: list[RunPaths], outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from analysis import entries, load

    expected, parent = without_cache(outputs), os.getpid()

    def read(folders: list[str]) -> entries.Entries:
        if os.getpid() != parent:
            os._exit(9)
        return load._RUNS.read(folders)

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(2))
    parts = entries.read_all(read, [str(paths.root) for paths in runs], 1)
    assert [path for part in parts for path in part.paths] == expected[0]["path"].tolist()
