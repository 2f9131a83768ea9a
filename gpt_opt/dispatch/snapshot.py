"""The code snapshot of a submission: what its jobs import, kept so that edits change nothing of what waits or runs.

Snapshots lie in `sweeps/.code/<first 12 of their hash>/`, one for all submissions with equal code, and a sweep has a
link `code` to its own. Below a snapshot:

    gpt_opt/ hydra_conf/ hydra_plugins/ run_hydra.py    the project, as they are on disk
    *                                                   the user's modules below the project's folder
    cwd/                                                those below the folder that was submitted in, if it is another
    paths/<number>/                                     those that `_target_`s name elsewhere on the import path
    manifest.json                                       see `gpt_opt.records.code`

Of an application that has a `gptopt.toml`, it has gpt_opt/ and

    app-code/                                           its repository, see `gpt_opt.app.code`; what lies beside its
                                                        code there, as data, is linked

The user's modules are Python files, and all files of packages, that git tracks; and those that a `_target_` reaches.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import py_compile
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import gpt_opt
from gpt_opt.app.code import beside, files_of, import_roots
from gpt_opt.config.inputs import module_inputs
from gpt_opt.config.lookup import targets
from gpt_opt.errors import GptOptError
from gpt_opt.records.code import ENTRY, PACKAGE, Manifest, code_sha256, commit_of, files_below, git, sha256_of
from gpt_opt.records.io import lock, now, sync
from gpt_opt.records.planned_configs import Change
from gpt_opt.records.sweep_dir import Submission, Sweep

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 10 * 2**20
"""A larger file is not copied: the snapshot has a link to it."""

MOST_TRACKED = 5000
"""Modules that git may track in a folder; of a larger one only those are taken that a `_target_` reaches."""

_PROJECT = (PACKAGE, "hydra_conf", "hydra_plugins")
_NOT_MODULES = (*_PROJECT, "analysis", "benchmarks", "docs", "params", "tests")
ENTERED = "GPTOPT_ENTERED"
"""Environment variable of a `gptopt` that `enter` became: its process id."""


# -- the snapshot of a sweep ------------------------------------------------------------------------------------------


def code_root(sweep: Sweep, submission: Submission) -> Path:
    """Returns the folder with the code of a sweep: its snapshot or, of `--live` and old sweeps, the repository.

    Raises:
        GptOptError: If the snapshot is gone.
    """
    if not submission.snapshot:
        return Path(submission.root)
    snapshot = sweep.code.resolve()
    if not (snapshot / submission.program.folder / submission.program.file).is_file():
        file = submission.file or "FILE"
        raise GptOptError(
            f"{sweep.code} must lead to the code that {sweep.label} was submitted with, but {snapshot} is not there; "
            f"gptopt submit {file} takes the code of now"
        )
    return snapshot


def app_root(sweep: Sweep, submission: Submission) -> Path:
    """Returns the folder of the application's code.

    Raises:
        GptOptError: If the snapshot is gone.
    """
    code = code_root(sweep, submission)
    return code / submission.program.folder if submission.snapshot else code


def import_path(sweep: Sweep, submission: Submission, environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the PYTHONPATH with which a process imports from the snapshot of a sweep; {} where it has none.

    Folders of an application on the PYTHONPATH of the job, as lines of its `environment` name them, are those of the
    snapshot too.
    """
    if not submission.snapshot:
        return {}
    snapshot = code_root(sweep, submission)
    manifest = Manifest.read(snapshot)
    roots = [str(snapshot), *(str(snapshot / name) for name in (manifest.import_roots if manifest else ()))]
    before = environment.get("PYTHONPATH", "").split(os.pathsep)
    if submission.program.folder:
        app, live = snapshot / submission.program.folder, os.path.realpath(submission.root)
        names = [os.path.relpath(os.path.realpath(os.path.join(submission.cwd, item)), live) for item in before if item]
        moved = [os.path.normpath(app / name) for name in names if name != ".." and not name.startswith("../")]
        roots += [folder for folder in dict.fromkeys(moved) if folder not in roots and os.path.isdir(folder)]
    return {"PYTHONPATH": os.pathsep.join([*roots, *(item for item in before if item not in roots)])}


