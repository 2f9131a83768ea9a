"""Names that disBatch, Slurm and submitit can take, for folders whose own names they would break.

disBatch writes paths into shell commands without quotes, and its tasks are ASCII; Slurm and submitit replace `%` in
file names. Where the path of a sweep directory, or of this Python, has such characters, they are told a link to it.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

from gpt_opt.errors import ConfigError, GptOptError, Problem
from gpt_opt.records.sweep_dir import Sweep

_PLAIN = re.compile(r"[A-Za-z0-9_./+=,@:-]+")


def _links() -> Path:
    """Returns the folder of links; all nodes must see it, as they do a home."""
    return Path(os.environ.get("GPTOPT_CACHE") or Path.home() / ".cache" / "gpt-opt").absolute() / "links"


def _plain(path: Path) -> Path:
    """Returns the path itself where it is plain, else that of a link to it."""
    if _PLAIN.fullmatch(str(path)) is not None:
        return path
    return _links() / hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def plain(sweep: Sweep) -> Sweep:
    """Returns the sweep directory by a plain name; `make_links` makes the name good."""
    return sweep.at(_plain(sweep.root))


def program(name: str) -> str:
    """Returns the path of a command installed beside this Python, by a plain name.

    Raises:
        GptOptError: If it is not there.
    """
    file = Path(sys.executable).parent / name
    if not file.is_file():
        raise GptOptError(f"{file} must exist, but does not; install the project: pip install -e .")
    # The environment as a whole is linked: a Python that is linked alone does not know whose it is.
    return str(_plain(file.parent.parent) / file.parent.name / name)


def require_links(folder: Path) -> None:
    """Refuses a folder of sweep directories that has no plain name.

    Raises:
        ConfigError: Names the path.
    """
    for path in (folder.absolute(), Path(sys.executable).parent.parent):
        if _PLAIN.fullmatch(str(_plain(path))) is None:
            message = (
                f"{str(path)!r} has characters other than letters, digits and _./+=,@:-, so disBatch and Slurm would "
                f"be told a link to it, but the folder of links, {str(_links())!r}, has such characters too"
            )
            fix = "export GPTOPT_CACHE=FOLDER, one with a plain name that all nodes see"
            raise ConfigError([Problem("folder", message, fix)], ", nothing was started")


def make_links(sweep: Sweep) -> None:
    """Makes the links that the plain names of a sweep directory and of this Python need."""
    for path in (sweep.root, Path(sys.executable).parent.parent):
        link = _plain(path)
        if link != path and not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            new = link.with_name(f".{link.name}.{os.getpid()}")
            new.symlink_to(path)
            new.replace(link)
