"""The code of an application: the files of its repository that a run imports or composes its config from.

They are those that git tracks, and of the others, as of a repository without git, those that look like code or configs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from gpt_opt.records.code import Code, commit_of, git, sha256_of
from gpt_opt.records.run_dir import RunPaths

FOLDER = "app-code"
"""Where they lie in a snapshot; no name of a module."""

MOST_FILES = 20_000
"""A repository with more has data in it, or a Python environment: only what git tracks is taken."""

_OF_RUN = RunPaths(Path()).state.name
"""In every run directory, wherever they are."""

_SUFFIXES = frozenset({".py", ".yaml", ".yml", ".toml", ".json", ".txt", ".cfg", ".ini", ".sh", ".jinja"})
_LARGEST_UNTRACKED = 2**20
_NO_CODE = frozenset({"__pycache__", "node_modules", "site-packages", "outputs", "multirun", "sweeps", "wandb"})


def files_of(root: Path) -> dict[str, Path]:
    """Returns the files of the code below a repository, by their paths in it."""
    tracked = _listed(root, "--cached")
    others = _listed(root, "--others", "--exclude-standard") if tracked is not None else list(_walked(root))
    found = {name: root / name for name in tracked or ()}
    if others is not None and len(others) <= MOST_FILES:
        runs = {name.removesuffix(f"/{_OF_RUN}") for name in others if name.endswith(f"/{_OF_RUN}")}
        code = (
            name for name in others if _looks_like_code(root, name) and runs.isdisjoint(map(str, Path(name).parents))
        )
        found |= {name: root / name for name in code}
    return {name: file for name, file in sorted(found.items()) if file.is_file()}


def _listed(root: Path, *which: str) -> list[str] | None:
    text = git(root, "ls-files", "-z", *which)
    return None if text is None else [name for name in text.split("\0") if name]


def _walked(root: Path) -> Iterator[str]:
    for folder, subfolders, names in os.walk(root):
        is_environment = "pyvenv.cfg" in names
        subfolders[:] = [] if is_environment else [n for n in subfolders if n[0] != "." and n not in _NO_CODE]
        if not is_environment:
            yield from (os.path.relpath(os.path.join(folder, name), root) for name in names)


def _looks_like_code(root: Path, name: str) -> bool:
    path = Path(name)
    if path.suffix not in _SUFFIXES or _NO_CODE & set(path.parts):
        return False
    try:
        return (root / name).stat().st_size <= _LARGEST_UNTRACKED
    except OSError:
        return False


def beside(root: Path, names: Iterable[str], left_out: Iterable[Path]) -> dict[str, Path]:
    """Returns what lies in the folders of some files but is none of them: data, weights, outputs of runs before.

    Args:
        root: The repository.
        names: The files, by their paths in it.
        left_out: Folders that are not returned.

    Returns:
        Files and folders by their paths in the repository. Of hidden ones the files and `.git`, by which programs know
        the root of their repository; without them they would find that of the real one, and import from there.
    """
    taken = set(names)
    folders = {str(folder) for name in taken for folder in Path(name).parents} | {"."}
    skipped = {os.path.realpath(folder) for folder in left_out}
    found: dict[str, Path] = {}
    for folder in sorted(folders):
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = os.path.normpath(os.path.join(folder, entry.name))
                known = name in taken or name in folders or os.path.realpath(entry.path) in skipped
                is_hidden = entry.name[0] == "." and entry.name != ".git" and not entry.is_file()
                if not (known or is_hidden or entry.name == "__pycache__"):
                    found[name] = Path(entry.path)
    return found


def import_roots(root: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Returns the folders of a repository that this Python finds its modules in, as after `pip install -e .`.

    Args:
        root: The repository.
        names: The files of its code, by their paths in it.

    Returns:
        Paths in the repository, "." for itself.
    """
    modules, found = {Path(name) for name in names if name.endswith(".py")}, set()
    for module in modules:
        top = module.parent if module.name == "__init__.py" else module.with_suffix("")
        while top.parent / "__init__.py" in modules:
            top = top.parent
        with suppress(ImportError, ValueError, AttributeError):
            spec = find_spec(top.name) if str(top.parent) not in found and top.name.isidentifier() else None
            file = top / "__init__.py" if top / "__init__.py" in modules else top.with_suffix(".py")
            if spec is not None and spec.origin and os.path.realpath(spec.origin) == os.path.realpath(root / file):
                found.add(str(top.parent))
    return tuple(sorted(found))


def code_of(root: Path) -> Code:
    """Returns the code of a repository as it is now."""
    commit, dirty, _ = commit_of(root)
    return Code(sha256_of(root, files_of(root)), str(root), commit, dirty)
