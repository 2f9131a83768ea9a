"""The warm process of a slot: its children are clean processes, and nothing of it is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from gpt_opt.dispatch.slot import warm
from gpt_opt.dispatch.slot.gpus import own_folder
from gpt_opt.run.warm import Request, _unfit
from tests.cluster.bench import Bench

Start = Callable[..., warm.WarmProcess]

REPORT = """
    import json, os, signal, sys
    import numpy, torch

    numpy.ones((600, 600)) @ numpy.ones((600, 600))
    torch.ones(600, 600) @ torch.ones(600, 600)
    known = {
        "argv": sys.argv[1:], "cwd": os.getcwd(), "pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0),
        "environment": dict(os.environ), "cpus": sorted(os.sched_getaffinity(0)), "name": __name__,
        "warning": signal.getsignal(signal.SIGUSR1).name, "end": signal.getsignal(signal.SIGTERM).name,
        "descriptors": sorted(os.readlink(f"/proc/self/fd/{item}") for item in os.listdir("/proc/self/fd")
                              if os.path.exists(f"/proc/self/fd/{item}")),
    }
    print(json.dumps(known))
    print("an error", file=sys.stderr)
    sys.exit(7)
"""
COMPUTE = """
    import hashlib, json, os
    import numpy, pyarrow, torch

    def threads():
        return len(os.listdir("/proc/self/task"))

    def digests():
        rows = numpy.sin(numpy.arange(360_000.0)).reshape(600, 600)
        tensor = torch.tensor(rows, dtype=torch.float32)
        found = [rows @ rows, numpy.linalg.solve(rows + 600 * numpy.eye(600), rows)]
        found += [(tensor @ tensor).numpy(), torch.linalg.qr(tensor)[1].numpy(), pyarrow.array(rows.ravel()).to_numpy()]
        return [hashlib.sha256(numpy.ascontiguousarray(item).tobytes()).hexdigest() for item in found]

    before, children = threads(), []
    for _ in range(2):
        reading, writing = os.pipe()
        if not os.fork():
            os.write(writing, json.dumps(digests()).encode())
            os._exit(0)
        os.close(writing)
        children.append(json.loads(os.fdopen(reading).read()))
        os.wait()
    print(json.dumps({"before": before, "children": children, "own": digests()}))
"""
DRAW = """
    import os, random
    import numpy, torch

    print(os.getppid(), numpy.random.rand(), random.random(), torch.rand(1).item())
"""
LEAVE = """
    import atexit, ctypes, os, pickle, signal, sys, threading, time

    from gpt_opt.run import program

    class Object:
        size: int

        def __del__(self):
            print("taken apart")

    def other():
        time.sleep(0.2)
        if sys.argv[2] == "4":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
        assert pickle.loads(pickle.dumps(Object)) is Object, "the script is __main__ to its end"
        assert Object.__annotations__ == {"size": int}, "without the future of another module"
        print("thread")

    end = sys.argv[2]
    threading.kept, threading.file = Object(), open(sys.argv[1], "w")
    threading.file.write("not closed")
    atexit.register(print, "at exit")
    threading.Thread(target=other).start()
    print("last")
    c = ctypes.CDLL(None)
    c.fopen.restype, c.fputs.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_void_p]
    c.fputs(b"of C", c.fopen(f"{sys.argv[1]}-by-c".encode(), b"w"))
    if end == "4":
        def stop(*_):
            raise RuntimeError("too late")
        signal.signal(signal.SIGTERM, stop)
    if end == "5":
        program._WRITE_S, (_, writing) = 0.5, os.pipe()
        full = open(writing, "wb")
        threading.Thread(target=lambda: full.write(bytes(1 << 20)), daemon=True).start()
        time.sleep(0.1)
    if end == "error":
        raise ValueError("of the script")
    if end.isdigit():
        raise program.Finished(int(end))
    sys.exit(end or None)
"""
WAIT = """
    import signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: (print("stopped", flush=True), sys.exit(3)))
    print("ready", flush=True)
    while True:
        time.sleep(0.05)
