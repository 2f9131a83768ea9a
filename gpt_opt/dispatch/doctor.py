"""What works on this machine of all that sweeps need, and what to do about what does not."""

from __future__ import annotations

import getpass
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from importlib.util import find_spec
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from gpt_opt.dispatch import slurm
from gpt_opt.errors import OWN_FOLDER
from gpt_opt.records.claim import HEARTBEAT_S, STALE_AFTER_S
from gpt_opt.records.io import create_text, lock

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun", "sacct")
SHARED = frozenset(
    {
        "nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "fuse.ceph", "fuse.ceph-fuse", "glusterfs",
        "fuse.glusterfs", "pvfs2", "panfs", "wekafs", "afs", "cifs", "smb3", "fuse.sshfs", "ocfs2", "gfs2", "daos",
    }
)  # fmt: skip
"""Types of file systems that several nodes see."""
LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "ramfs", "overlay"})
"""Types that one node sees."""

MOST_SKEW_S = HEARTBEAT_S
"""A clock that is further from the file server's misjudges heartbeats noticeably."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        ok: True if it works, False if something needed does not, None for what some setups do without.
        found: What was seen.
        advice: What to do about it; empty when it works.
    """

    name: str
    ok: bool | None
    found: str
    advice: str = ""


def checks() -> list[Check]:
    """Looks at this Python, Slurm, GPUs, and the file system of the working directory."""
    here = [_python(), _packages(), _torch(), _programs(), _submitit()]
    return [*here, *_slurm(), _gpus(), *_file_system(Path.cwd()), _environment()]


def all_well(found: Sequence[Check]) -> bool:
    """Returns whether nothing that is needed fails."""
    return not any(check.ok is False for check in found)


# -- this Python ------------------------------------------------------------------------------------------------------


def _python() -> Check:
    found, required = f"{platform.python_version()}, {sys.executable}", ""
    with suppress(PackageNotFoundError):  # the next check says so
        required = metadata("gpt-opt")["Requires-Python"] or ""
    if not SpecifierSet(required).contains(platform.python_version(), prereleases=True):
        return Check("Python", False, f"{found}; {required} is needed", "make PYTHON=/path/to/python")
    return Check("Python", True, found)


def _packages() -> Check:
    try:
        required = [Requirement(text) for text in requires("gpt-opt") or ()]
    except PackageNotFoundError:
        return Check("packages", False, "gpt-opt is not installed in this Python", f"pip install -e {ROOT}")
    required = [item for item in required if item.marker is None or item.marker.evaluate({"extra": ""})]
    wrong = [text for item in required if (text := _wrong_version(item)) is not None]
    if wrong:
        return Check("packages", False, "; ".join(wrong), f"pip install -e {ROOT}")
    return Check("packages", True, f"gpt-opt {version('gpt-opt')} and the {len(required)} packages that it needs")


def _wrong_version(requirement: Requirement) -> str | None:
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement} is missing"
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return f"{requirement} is needed, but {found} is there"


def _torch() -> Check:
    if find_spec("torch") is None:
        return Check("torch", False, "cannot be found by this Python", f"pip install -e {ROOT}")
    return Check("torch", True, _version("torch"))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"


def _programs() -> Check:
    folder = Path(sys.executable).parent
    missing = [name for name in ("gptopt", "disBatch") if not os.access(folder / name, os.X_OK)]
    if missing:
        return Check("gptopt, disBatch", False, f"{folder} has no {' and no '.join(missing)}", f"pip install -e {ROOT}")
    return Check("gptopt, disBatch", True, f"disBatch {_version('disbatch')}, both in {folder}")


def _submitit() -> Check:
    if find_spec("submitit") is None:
        return Check("submitit", None, "not installed", "only --backend submitit needs it: pip install submitit")
    return Check("submitit", True, _version("submitit"))


# -- Slurm ------------------------------------------------------------------------------------------------------------


def _slurm() -> Iterator[Check]:
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if len(missing) == len(COMMANDS):
        advice = "sweeps run on this machine alone: gptopt submit FILE --backend local"
        yield Check("Slurm", None, "no command of Slurm is on the path", advice)
        return
    if missing:
        advice = "install all client commands of Slurm, or load the module that has them"
        yield Check("Slurm", False, f"{', '.join(missing)} not on the path", advice)
    yield (control := _controller())
    if control.ok:
        yield from (_partitions(), _accounting(), _array_size(), _limits())


