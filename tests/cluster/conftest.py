"""One cluster for all tests of a session; with pytest-xdist one for each worker that has tests for it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster.cluster import Cluster, guarded
from tests.cluster.layout import missing

if TYPE_CHECKING:
    from tests.cluster.bench import Bench


@pytest.fixture(scope="session")
def slurm() -> None:
    """Skips where no cluster can run, and fails there under CI."""
    if reason := missing():
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def cluster(slurm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Yields a running cluster, which ends with the session however that ends."""
    with guarded(tmp_path_factory.getbasetemp() / "cluster") as running:
        yield running


@pytest.fixture
def bench(
    cluster: Cluster, tmp_path: Path, run_forks: Mapping[str, str], request: pytest.FixtureRequest
) -> Iterator[Bench]:
    """Yields a workplace on the cluster with no job before and after."""
    from tests.cluster.bench import Bench  # which needs tests/conftest.py, which takes its fixtures from here

    cluster.reset()
    bench = Bench(tmp_path, cluster, run_forks)
    yield bench
    print(f"{request.node.name}: {bench.account()}")  # a row of the fault table of docs/slurm.md: pytest -rP shows it
    cluster.reset()
