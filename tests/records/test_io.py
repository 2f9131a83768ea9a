"""Logs of JSON lines and the lock: what one writer leaves, the next reader or writer can use."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt_opt.records import io
from gpt_opt.records.io import append_records, create_text, lock, read_lines, write_text


def whole(record: dict[str, Any]) -> dict[str, Any]:
    return record


def test_what_is_appended_is_read_in_order(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    for durable in (True, False):
        append_records(file, [{"n": 1, "text": "a\nb\u2028c"}, {"n": 2}], durable)
    found = read_lines(file, whole)
    assert [record["n"] for record in found.records] == [1, 2, 1, 2]
    assert found.records[0]["text"] == "a\nb\u2028c"
    assert (found.foreign, found.torn, found.left_out) == ([], False, 0)


def test_an_absent_file_and_an_empty_one_have_no_lines(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "log.jsonl", whole).records == []
    (tmp_path / "log.jsonl").write_text("\n\n")
    assert read_lines(tmp_path / "log.jsonl", whole).left_out == 0


def test_every_cut_of_the_last_line_leaves_the_lines_before_it(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    first, last = b'{"n": 1}\n', '{"text": "Größe 東京 🙂"}'.encode()  # cut also inside characters of several bytes
    for length in range(1, len(last)):
        file.write_bytes(first + last[:length])
        found = read_lines(file, whole)
        assert found.records == [{"n": 1}], last[:length]
        assert found.torn
        assert found.foreign == []
    file.write_bytes(first + last)
    assert len(read_lines(file, whole).records) == 2, "only the newline is missing"


@pytest.mark.parametrize("length", [1, 12, 15, 24])
def test_an_append_after_a_torn_line_is_not_lost(tmp_path: Path, length: int) -> None:
    file = tmp_path / "log.jsonl"
    file.write_bytes('{"text": "Größe 東京"}'.encode()[:length])
    append_records(file, [{"n": 2}])
    found = read_lines(file, whole)
    assert found.records[-1] == {"n": 2}
    assert not found.torn
    assert found.left_out == 1


def test_foreign_lines_are_counted_and_named_and_the_others_read(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    lines = [b'{"n": 1}', b"no json", b"[1]", b"\xff\xfe", b"{" + b'"a":' * 3, b'{"m": 2}', b'{"n": "x"}', b'{"n": 4}']
    deep = b'{"n":' * 100_000
    file.write_bytes(b"\n".join([*lines, deep]) + b"\n")
    found = read_lines(file, lambda record: record["n"] + 1)
    assert found.records == [2, 5]
    assert [number for number, _ in found.foreign] == [2, 3, 4, 5, 6, 7, 9]
    assert "object is needed, not a list" in found.foreign[1][1]
    assert found.foreign[4][1] == "KeyError('n')"


def test_a_full_disk_is_named_and_the_line_before_stays(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as error:
        append_records(Path("/dev/full"), [{"n": 1}])
    assert error.value.filename == "/dev/full"


@pytest.mark.parametrize("name", ["gone/r.html", "folder", "file/r.html", "x" * 256])
@pytest.mark.parametrize("write", [write_text, create_text])
def test_what_cannot_be_written_is_named_and_not_its_temporary(
    tmp_path: Path, name: str, write: Callable[[Path, str], object]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    if (write, name) == (create_text, "folder"):
        assert not create_text(tmp_path / name, "a")
        return
    with pytest.raises(OSError, match=r"^\[Errno \d+\] [\w ]+: '[^']+'$") as error:
        write(tmp_path / name, "a")
    assert error.value.filename == str(tmp_path / name)


def _append(file: str, name: int) -> None:
    for number in range(50):
        append_records(Path(file), [{"name": name, "number": number, "fill": "x" * 2000}])


def test_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append, args=(str(file), name)) for name in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    found = read_lines(file, whole)
    assert found.left_out == 0
    for name in range(4):
        assert [row["number"] for row in found.records if row["name"] == name] == list(range(50))


# -- the lock ---------------------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from gpt_opt.records.io import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_keeps_others_out_until_its_holder_ends(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    file.write_text("kept")
    command = [sys.executable, "-c", HOLD, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError):
            lock(file, wait=False)
        process.kill()
    with lock(file) as stream:
        with pytest.raises(BlockingIOError):
            lock(file, wait=False)
        assert not stream.closed
    lock(file, wait=False).close()
    assert file.read_text() == "kept"


def test_a_lock_lives_as_long_as_a_process_that_inherited_it(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with lock(file) as stream:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[stream.fileno()])
    try:
        with pytest.raises(BlockingIOError):
            lock(file, wait=False)
    finally:
        child.kill()
        child.wait()
    lock(file, wait=False).close()


def _count(file: str) -> None:
    for _ in range(20):
        with lock(Path(file + ".lock")):
            number = int(Path(file).read_text())
            time.sleep(0.001)
            io.write_text(Path(file), str(number + 1))


def test_of_many_one_at_a_time_has_the_lock(tmp_path: Path) -> None:
    file = tmp_path / "number"
    file.write_text("0")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_count, args=(str(file),)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert json.loads(file.read_text()) == 80