def _asked(name: str, command: Sequence[str], judge: Callable[[str], Check], advice: str, needed: bool = True) -> Check:
    """Returns what `judge` says of the output of a command, or a check that the command failed."""
    try:
        return judge(slurm.run(command))
    except slurm.SlurmError as error:
        return Check(name, False if needed else None, str(error), advice)


def _controller() -> Check:
    advice = "ask your administrator, or check SLURM_CONF; meanwhile --backend local works"

    def judge(text: str) -> Check:
        answer = "; ".join(line.strip() for line in text.splitlines() if line.strip())
        up = re.search(r"\bis UP\b", text) is not None
        return Check("slurmctld", up, answer, "" if up else advice)

    return _asked("slurmctld", ["scontrol", "ping"], judge, advice)


def _partitions() -> Check:
    advice = "ask your administrator which partitions you may use, and name one: gptopt submit FILE --partition NAME"

    def judge(text: str) -> Check:
        rows = [[part.strip() for part in line.split("|")] for line in text.splitlines() if line.count("|") == 4]
        partitions = [f"{name} ({up}, {n} nodes, {gres}, {limit})" for name, up, n, gres, limit in rows]
        if not any(row[1] == "up" for row in rows):
            return Check("partitions", False, "; ".join(partitions) or "none", advice)
        return Check("partitions", True, "; ".join(text.replace("(null)", "no GPUs") for text in partitions))

    return _asked("partitions", ["sinfo", "--noheader", "--format=%P|%a|%D|%G|%l"], judge, advice)


def _accounting() -> Check:
    advice = "without accounting a job that ended is soon unknown: causes such as TIMEOUT and NODE_FAIL are not told"
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID", "--starttime=now-1hour"]
    return _asked("accounting", command, lambda _: Check("accounting", True, "sacct answers"), advice, needed=False)


def _array_size() -> Check:
    try:
        return Check("MaxArraySize", True, f"{slurm.max_array_size()}; longer arrays are split")
    except slurm.SlurmError as error:
        return Check("MaxArraySize", None, str(error), "--backend submitit needs it to split arrays")


def _limits() -> Check:
    """Returns what limits the submissions of this user, where accounting says so."""
    command = ["sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={getpass.getuser()}"]
    names = ("account", "qos", "maxjobs", "maxsubmit", "grpjobs", "grpsubmit")

    def judge(text: str) -> Check:
        limits = []
        for line in text.splitlines():
            values = dict(zip(names, line.split("|"), strict=False))
            limits.append(" ".join(f"{name}={value}" for name, value in values.items() if value))
        return Check("submit limits", True, "; ".join(limits) or "none told")

    advice = "sacctmgr does not say; Slurm says at submit, and the next gptopt submit goes on from there"
    return _asked("submit limits", [*command, f"format={','.join(names)}"], judge, advice, needed=False)


def _nodes() -> int:
    """Returns the number of nodes of the cluster; 0 where there is none or it does not answer."""
    if shutil.which("sinfo") is None or slurm.problem() is not None:
        return 0
    try:
        return len(set(slurm.run(["sinfo", "--noheader", "--Node", "--format=%N"]).split()))
    except slurm.SlurmError:
        return 0


# -- this machine -----------------------------------------------------------------------------------------------------


def _gpus() -> Check:
    if shutil.which("nvidia-smi") is None:
        advice = "fine on a login node; elsewhere runs use the CPU"
        return Check("GPUs of this machine", None, "no nvidia-smi on the path", advice)
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return Check("GPUs of this machine", False, "nvidia-smi did not answer within 60 s", "the driver is stuck")
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0 or not lines:
        output = " ".join((done.stderr or done.stdout).split()) or "nvidia-smi lists none"
        return Check("GPUs of this machine", None, output, "runs on this machine use the CPU")
    return Check("GPUs of this machine", True, "; ".join(lines))


