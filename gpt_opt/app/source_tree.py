"""The Python files of a repository as syntax trees: what importing one would execute, without importing it."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

_SKIPPED = frozenset({"build", "dist", "node_modules", "site-packages", "outputs", "multirun", "lightning_logs"})
"""Folders that hold no source of the repository itself."""

_MOST_BYTES = 2_000_000
"""A longer file is made by a program, and parsing it takes seconds."""


class SourceTree:
    """The Python files below a folder, each parsed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._trees: dict[Path, ast.Module | None] = {}

    @cached_property
    def files(self) -> list[Path]:
        """Every Python file in order, without hidden folders, environments, other repositories and built files."""
        return source_files(self.root, ".py")

    def tree(self, file: Path) -> ast.Module | None:
        """Returns the syntax tree of a file; None where it is no Python of this version or cannot be read."""
        if file not in self._trees:
            try:
                data = file.read_bytes()
                self._trees[file] = ast.parse(data) if len(data) < _MOST_BYTES else None
            except (OSError, SyntaxError, ValueError, RecursionError):
                self._trees[file] = None
        return self._trees[file]

    def imported_with(self, script: Path) -> list[Path]:
        """Returns a script and the files of the repository that importing it imports, in that order."""
        bases = (script.parent, self.root, self.root / "src")
        found: dict[Path, None] = {}
        waiting = [script]
        while waiting:
            file = waiting.pop(0)
            tree = self.tree(file)
            if file in found or tree is None:
                continue
            found[file] = None
            for name, base in imported_names(tree, file):
                waiting += _files_of(name, bases if base is None else (base,))
        return list(found)

    def shown(self, file: Path, node: ast.expr | ast.stmt) -> str:
        """Returns `file:line` of a node, the file relative to the root."""
        return f"{file.relative_to(self.root)}:{node.lineno}"


def source_files(root: Path, suffix: str) -> list[Path]:
    """Returns the files below a folder that have a suffix, as `SourceTree.files` does."""
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        inside = {name: Path(folder, name) for name in folders}
        folders[:] = sorted(name for name, path in inside.items() if not _is_skipped(name, path))
        found += [Path(folder, name) for name in sorted(names) if name.endswith(suffix)]
    return found


def imported_names(tree: ast.Module, file: Path) -> Iterator[tuple[str, Path | None]]:
    """Yields what importing a file imports: dotted names, each with the folder that a relative one starts from."""
    for node in executed(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = file.parents[node.level - 1] if 0 < node.level <= len(file.parents) else None
            above = f"{node.module}." if node.module else ""
            yield from ((f"{above}{alias.name}", base) for alias in node.names)


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """Yields the nodes that importing a module executes: no bodies of functions, nothing below `__main__`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in (*child.decorator_list, *child.args.defaults):
                yield part
                yield from executed(part)
        elif isinstance(child, ast.If) and is_main_block(child):
            for statement in child.orelse:
                yield statement
                yield from executed(statement)
        elif not isinstance(child, ast.Lambda):
            yield child
            yield from executed(child)


def is_main_block(node: ast.If) -> bool:
    """Returns whether a branch is not taken by an import: `if __name__ == "__main__"`, `if TYPE_CHECKING`."""
    names = {dotted(item) for item in ast.walk(node.test) if isinstance(item, ast.Name | ast.Attribute)}
    return bool(names & {"__name__", "TYPE_CHECKING", "typing.TYPE_CHECKING"})


def dotted(node: ast.AST) -> str:
    """Returns a name with its attributes as one writes it, `torch.cuda`; empty for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        above = dotted(node.value)
        return f"{above}.{node.attr}" if above else ""
    return ""


def _is_skipped(name: str, path: Path) -> bool:
    return (
        name.startswith((".", "__pycache__"))
        or name in _SKIPPED
        or (path / "pyvenv.cfg").exists()
        or (path / "conda-meta").exists()
        or (path / ".git").exists()
        or (path / "latest-run").is_symlink()  # of wandb
    )


def _files_of(name: str, bases: Iterable[Path]) -> list[Path]:
    """Returns the files that importing a dotted name executes; its last part may be a name inside a module."""
    for base in bases:
        found: list[Path] = []
        folder = base
        for part in name.split("."):
            module, folder = folder / f"{part}.py", folder / part
            if (folder / "__init__.py").is_file():
                found.append(folder / "__init__.py")
            elif module.is_file():
                found.append(module)
                break
            elif not folder.is_dir():
                break
        if found:
            return found
    return []