"""


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(textwrap.dedent(text))
    return file


def wait_for(what: Callable[[], object], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("warm")


@pytest.fixture
def environment(run_forks: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, **run_forks, "OMP_NUM_THREADS": "2", "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def start(folder: Path, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a script in the warm process of this test module, its output in `<script>.out` and `.err`."""
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    running: list[warm.WarmProcess] = []

    def start(script: Path, *arguments: str, **changed: str) -> warm.WarmProcess:
        with script.with_suffix(".out").open("w") as out, script.with_suffix(".err").open("w") as err:
            descriptors = [os.open(os.devnull, os.O_RDONLY), out.fileno(), err.fileno(), os.open(script, os.O_RDONLY)]
            command, ignored = [str(script), *arguments], [int(signal.SIGUSR1)]
            cpus = sorted(os.sched_getaffinity(0))
            request = Request(command, "/", {**environment, **changed}, cpus, ignored)
            process = warm.start(request, descriptors, folder / "log", ["torch"])
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(60)


def test_a_child_is_what_was_asked_for(start: Start, folder: Path) -> None:
    script = write(folder, "report.py", REPORT)
    process = start(script, "a b", "${x}", RUN="r")
    assert process.wait(120) == 7
    assert script.with_suffix(".err").read_text() == "an error\n"
    found = json.loads(script.with_suffix(".out").read_text())
    assert found["argv"] == ["a b", "${x}"]
    assert found["cwd"] == "/"
    assert found["name"] == "__main__"
    assert found["pid"] == found["session"] == process.pid
    assert found["environment"]["RUN"] == "r"
    assert found["cpus"] == sorted(os.sched_getaffinity(0))
    assert (found["warning"], found["end"]) == ("SIG_IGN", "SIG_DFL")
    assert str(script) in found["descriptors"], "what is passed on stays open"
    assert not [item for item in found["descriptors"] if item.startswith("socket:")], "and nothing of the server's"


def test_children_of_one_environment_share_a_server_and_those_of_another_do_not(start: Start, folder: Path) -> None:
    scripts = [write(folder, f"report{number}.py", REPORT) for number in range(3)]
    processes = [
        start(scripts[0], SLURM_PROCID="1", GPTOPT_RUN_ID="a"),
        start(scripts[1], SLURM_PROCID="2", GPTOPT_RUN_ID="b"),
        start(scripts[2], HF_HOME="/elsewhere"),
    ]
    assert [process.wait(120) for process in processes] == [7, 7, 7]
    parents = [json.loads(script.with_suffix(".out").read_text())["parent"] for script in scripts]
    assert parents[0] == parents[1] != parents[2]


def test_what_a_run_draws_without_a_seed_no_other_run_draws(start: Start, folder: Path) -> None:
    scripts = [write(folder, f"draw{number}.py", DRAW) for number in range(2)]
    assert [start(script).wait(120) for script in scripts] == [0, 0]
    first, second = (script.with_suffix(".out").read_text().split() for script in scripts)
    assert first[0] == second[0], "one server"
    assert [one != other for one, other in zip(first, second, strict=True)] == [False, True, True, False]
    # torch begins with the same numbers in every process, warm or cold


def test_threads_that_importing_leaves_do_no_harm(folder: Path) -> None:
    """OpenBLAS ends its threads before a fork, pyarrow's allocator starts its own anew: by handlers of theirs."""
    script = write(folder, "compute.py", COMPUTE)
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, timeout=120, check=True)
    found = json.loads(done.stdout)
    assert found["before"] > 1
    assert found["children"] == [found["own"], found["own"]]


@pytest.mark.parametrize(
    ("end", "code", "said", "taken"),
    [
        pytest.param("0", 0, "", [], id="done"),
        pytest.param("3", 3, "", [], id="with a code"),
        pytest.param("256", 0, "", [], id="with a code beyond a byte"),
        pytest.param("4", 4, "RuntimeError: too late\n", [], id="with a signal while a thread ends"),
        pytest.param("5", 5, "", [], id="with a thread that hangs in a write"),
        pytest.param("", 0, "", ["taken apart"], id="of a user's program"),
        pytest.param("in words", 1, "in words\n", ["taken apart"], id="in words"),
        pytest.param("error", 1, "ValueError: of the script\n", ["taken apart"], id="with an error"),
    ],
)
def test_a_run_ends_as_any_process(
    start: Start, folder: Path, end: str, code: int, said: str, taken: list[str]
) -> None:
    script = write(folder, "leave.py", LEAVE)
    process = start(script, str(folder / "written"), end)
    assert process.wait(60) == code
    lines = script.with_suffix(".out").read_text().splitlines()
    if end == "4":  # it is not waited for any more
        lines = [line for line in lines if line != "thread"]
    assert lines == ["last", *(["thread"] if end != "4" else []), "at exit", *taken]
    errors = script.with_suffix(".err").read_text()
    assert errors.endswith(said) if said else not errors
    if end != "5":
        assert (folder / "written").read_text() == "not closed"
        assert (folder / "written-by-c").read_text() == "of C"