def _environment() -> Check:
    file = ROOT / "slurm_scripts" / "environment.sh"
    if file.is_file():
        return Check("environment of jobs", True, str(file))
    advice = (
        "this file loads the environment of a job; restore it: git checkout -- slurm_scripts, or install gpt-opt anew"
    )
    return Check("environment of jobs", False, f"{file} is missing", advice)


# -- the file system --------------------------------------------------------------------------------------------------


def _file_system(folder: Path) -> Iterator[Check]:
    """Looks at the file systems that hold outputs/ and sweeps/ of a folder, each once."""
    nodes = _nodes()
    found = [path.resolve() if path.is_dir() else folder for path in (folder / "outputs", folder / "sweeps")]
    for place in {place.stat().st_dev: place for place in reversed(found)}.values():
        yield _is_shared(place, nodes)
        yield from _in_a_folder(place)


def file_system(path: Path, mounts: Mapping[str, str]) -> tuple[str, str]:
    """Returns the mount point and the type of the file system that holds `path`.

    Args:
        path: Absolute, without links.
        mounts: Mount points to types; of a point that has several, the last one mounted.
    """
    points = [point for point in mounts if path.is_relative_to(point)]
    point = max(points, key=len, default="/")
    return point, mounts.get(point, "unknown")


def _is_shared(place: Path, nodes: int) -> Check:
    name = f"shared: {place}"
    try:
        mounts = {item.mountpoint: item.fstype for item in psutil.disk_partitions(all=True)}
    except OSError as error:
        return Check(name, None, f"the mounts cannot be read: {error}", "make sure that all nodes see this folder")
    point, kind = file_system(place, mounts)
    found = f"{kind} at {point}"
    if kind in SHARED:
        return Check(name, True, found)
    if nodes <= 1:
        return Check(name, True, f"{found}; nothing else has to see it")
    verdict = "one node sees this type" if kind in LOCAL else "of a type that is not known here"
    advice = "run gptopt in a folder on a file system that all nodes share (NFS, Lustre, ...), or its runs are lost"
    return Check(name, None, f"{found}; {verdict}, and the cluster has {nodes} nodes", advice)


def _in_a_folder(place: Path) -> Iterator[Check]:
    try:
        with tempfile.TemporaryDirectory(prefix=".gptopt-doctor-", dir=place) as name:
            yield from (_links(Path(name)), _locks(Path(name)), _clock(Path(name)))
    except OSError as error:
        advice = f"runs and sweeps are written here: {OWN_FOLDER}, or make room"
        yield Check(f"writable: {place}", False, error.strerror or str(error), advice)


def _links(folder: Path) -> Check:
    advice = "a run is claimed by a hard link: choose a file system that has them"
    try:
        first, second = create_text(folder / "claim", "1\n"), create_text(folder / "claim", "2\n")
    except OSError as error:
        return Check("hard links", False, str(error), advice)
    if (first, second) != (True, False):
        return Check("hard links", False, "a file could be created twice", advice)
    return Check("hard links", True, "a file is created once")


def _locks(folder: Path) -> Check:
    advice = "sweeps are locked while they are submitted: mount the file system with locks (NFS: no nolock option)"
    try:
        with lock(folder / "lock", wait=False):
            try:
                lock(folder / "lock", wait=False).close()
            except BlockingIOError:
                return Check("file locks", True, "a lock keeps others out")
    except OSError as error:
        return Check("file locks", False, str(error), advice)
    return Check("file locks", False, "two holders got the same lock", advice)


def _clock(folder: Path) -> Check:
    file = folder / "clock"
    file.touch()
    before = time.time()
    os.utime(file)  # the server's clock, as with a heartbeat
    after = time.time()
    stamp = file.stat().st_mtime
    skew_s = 0.0 if before - 1 <= stamp <= after + 1 else stamp - (before + after) / 2
    found = f"within {max(1.0, abs(skew_s)):.0f} s of the file server's"
    if abs(skew_s) <= MOST_SKEW_S:
        return Check("clock", True, found)
    advice = "set the clocks of nodes and file server by NTP: who works on a run is told by the age of its heartbeat"
    return Check("clock", None if abs(skew_s) < STALE_AFTER_S / 2 else False, f"{skew_s:+.0f} s off", advice)