def enter(sweep: Sweep, arguments: Sequence[str]) -> None:
    """Becomes the `gptopt` of the snapshot of a sweep, with the same process id, unless this process is it."""
    submission = sweep.submission()
    if not submission.snapshot:
        return
    here, snapshot = Path(gpt_opt.__file__).resolve().parents[1], code_root(sweep, submission)
    if here == snapshot:
        return
    if os.environ.get(ENTERED) == str(os.getpid()):
        log.warning("%s: the code in %s cannot be imported, that in %s is taken", sweep.label, snapshot, here)
        return
    environment = {**os.environ, **import_path(sweep, submission, os.environ), ENTERED: str(os.getpid())}
    sys.stdout.flush()
    # -P: without it the current directory, which may be the repository, comes before PYTHONPATH.
    os.execve(sys.executable, [sys.executable, "-P", "-m", f"{PACKAGE}.cli", *arguments], environment)


def link(sweep: Sweep, snapshot: Path) -> None:
    """Makes `code` of a sweep lead to a snapshot, in one step."""
    new = sweep.root / f".code.{os.getpid()}"
    new.unlink(missing_ok=True)
    new.symlink_to(os.path.relpath(snapshot, sweep.root))
    if new.resolve() != snapshot.resolve():  # a folder above is a link itself
        new.unlink()
        new.symlink_to(snapshot.resolve())
    new.replace(sweep.code)


def has_changed(sweep: Sweep, submission: Submission) -> bool:
    """Returns whether a snapshot that were taken now would be another one than that of the sweep."""
    if not submission.snapshot:
        return False
    snapshot = code_root(sweep, submission)
    manifest = Manifest.read(snapshot)
    if manifest is None:
        return True
    app = _App(Path(submission.root), submission.program.folder, sweep.root.parents[1])
    contents = _collect(app, Path(submission.cwd), manifest.targets)
    contents.import_roots = manifest.import_roots  # which depend on the PYTHONPATH of this shell
    return contents.name != snapshot.name


# -- taking one -------------------------------------------------------------------------------------------------------


@dataclass
class _Contents:
    """What goes into a snapshot.

    Attributes:
        files: Path in the snapshot to bytes; None for a file that is only linked.
        sources: Path in the snapshot to where the file is.
        import_roots: As in the manifest.
        beside: Paths in the snapshot of links to what is no code of an application.
    """

    files: dict[str, bytes | None] = field(default_factory=dict)
    sources: dict[str, Path] = field(default_factory=dict)
    import_roots: tuple[str, ...] = ()
    beside: set[str] = field(default_factory=set)

    def add(self, name: str, file: Path) -> None:
        if name in self.files or not file.is_file():  # a tracked file may be deleted, or be the folder of a submodule
            return
        self.files[name] = file.read_bytes() if file.stat().st_size <= MAX_FILE_BYTES else None
        self.sources[name] = file

    def add_beside(self, name: str, path: Path) -> None:
        self.files[name], self.sources[name] = None, path
        self.beside.add(name)

    @property
    def large(self) -> tuple[str, ...]:
        """Files that are linked because they are too large to be copied."""
        return tuple(name for name, data in sorted(self.files.items()) if data is None and name not in self.beside)

    @property
    def name(self) -> str:
        """The name of the snapshot: equal contents have one."""
        digest = hashlib.sha256("\n".join(self.import_roots).encode(errors="surrogateescape"))
        for name, data in sorted(self.files.items()):
            if name in self.beside:
                continue  # runs make such folders, and no other snapshot thereby
            content = str(self.sources[name]) if data is None else hashlib.sha256(data).hexdigest()
            digest.update(f"\n{name} {content}".encode(errors="surrogateescape"))
        return digest.hexdigest()[:12]


def targets_in(configs: Iterable[Sequence[Change]]) -> set[str]:
    """Returns every `_target_` of planned configs, as far as it is not this project's."""
    nodes = ({path[-1]: value[0]} for changes in configs for path, value in changes if value)
    found = {name for node in nodes for _, name in targets(node)}
    return {name for name in found if not name.startswith(f"{PACKAGE}.")}


@dataclass(frozen=True)
class _App:
    """What a snapshot is of.

    Attributes:
        root: The repository.
        folder: Where it lies in the snapshot; "" for gpt-opt's own.
        sweeps: Folder of sweep directories.
    """

    root: Path
    folder: str
    sweeps: Path


