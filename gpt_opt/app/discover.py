"""A repository -> the Hydra applications in it, found by parsing alone: nothing of it is imported.

Output: `Found`, one for each script with `@hydra.main`, the likeliest to train first. Next: template.py writes a
`gptopt.toml` of one.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpt_opt.app.look_at_code import CodeFacts, Evidence, look_at_code
from gpt_opt.app.look_at_config import ConfigFacts, look_at_config
from gpt_opt.app.source_tree import SourceTree, dotted, imported_names
from gpt_opt.app.toml_file import without_suffix

_FOLDERS = ("conf", "config", "configs", "cfg", "cfgs", "hydra_conf")
"""What folders of configs are called, where a script computes the path of its own."""

_LIKELY = ("train", "pretrain", "finetune", "main", "run", "fit", "experiment")
"""What scripts that train are called, the likeliest first."""

_UNLIKELY = re.compile(
    r"(^|/)(tests?|examples?|docs?|third_party|vendor|scripts/old)/|(^|/)(test_|eval|predict|export)"
)


_PATHS = re.compile(r"(^|\.)(sys\.path\.(insert|append|extend)|setup_root)$")
"""Calls by which a script finds the modules of its repository itself."""


@dataclass(frozen=True)
class Found:
    """An application, and what its code and its configs say of it.

    Attributes:
        file: The script, relative to the root.
        module: Its dotted name where it runs as a module alone; None for a script.
        config_path: Folder of the configs, relative to the root; None without one, or where it is not found.
        config_name: The primary config; None where `@hydra.main` names none.
        version_base: As Hydra takes it: "1.1" where `@hydra.main` says nothing, None where it says None.
        registers: What says that its configs compose only after it was imported.
        code: What else its code says.
        config: What its configs say.
    """

    file: Path
    module: str | None = None
    config_path: str | None = None
    config_name: str | None = None
    version_base: str | None = "1.1"
    registers: tuple[Evidence, ...] = ()
    code: CodeFacts = field(default_factory=CodeFacts)
    config: ConfigFacts = field(default_factory=ConfigFacts)


def find_apps(root: Path) -> list[Found]:
    """Returns the applications below a folder, the likeliest to be meant first."""
    sources = SourceTree(root.absolute())
    found = [app for file in sources.files if (app := _app(sources, file)) is not None]
    return sorted(found, key=lambda app: (likelihood(app.file), len(app.file.parts), str(app.file)))


def app_of_file(root: Path, file: Path) -> Found | None:
    """Returns the application that a script is; None for a script without `@hydra.main`."""
    return _app(SourceTree(root.absolute()), file.absolute())


def likelihood(file: Path) -> tuple[bool, int, bool]:
    """Returns how likely a script is the one that trains; the smaller the likelier."""
    name = file.stem.lower()
    rank = next((place for place, word in enumerate(_LIKELY) if word in name), len(_LIKELY))
    return bool(_UNLIKELY.search(file.as_posix().lower())), rank, name not in _LIKELY


def _app(sources: SourceTree, file: Path) -> Found | None:
    try:
        if b"hydra" not in file.read_bytes():
            return None
    except OSError:
        return None
    tree = sources.tree(file)
    call = next(_main_calls(tree), None) if tree is not None else None
    if tree is None or call is None:
        return None
    given = _arguments(call, _constants(tree))
    name, version_base = given.get("config_name"), given.get("version_base", "1.1")
    folder = _config_folder(sources.root, file, given)
    config = look_at_config(folder, name or "config") if folder is not None else ConfigFacts()
    code = look_at_code(sources, file)
    return Found(
        file.relative_to(sources.root),
        _module(sources, file, tree),
        None if folder is None else os.path.relpath(folder, sources.root),
        name,
        version_base if version_base is None or re.fullmatch(r"1\.\d+", version_base) else "1.1",
        (*code.registers, *(code.sets_environment if config.reads_environment else ())),
        code,
        config,
    )


def _main_calls(tree: ast.Module) -> Iterator[ast.Call]:
    """Yields the calls of `hydra.main`, whatever it was imported as, and of hydra-zen's `zen(...).hydra_main`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {f"{alias.asname or alias.name}.main" for alias in node.names if alias.name == "hydra"}
        elif isinstance(node, ast.ImportFrom) and node.module in ("hydra", "hydra.main"):
            names |= {alias.asname or alias.name for alias in node.names if alias.name == "main"}
    for node in _calls(tree):
        if dotted(node.func) in names or (isinstance(node.func, ast.Attribute) and node.func.attr == "hydra_main"):
            yield node


_UNKNOWN = "?"
"""In place of an argument that the script computes."""


def _constants(tree: ast.Module) -> dict[str, str | None]:
    """Returns the strings that the module gives names to."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _arguments(call: ast.Call, constants: Mapping[str, str | None]) -> dict[str, str | None]:
    """Returns the arguments of `hydra.main`; `_UNKNOWN` for one that is neither a string nor None nor a name of one."""
    nodes = dict(zip(("config_path", "config_name", "version_base"), call.args, strict=False))
    nodes |= {item.arg: item.value for item in call.keywords if item.arg}
    given: dict[str, str | None] = {}
    for name, node in nodes.items():
        if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str)):
            given[name] = node.value
        else:
            given[name] = constants.get(dotted(node), _UNKNOWN)
    config = given.get("config_name") or _UNKNOWN
    return given | {"config_name": None if config == _UNKNOWN else without_suffix(config)}


def _config_folder(root: Path, file: Path, given: Mapping[str, str | None]) -> Path | None:
    """Returns the folder of the configs of a script: that of `config_path`, or else one that has its config."""
    oldest = given.get("version_base", "1.1") == "1.1"
    path = given.get("config_path", "." if oldest else None)
    if path is None:
        return None
    if path.startswith("pkg://"):
        candidates: Sequence[Path] = [base / path[6:].replace(".", "/") for base in (root, root / "src", file.parent)]
    elif path == _UNKNOWN:
        candidates = [base / name for base in (file.parent, root) for name in _FOLDERS]
        wanted = f"{given.get('config_name') or 'config'}.yaml"
        candidates = sorted(candidates, key=lambda folder: not (folder / wanted).is_file())
    else:
        candidates = [Path(os.path.normpath(file.parent / path))]
    return next((folder for folder in candidates if folder.is_dir()), None)


def _module(sources: SourceTree, file: Path, tree: ast.Module) -> str | None:
    """Returns the dotted name of a script that runs as a module alone; None for one that runs as a script.

    It is a module if it imports relative to itself, or from the root of the repository, where `python file` does not
    look.
    """
    if any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree)) or file.name == "__main__.py":
        top = file.parent
        while (top / "__init__.py").is_file() and top != sources.root:
            top = top.parent
    elif _imports_from(sources.root, file, tree):
        top = sources.root
    else:
        return None
    parts = [part for part in file.relative_to(top).with_suffix("").parts if part != "__main__"]
    return ".".join(parts) if parts and all(part.isidentifier() for part in parts) else None


def _imports_from(root: Path, file: Path, tree: ast.Module) -> bool:
    if file.parent == root or any(_PATHS.search(dotted(node.func)) for node in _calls(tree)):
        return False
    tops = {name.partition(".")[0] for name, base in imported_names(tree, file) if base is None}
    return any(_is_source(root, name) and not _is_source(file.parent, name) for name in tops)


def _is_source(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or any((folder / name).rglob("*.py"))


def _calls(tree: ast.Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))
