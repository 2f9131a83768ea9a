"""What lies in a cluster's folder, and what the machine must have."""

from __future__ import annotations

import os
import random
import re
import secrets
import shutil
import socket
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.cluster import config
from tests.cluster.config import NODES

PROGRAMS = (
    "munged",
    "mariadbd",
    "mariadb-install-db",
    "slurmdbd",
    "slurmctld",
    "slurmd",
    "slurmstepd",
    "sacctmgr",
    "scontrol",
    "sbatch",
    "squeue",
    "setsid",
)
MAX_HOME = 65
"""Letters of a home's path: a socket's path may have 107, and slurmstepd's adds up to 40 to the home's."""

MARKER = "This folder belongs to a test cluster of gpt-opt: tests/cluster rewrites and deletes what is in it.\n"


class ClusterError(Exception):
    """The cluster cannot start, or did not do what was asked in time."""


def missing() -> str:
    """Returns why no cluster can run here and what to do about it, in one line; empty when one can."""
    if os.geteuid() != 0:
        return "a Slurm cluster for tests needs root (slurmd and mknod do)"
    absent = [program for program in PROGRAMS if not find(program)]
    if absent:
        return f"{', '.join(absent)} not found; as root on Debian or Ubuntu: tests/cluster/packages.sh"
    return ""


def find(program: str) -> str:
    """Returns the path of a program; empty if there is none."""
    return shutil.which(program, path=path()) or ""


def path() -> str:
    """Returns PATH with the folders of system programs, where Debian keeps the daemons."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def make_own(folder: Path) -> None:
    """Makes the folder, or makes sure that it is a cluster's: what is in it may be deleted."""
    note = folder / "README"
    own = note.is_file() and note.read_text(errors="replace") == MARKER
    if folder.is_dir() and any(folder.iterdir()) and not own:
        raise ClusterError(f"{folder} must be new, empty or a cluster's, but holds other files; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(MARKER)


def _make_home(folder: Path) -> None:
    """Makes folder/home: a link to a short path where Slurm's files and sockets cannot lie in the folder itself."""
    home = folder / "home"
    if home.is_symlink() and not home.exists():
        home.unlink()
    if home.exists():
        return
    if len(str(home)) <= MAX_HOME and re.fullmatch("[A-Za-z0-9_./-]+", str(home)):
        home.mkdir()
    else:
        home.symlink_to(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))


def _free_ports(count: int) -> list[int]:
    """Returns free ports below those the kernel gives to connections, so that a stopped daemon finds its port again."""
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    draw = random.SystemRandom()  # Python's own may have been seeded alike in two processes
    ports: list[int] = []
    while len(ports) < count:
        port = draw.randrange(10_000, max(first_ephemeral, 12_000))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))  # as a daemon does, which a connection that ended within the minute keeps from it
            ports += [port] if port not in ports else []
    return ports


def _on_loopback(hostname: str) -> bool:
    try:
        return socket.gethostbyname(hostname).startswith("127.")
    except OSError:
        return False


def lay_out(folder: Path) -> None:
    """Makes folder/home with everything the daemons read."""
    _make_home(folder)
    home, hostname, password = (
        (folder / "home").resolve(),
        socket.gethostname().partition(".")[0],
        secrets.token_hex(16),
    )
    on_loopback = _on_loopback(hostname)
    first, second, third, *nodes = _free_ports(3 + len(NODES))
    ports = config.Ports(mariadb=first, slurmdbd=second, slurmctld=third, nodes=tuple(nodes))
    shutil.rmtree(home / "log", ignore_errors=True)
    for name in ("log", "dev", "mariadb", "mariadb-tmp", "slurmctld", *NODES):
        (home / name).mkdir(exist_ok=True)
    for node in NODES:
        for device in config.devices(home, node):
            os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (home / "munge.key").touch(mode=0o600)
    (home / "munge.key").write_bytes(secrets.token_bytes(128))
    (home / "slurmdbd.conf").touch(mode=0o600)
    (home / "slurmdbd.conf").write_text(config.slurmdbd_conf(home, ports, hostname, on_loopback, password))
    (home / "mariadb.sql").touch(mode=0o600)
    (home / "mariadb.sql").write_text(config.mariadb_sql(password))
    (home / "mariadb.cnf").write_text(config.mariadb_conf(home, ports))
    (home / "slurmstepd").touch(mode=0o755)
    (home / "slurmstepd").write_text(config.slurmstepd(sys.executable, find("slurmstepd")))
    (home / "gres.conf").write_text(config.gres_conf(home))
    (home / "slurm.conf").write_text(config.slurm_conf(home, ports, hostname, on_loopback))