def take(sweeps: Path, root: Path, cwd: Path, targets: Iterable[str], folder: str = "") -> Path:
    """Takes a snapshot, whole or not at all, unless there is an equal one.

    Args:
        sweeps: Folder of sweep directories.
        root: The repository.
        cwd: Where the user submits.
        folder: Where the code of an application lies in the snapshot; "" for that of gpt-opt.
        targets: The `_target_`s of the runs; the modules that they are in, and what those import, belong to it.

    Returns:
        Its folder.
    """
    targets, app = tuple(sorted(targets)), _App(root, folder, sweeps)
    contents = _collect(app, cwd, targets)
    snapshot = (sweeps / ".code" / contents.name).absolute()
    if contents.large:
        some = ", ".join(str(contents.sources[name]) for name in contents.large)
        log.warning("code: files of more than 10 MB are linked, not copied, so edits reach what waits: %s", some)
    snapshot.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Who comes second finds what the first one has made, from which its jobs may be importing already.
    with lock(snapshot.parent.with_name(".code.lock")):
        if _is_whole(snapshot, contents):
            return snapshot
        for left in snapshot.parent.glob(f".*-{snapshot.name}*"):  # by a process that was killed
            _remove(left)
        new, old = (snapshot.with_name(f".{word}-{snapshot.name}") for word in ("new", "old"))
        _write(new, contents, app, targets)
        if snapshot.exists():  # cut short by a power failure, or edited
            snapshot.replace(old)
        new.rename(snapshot)
        _remove(old)
        sync(snapshot.parent)
    return snapshot


def _collect(app: _App, cwd: Path, targets: Iterable[str]) -> _Contents:
    return _collect_app(app) if app.folder else _collect_project(app.root, cwd, targets)


def _collect_app(app: _App) -> _Contents:
    contents = _Contents()
    package = Path(gpt_opt.__file__).resolve().parent
    for file in files_below(package):
        contents.add(f"{PACKAGE}/{file.relative_to(package)}", file)
    names = files_of(app.root)
    for name, file in names.items():
        contents.add(f"{app.folder}/{name}", file)
    contents.import_roots = tuple(os.path.normpath(f"{app.folder}/{name}") for name in import_roots(app.root, names))
    for name, path in beside(app.root, names, [app.sweeps]).items():
        contents.add_beside(f"{app.folder}/{name}", path)
    return contents


def _collect_project(root: Path, cwd: Path, targets: Iterable[str]) -> _Contents:
    contents = _Contents()
    for project in _PROJECT:
        for file in files_below(root / project):
            contents.add(str(file.relative_to(root)), file)
    contents.add(ENTRY, root / ENTRY)
    places = {root: "", **({} if cwd.is_relative_to(root) else {cwd: "cwd/"})}
    for folder in dict.fromkeys([root, cwd]):
        for file in _tracked_modules(folder, root):
            contents.add(_name_of(file, places), file)
    roots = [Path(item).absolute() for item in os.environ.get("PYTHONPATH", "").split(os.pathsep) if item]
    for import_root, unit in sorted(_units(targets)):
        if not any(import_root.is_relative_to(place) for place in places):
            places[import_root] = f"paths/{len(places)}/"
        roots.append(import_root)
        for file in _modules_in(unit):
            contents.add(_name_of(file, places), file)
    named = [_name_of(item, places) for item in roots if any(item.is_relative_to(place) for place in places)]
    folders = {str(folder) for file in contents.files for folder in Path(file).parents}
    contents.import_roots = tuple(name for name in dict.fromkeys(named) if name and name in folders)
    return contents


def _name_of(path: Path, places: Mapping[Path, str]) -> str:
    """Returns where in the snapshot a path is, "" for that of the repository itself."""
    place = next(place for place in places if path.is_relative_to(place))
    name = os.path.normpath(places[place] + str(path.relative_to(place)))
    return "" if name == "." else name


def _tracked_modules(folder: Path, root: Path) -> Iterator[Path]:
    """Yields the user's modules below a folder that git tracks; of the project's own folder those that are not ours."""
    listed = [Path(name) for name in (git(folder, "ls-files", "-z") or "").split("\0") if name]
    packages = {file.parent for file in listed if file.name == "__init__.py"}
    found = [
        folder / file
        for file in listed
        if (file.suffix == ".py" or packages & set(file.parents)) and not _is_ours(folder / file, root)
    ]
    if len(found) > MOST_TRACKED:
        log.warning("code: git tracks %d modules in %s; only those that are used are copied", len(found), folder)
        return
    yield from found


