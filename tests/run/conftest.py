"""Runs that several modules compare others with."""

from __future__ import annotations

import pytest

from gpt_opt.records.run_dir import RunPaths
from tests.conftest import Runner, small_overrides


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory, run_hydra: Runner) -> RunPaths:
    """Returns a finished run of one process over LONG, which nobody disturbs."""
    from tests.run.test_distributed import DPO, LONG, only_run

    folder = tmp_path_factory.mktemp("alone")
    done = run_hydra([*small_overrides(folder), *LONG, *DPO])
    assert done.returncode == 0, done.stderr
    return only_run(folder)
