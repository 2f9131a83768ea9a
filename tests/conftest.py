"""Shared fixtures: small configs and data, so that a whole run takes about a second."""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.helpers.forked import ForkServer, do_not_wait_for_the_disk
from tests.helpers.forking import sitecustomize

settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
os.fsync = do_not_wait_for_the_disk
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("COLUMNS", None)  # xdist's, by which tables would wrap
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each of many processes compiles what it imports

ROOT = Path(__file__).resolve().parent.parent
CONFIG_DIR = ROOT / "hydra_conf"


def _seconds(item: pytest.Item) -> float:
    """Returns about how long a test takes: what its mark says, else what most of its kind take."""
    slow = item.get_closest_marker("slow")
    return float(slow.args[0]) if slow and slow.args else 15.0 if slow else 5.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets most workers begin with what waits for Slurm, longest first, one with what else is slow, one with the rest.

    Each begins with a run of tests of equal length, and takes from the others' when it has done its own.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    clusters = max(1, workers - 2)
    heads: list[list[pytest.Item]] = [[] for _ in range(workers)]
    others = []
    for item in sorted(items, key=_seconds, reverse=True):
        if item.get_closest_marker("slurm"):
            min(heads[:clusters], key=lambda head: sum(map(_seconds, head))).append(item)
        elif item.get_closest_marker("slow"):
            heads[min(clusters, workers - 1)].append(item)
        else:
            others.append(item)
    ends = [(worker + 1) * len(items) // workers for worker in range(workers)]
    items.clear()
    for head, end in zip(heads, ends, strict=True):
        items += head
        fill = max(0, end - len(items))
        items += others[:fill]
        del others[:fill]
    items += others


_forks: list[ForkServer] = []


@pytest.hookimpl(optionalhook=True)  # of xdist
def pytest_xdist_setupnodes(specs: Sequence[Any]) -> None:
    """Starts what all workers share, and are forks of themselves."""
    _forks.append(ForkServer())
    for spec in specs:
        spec.python = _forks[0].python


@pytest.hookimpl(optionalhook=True)  # of xdist
def pytest_configure_node(node: Any) -> None:
    """Tells a worker of it."""
    node.workerinput["forks"] = _forks[0].socket


def pytest_unconfigure() -> None:
    """Ends it after the last one."""
    for server in _forks:
        server.close()


def pytest_collection_finish() -> None:
    """Keeps the collector from looking through all that the tests have imported, and from looking often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True)
def _imports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forgets what a test imported from temporary folders, and puts sys.path back: `mine` is another in each test."""
    path, before, temporary = list(sys.path), set(sys.modules), str(tmp_path_factory.getbasetemp())
    yield
    if len(sys.modules) > len(before) + 100:
        gc.collect()
        gc.freeze()  # else every collection looks through all of torch again, in the forks as well
    sys.path[:] = path
    for name in sys.modules.keys() - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(temporary):
            del sys.modules[name]
            importlib.invalidate_caches()


@pytest.fixture(autouse=True, scope="session")
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Gives each worker a cache and temporary files, GPU locks among them, that are not those of users and others."""
    os.environ["GPTOPT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    # But kernels that are compiled stay for the next time, as they do for users.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), "torchinductor_of_tests"))
    os.environ["TMPDIR"] = tempfile.tempdir = str(tmp_path_factory.mktemp("tmp"))


@pytest.fixture(scope="session")
def vectors() -> dict[str, Any]:
    return json.loads((ROOT / "tests" / "vectors.json").read_text())


def write_pairs(path: Path, count: int = 80) -> Path:
    """Writes `count` preference pairs over digits: the chosen answer counts on, the rejected one does not."""
    draw = random.Random(0)
    rows = []
    for index in range(count):
        start = draw.randrange(1000)
        wrong = list(f"{start + 1} {start + 2}")
        draw.shuffle(wrong)
        rows.append(
            {"prompt": f"{index}: {start} ", "chosen": f"{start + 1} {start + 2}", "rejected": "".join(wrong) + "!"}
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def small_overrides(folder: Path) -> list[str]:
    """Returns overrides that make a run of 12 steps last about a second, writing below folder/outputs."""
    return [
        "data=jsonl",
        f"data.dataset.path={write_pairs(folder / 'pairs.jsonl')}",
        "model.archive=null",
        "model.config.n_layer=1",
        "model.config.n_embd=16",
        "model.config.n_head=2",
        "training.training_params.max_length=64",
        "training.training_params.max_prompt_length=32",
        "training.training_params.batch_size=8",
        "training.training_params.max_steps=12",
        "training.training_params.log_every=2",
        "training.training_params.eval_every=4",
        "training.training_params.save_every=4",
        f"paths.output_dir={folder / 'outputs'}",
    ]


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    return small_overrides(tmp_path)


Runner = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def forks(pytestconfig: pytest.Config) -> Iterator[ForkServer]:
    """Yields the server of processes that need not import the libraries first: one for all workers."""
    server = ForkServer(getattr(pytestconfig, "workerinput", {}).get("forks", ""))
    yield server
    server.close()


@pytest.fixture
def run_forks(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """Returns what makes runs that are started with it forks; nothing where a test is marked to start new processes."""
    if request.node.get_closest_marker("new_process"):
        return {}
    forks: ForkServer = request.getfixturevalue("forks")
    new_torchrun = request.node.get_closest_marker("new_torchrun")
    return {**forks.environment, **({sitecustomize.NEW_TORCHRUN: "1"} if new_torchrun else {})}


@pytest.fixture
def forked(run_forks: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes forks of the runs and of the torchruns that a test starts."""
    for name, value in run_forks.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def run_hydra(forks: ForkServer) -> Runner:
    """Calls run_hydra.py as a user does and returns what came back; its process is forked, not started anew."""

    def run(arguments: Sequence[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return forks.run([str(ROOT / "run_hydra.py"), *arguments], cwd, timeout_s=300)

    return run


from tests.cluster.conftest import cluster, slurm  # noqa: E402, F401