def _is_ours(file: Path, root: Path) -> bool:
    return file.is_relative_to(root) and file.relative_to(root).parts[0] in _NOT_MODULES


def _units(targets: Iterable[str]) -> set[tuple[Path, Path]]:
    """Returns the top-level modules that targets reach: the folder they are imported from, and their file or folder."""
    units = set()
    for target in targets:
        for name, found in module_inputs(target).items():
            file, parts = Path(found["path"]).absolute(), name.split(".")
            is_package = file.name == "__init__.py"
            import_root = file.parents[len(parts) - (0 if is_package else 1)]
            units.add((import_root, file if len(parts) == 1 and not is_package else import_root / parts[0]))
    return units


def _modules_in(unit: Path) -> Iterator[Path]:
    """Yields the modules of a file or folder, and all files of packages."""
    if unit.is_file():
        yield unit
        return
    packages: set[Path] = set()
    for file in files_below(unit):  # a folder comes before those in it
        if (file.parent / "__init__.py").is_file():
            packages.add(file.parent)
        if file.suffix == ".py" or packages & set(file.parents):
            yield file


# -- files ------------------------------------------------------------------------------------------------------------


def _is_whole(snapshot: Path, contents: _Contents) -> bool:
    copied = {name: data for name, data in contents.files.items() if data is not None}
    try:
        has_sizes = all((snapshot / name).lstat().st_size == len(data) for name, data in copied.items())
    except OSError:
        return False
    return has_sizes and Manifest.read(snapshot) is not None


def _write(folder: Path, contents: _Contents, app: _App, targets: tuple[str, ...]) -> None:
    for name, data in contents.files.items():
        file, source = folder / name, contents.sources[name]
        file.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            file.symlink_to(source.absolute())
            continue
        file.write_bytes(data)
        shutil.copystat(source, file)  # its time, by which Python knows what it has compiled
        if file.suffix == ".py":
            _compile(source, file)
    commit, dirty, diff = commit_of(app.root)
    if diff:
        Manifest.diff(folder).write_text(diff, errors="surrogateescape")
    manifest = Manifest(
        commit=commit,
        dirty=dirty,
        time=now(),
        files=len(contents.files),
        bytes=sum(len(data) for data in contents.files.values() if data is not None),
        code_sha256=_sha256(folder, contents, app),
        import_roots=contents.import_roots,
        targets=targets,
        linked=contents.large,
    )
    manifest.write(folder)
    for place, _, files in os.walk(folder, topdown=False):
        for path in map(Path(place).joinpath, files):
            if not path.is_symlink():
                path.chmod(0o500 if os.access(path, os.X_OK) else 0o400)
        # An application may make folders in its own.
        os.chmod(place, 0o700 if app.folder and Path(place).is_relative_to(folder / app.folder) else 0o500)


def _sha256(folder: Path, contents: _Contents, app: _App) -> str:
    if not app.folder:
        return code_sha256(folder)
    prefix = f"{app.folder}/"
    names = (name for name in contents.files if name.startswith(prefix) and name not in contents.beside)
    return sha256_of(folder / app.folder, sorted(name.removeprefix(prefix) for name in names))


def _compile(source: Path, file: Path) -> None:
    """Puts what Python compiles beside a module: a run cannot do it in a folder that it may not write in."""
    there, here = Path(importlib.util.cache_from_source(source)), Path(importlib.util.cache_from_source(file))
    here.parent.mkdir(exist_ok=True)
    info = file.stat()
    facts = int(info.st_mtime).to_bytes(4, "little") + info.st_size.to_bytes(4, "little")
    try:
        compiled = there.read_bytes()
    except OSError:
        compiled = b""
    if compiled[:16] == importlib.util.MAGIC_NUMBER + bytes(4) + facts:
        here.write_bytes(compiled)
        return
    with suppress(py_compile.PyCompileError), warnings.catch_warnings(action="ignore"):  # whoever imports it says so
        py_compile.compile(str(file), str(here), doraise=True)


def _remove(folder: Path) -> None:
    """Removes a folder that may be read-only."""
    for place, _, _ in os.walk(folder):
        os.chmod(place, 0o700)
    shutil.rmtree(folder, ignore_errors=True)