def test_signals_reach_a_child_and_its_end_is_told(start: Start, folder: Path) -> None:
    script = write(folder, "wait.py", WAIT)
    process = start(script)
    wait_for(lambda: "ready" in script.with_suffix(".out").read_text())
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 3
    process = start(script)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    assert process.poll() == -signal.SIGKILL


def test_a_killed_server_ends_its_children_and_another_takes_its_place(start: Start, folder: Path) -> None:
    script = write(folder, "orphan.py", WAIT)
    process = start(script)
    wait_for(lambda: "ready" in script.with_suffix(".out").read_text())
    server = psutil.Process(process.pid).ppid()
    os.kill(server, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL, "how it ended nobody knows any more"
    assert script.with_suffix(".out").read_text() == "ready\nstopped\n"
    report = write(folder, "after.py", REPORT)
    assert start(report).wait(120) == 7
    assert json.loads(report.with_suffix(".out").read_text())["parent"] != server


SLOT = """
    import os, sys
    from pathlib import Path
    from gpt_opt.dispatch.slot import warm
    from gpt_opt.run.warm import Request

    script = Path(sys.argv[1])
    out = os.open(script.with_suffix(".out"), os.O_WRONLY | os.O_CREAT)
    streams = [os.open(os.devnull, os.O_RDONLY), out, out]
    request = Request([str(script)], "/", dict(os.environ), sorted(os.sched_getaffinity(0)), [])
    process = warm.start(request, streams, script.with_suffix(".log"), ["torch"])
    print(process.pid, os.getppid(), flush=True)
    sys.stdin.read()
"""
ENGINE = """
    import subprocess, sys
    slot = subprocess.Popen([sys.executable, *sys.argv[1:]], env={**__import__("os").environ, "DISBATCH_TASKID": "1"})
    print(slot.pid, flush=True)
    slot.wait()
    sys.stdin.read()
"""


@pytest.mark.parametrize("killed", ["slot", "engine"])
def test_a_child_stops_with_its_slot_and_a_server_ends_with_what_served_the_slot(
    tmp_path: Path, environment: Mapping[str, str], killed: str
) -> None:
    waiting, slot, engine = (write(tmp_path, *item) for item in (("w.py", WAIT), ("s.py", SLOT), ("e.py", ENGINE)))
    (tmp_path / "tmp").mkdir()
    own = {**environment, "TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, str(engine), str(slot), str(waiting)]
    process = subprocess.Popen(command, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    slot_pid = int(process.stdout.readline())
    child, parent = map(int, process.stdout.readline().split())
    assert parent == process.pid
    server = psutil.Process(child).ppid()
    wait_for(lambda: "ready" in waiting.with_suffix(".out").read_text())
    os.kill(slot_pid if killed == "slot" else process.pid, signal.SIGKILL)
    wait_for(lambda: gone(child))
    assert waiting.with_suffix(".out").read_text() == "ready\nstopped\n"
    if killed == "slot":
        assert not gone(server), "it is there for the next task"
        process.stdin.close()
        process.wait(10)
    else:
        os.kill(slot_pid, signal.SIGKILL)
        process.wait(10)
    wait_for(lambda: gone(server))
    assert [item.name for item in (tmp_path / "tmp").glob("gptopt-warm-*/[!.]*")] == []


def test_a_large_request_is_read_whole(start: Start, folder: Path) -> None:
    script = write(folder, "large.py", REPORT)
    large = {f"LARGE_{number}": "x" * 100_000 for number in range(20)}
    assert start(script, **large).wait(120) == 7
    assert len(json.loads(script.with_suffix(".out").read_text())["environment"]["LARGE_19"]) == 100_000


def test_a_run_whose_folder_is_gone_is_for_the_slot_to_tell(folder: Path, environment: Mapping[str, str]) -> None:
    script = write(folder, "gone.py", REPORT)
    request = Request([str(script)], str(folder / "nowhere"), environment, sorted(os.sched_getaffinity(0)), [])
    with open(os.devnull, "r+b") as nothing, pytest.raises(ConnectionError):
        warm.start(request, [nothing.fileno()] * 3, folder / "log", ["torch"])


def test_a_server_that_hangs_costs_one_wait_and_ends_with_what_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(warm, "_ANSWER_S", 0.5)
    write(tmp_path, "hangs.py", "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n")
    script = write(tmp_path, "report.py", REPORT)
    engine = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    monkeypatch.setattr(warm, "_parent", lambda: psutil.Process(engine.pid))
    cpus = sorted(os.sched_getaffinity(0))
    request = Request([str(script)], "/", dict(os.environ), cpus, [])
    with open(os.devnull, "r+b") as nothing:
        streams = [nothing.fileno()] * 3
        with pytest.raises(TimeoutError, match="did not answer"):
            warm.start(request, streams, tmp_path / "log", ["hangs"])
        assert not list(own_folder(f"warm-{socket.gethostname()}").glob("[!.]*")), "the next run has another one"
        monkeypatch.setattr(warm, "_ANSWER_S", 60)
        with pytest.raises(InterruptedError, match="asked to stop"):
            warm.start(request, streams, tmp_path / "log", ["hangs"], lambda: True)
    wait_for(lambda: len((tmp_path / "log").read_text().split()) == 2)
    servers = list(map(int, (tmp_path / "log").read_text().split()))
    assert not any(gone(server) for server in servers)
    engine.kill()
    engine.wait()
    for server in servers:
        wait_for(lambda server=server: gone(server))


def test_a_stopped_server_holds_up_nobody_for_long(start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "_TOLD_S", 0.2)
    script = write(folder, "stopped.py", WAIT)
    process = start(script)
    wait_for(lambda: "ready" in script.with_suffix(".out").read_text())
    server = psutil.Process(process.pid).ppid()
    os.kill(server, signal.SIGSTOP)
    try:
        os.kill(process.pid, signal.SIGKILL)
        wait_for(lambda: process.poll() is not None, timeout_s=20)
        assert process.returncode == -signal.SIGKILL
    finally:
        os.kill(server, signal.SIGKILL)


def test_what_a_child_would_not_survive_is_seen(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.touch()
    imported = {str(module): module.stat().st_mtime_ns}
    if threading.active_count() == 1:
        assert _unfit(imported) == ""
    os.utime(module, (1, 1))
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, name="mine")
    thread.start()
    try:
        assert "mine" in _unfit(imported)
    finally:
        ended.set()
        thread.join()
    if threading.active_count() == 1:
        assert _unfit(imported) == f"{module} has changed since it was imported"


def test_the_folder_of_sockets_is_of_its_owner_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert own_folder("warm").stat().st_mode & 0o777 == 0o700


def test_a_run_is_the_same_warm_and_cold(
    tmp_path: Path, run_forks: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for flag in ("--cold", "--live"):
        (tmp_path / flag / "tmp").mkdir(parents=True)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / flag / "tmp"))
        bench = Bench(tmp_path / flag, None, run_forks)
        bench.write([70, 71], steps=8)
        bench.call("gptopt", "drive", "sweep.json", flag, "--slots", "1")
        runs = [run.paths() for run in bench.sweep().runs]
        log = [*bench.sweep().logs.glob("warm-*.out")]
        assert bool(log) == (flag != "--cold")
        assert not [line for file in log for line in file.read_text().splitlines() if line.startswith("warm process")]
        found[flag] = [
            (
                {**json.loads(paths.summary.read_text())["metrics"], "tokens_per_second": 0, "eval/seconds": 0},
                (paths.checkpoints / "checkpoint-8" / "model.safetensors").read_bytes(),
            )
            for paths in runs
        ]
        wait_for(lambda bench=bench: not list(bench.tmp.glob("gptopt-warm-*/[!.]*")))
    assert found["--cold"] == found["--live"]
