"""Looks up what a `_target_` names without importing it: its module on the path, its name in the module's source."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

_LIBRARIES = ("gpt_opt", "torch", "transformers", "peft")
"""Packages that every run has: a name near one of them is a mistake, not a module of elsewhere."""


@dataclass(frozen=True)
class NotFound:
    """Why a target was not found.

    Attributes:
        message: What must hold and what came.
        fix: What to do.
        elsewhere: Whether the module is only not on the path here, so that it may be where the runs start.
    """

    message: str
    fix: str = ""
    elsewhere: bool = False


def targets(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yields the dotted key and the value of every `_target_` in nested plain containers."""
    if isinstance(node, dict):
        for name, value in node.items():
            if isinstance(value, dict | list):  # a plan asks this of every value of every point
                yield from targets(value, f"{key}.{name}" if key else str(name))
            elif name == "_target_" and isinstance(value, str):
                yield f"{key}._target_", value
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from targets(value, f"{key}[{index}]")


def look_up(target: str, *first: Path) -> NotFound | None:
    """Returns why a target cannot be imported, or None where it can, or where only importing it would tell.

    Args:
        target: Dotted name of a class or function.
        first: Folders that a run has on its path before all others.
    """
    parts = target.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        return NotFound(f"must be a dotted name, package.module.Name, but is {target!r}")
    specs = list(modules_of(target, *first))
    if not specs:
        if close := difflib.get_close_matches(parts[0], _LIBRARIES, 1, 0.8):
            return NotFound(f"names no module: {parts[0]!r}", f"did you mean {'.'.join([close[0], *parts[1:]])}?")
        message = f"the module {parts[0]!r} of {target!r} is not on the path of this Python"
        here = any(Path(name).exists() for name in (f"{parts[0]}.py", parts[0]))
        folder = '"$PWD"' if here else f"FOLDER_OF_{parts[0]}.py"
        return NotFound(message, f"put its folder on PYTHONPATH: export PYTHONPATH={folder}", True)
    return _attribute(parts, specs) if len(specs) < len(parts) else None


def modules_of(name: str, *first: Path) -> Iterator[ModuleSpec]:
    """Yields where the modules `a`, `a.b`, ... of a dotted name are, as far as there are any; imports none of them.

    Args:
        name: Dotted name of a module, or of something in one.
        first: Folders that are searched before the path of this Python.
    """
    top, *rest = name.split(".")
    spec = _top(top, *first)
    while spec is not None:
        yield spec
        folders = spec.submodule_search_locations
        # Without importing the package, as `importlib.util.find_spec` would.
        spec = PathFinder.find_spec(f"{spec.name}.{rest.pop(0)}", folders) if rest and folders is not None else None


def _top(name: str, *first: Path) -> ModuleSpec | None:
    found = PathFinder.find_spec(name, [str(folder) for folder in first])
    if found is not None and found.origin is not None:
        return found
    try:
        other = importlib.util.find_spec(name)
    except ValueError:  # a module that was made by hand has no spec, but is there
        return ModuleSpec(name, None)
    # A folder of data that has the name of a module is passed over, as an import does.
    return other if found is None or (other is not None and other.origin is not None) else found


def _attribute(parts: Sequence[str], specs: Sequence[ModuleSpec]) -> NotFound | None:
    """Returns why the last of some modules lacks the attribute after them, or None where it has one, or may have."""
    index, spec, above = len(specs), specs[-1], specs[-2] if len(specs) > 1 else None
    if (imported := sys.modules.get(spec.name)) is not None and parts[index] in vars(imported):
        return None
    try:
        names = _names(spec)
        if above is not None and parts[index - 1] in (_names(above) or ()):
            return None  # the package has an attribute with the name of its module
    except RecursionError:  # two modules that import all of each other
        return None
    except SyntaxError as error:
        return NotFound(f"{error.filename}:{error.lineno} cannot be read as Python: {error.msg}")
    if spec.name == __name__.partition(".")[0]:
        names = names or frozenset()  # its `__getattr__` brings modules of it
    part = parts[index]
    modules = [item.name for item in pkgutil.iter_modules(spec.submodule_search_locations or ())]
    if names is None:
        # The module makes names while it is imported. A path through it that is almost a module of it is a mistake.
        close = difflib.get_close_matches(part, modules, 1, 0.8) if index < len(parts) - 1 and part.islower() else []
        if not close:
            return None
    elif part in names:
        return None
    else:
        close = difflib.get_close_matches(part, [*names, *modules], 1)
    fix = f"did you mean {'.'.join([*parts[:index], close[0], *parts[index + 1 :]])}?" if close else ""
    return NotFound(f"the module {spec.name} has no {part!r}", fix or f"see {spec.origin}")


def _names(spec: ModuleSpec) -> frozenset[str] | None:
    """Returns the names that the source of a module defines; None where only importing it would tell."""
    if spec.origin is None and spec.submodule_search_locations is not None:
        return frozenset()  # a folder without __init__.py
    if spec.origin is None or not spec.origin.endswith(".py"):
        return None
    file = Path(spec.origin)
    return _names_in(spec.name, file, file.name == "__init__.py", file.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _names_in(module: str, file: Path, is_package: bool, changed: int) -> frozenset[str] | None:
    tree = ast.parse(file.read_bytes(), str(file))
    names: set[str] = set()
    for node in _outside_functions(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Import():
                names.update(item.asname or item.name.partition(".")[0] for item in node.names)
            case ast.ImportFrom() if node.names[0].name == "*":
                starred = _starred(module, node, is_package)
                if starred is None:
                    return None
                names |= starred
            case ast.ImportFrom():
                names.update(item.asname or item.name for item in node.names)
            case ast.Name(id="globals" | "vars" | "exec" | "setattr") | ast.Attribute(attr="modules"):
                return None
    return None if "__getattr__" in names else frozenset(names)


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """Yields the nodes of a module that are executed in its own scope."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield from _outside_functions(child)


def _starred(module: str, node: ast.ImportFrom, is_package: bool) -> frozenset[str] | None:
    """Returns what `from x import *` brings, or None where that cannot be seen; `__all__` is taken as all names."""
    package = module.split(".")[: None if is_package else -1]
    parts = package[: len(package) - node.level + 1] if node.level else []
    parts += node.module.split(".") if node.module else []
    specs = list(modules_of(".".join(parts), Path(sys.path[0]))) if parts else []
    return _names(specs[-1]) if specs and len(specs) == len(parts) else None
