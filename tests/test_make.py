"""The Makefile in a checkout whose folder has an odd name."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.conftest import ROOT

PYTHON = """\
#!/bin/bash
cat $PIP_CONSTRAINT >/dev/null || exit  # unquoted, as pip splits it
printf '%s\\n' "$*" >>calls
"""


def test_blanks_brackets_umlauts_and_per_cents_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my runs [ü] 50%"
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / "tests" / "cluster").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "tests" / "cluster" / "packages.sh").touch()
    (python := folder / ".venv" / "bin" / "python").write_text(PYTHON)
    python.chmod(0o700)
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    command = ["make", "sweep", "cluster", "cluster-down", "OUTPUTS=out"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    calls = (folder / "calls").read_text().splitlines()
    assert calls[0] == "-m pip install -q -e ."
    assert calls[1].startswith("run_hydra.py -m loss.beta=")
    assert calls[-2:] == ["-m tests.cluster up .cluster", "-m tests.cluster down .cluster"]
