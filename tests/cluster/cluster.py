"""A real Slurm on this machine, in a folder of its own: munge, MariaDB, slurmdbd, slurmctld and four slurmd nodes."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import config, procs
from tests.cluster.config import NODES
from tests.cluster.layout import ClusterError, lay_out, make_own, missing, path

DAEMON = "GPTOPT_TEST_DAEMON"
"""Names a daemon in its environment; slurmstepd inherits it from slurmd, what users start does not have it.

It is the last variable: slurmstepd's title overwrites the first bytes of its environment.
"""

ROOT = Path(__file__).resolve().parents[2]
SHUTDOWN = ("slurmctld", *(f"slurmd.{node}" for node in NODES), "slurmdbd", "mariadbd", "munged")
FINAL_STATES = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "TIMEOUT",
    }
)
START_TIMEOUT_S = 60.0
_GONE_S = 3.0
"""A process that is just becoming a daemon has no environment for a moment, by which it would be known."""


@dataclass(frozen=True)
class JobProcess:
    """A process of a job: what a batch script, srun's tasks and their children are."""

    pid: int
    node: str
    command: str


@dataclass(frozen=True)
class Cluster:
    """A cluster in a folder. Its state is the folder and the machine's processes, so any process may hold one."""

    folder: Path

    @staticmethod
    def start(folder: Path) -> Cluster:
        """Returns the cluster that runs in `folder`; starts an empty one if none does, on the remains of any other.

        Raises:
            ClusterError: something needed is missing, the folder holds other things, or a daemon did not come up.
        """
        if reason := missing():
            raise ClusterError(reason)
        cluster = Cluster(folder.resolve())
        with cluster._locked():
            if cluster.healthy():
                for node in NODES:
                    cluster.restore_node(node)
                return cluster
            cluster._stop()
            for retries in (2, 1, 0):
                try:
                    cluster._boot()
                    break
                except BaseException as error:
                    cluster._stop()
                    if not retries or "Address already in use" not in str(error):  # another cluster drew the port too
                        raise
        return cluster

    def stop(self) -> None:
        """Ends every process of the cluster, its jobs too, and removes all but the logs; may be called again."""
        if not self.folder.exists():
            self._stop()
            return
        with self._locked():
            self._stop()

    @property
    def home(self) -> Path:
        """The folder of configuration, sockets, state and logs: apart from `folder` if its path suits no socket."""
        return (self.folder / "home").resolve()

    @property
    def env(self) -> dict[str, str]:
        """The environment of a user of this cluster: ours without Slurm's variables, plus SLURM_CONF."""
        slurm = re.compile("(SLURMD?|SBATCH|SRUN|SALLOC|SQUEUE|SACCT|SINFO|SCANCEL)_")
        kept = {key: value for key, value in os.environ.items() if not slurm.match(key)}
        return kept | {"SLURM_CONF": str(self.home / "slurm.conf"), "PATH": path()}

    def run(self, *command: str, check: bool = True, timeout: float = 60, cwd: Path | None = None) -> str:
        """Runs a command as a user of the cluster and returns its standard output.

        Raises:
            ClusterError: the command failed; with what it wrote to standard error.
        """
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.env, cwd=cwd, timeout=timeout, check=False
        )
        if check and done.returncode != 0:
            raise ClusterError(f"{' '.join(command)} returned {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def healthy(self) -> bool:
        """Says whether all daemons but slurmd live and slurmctld and slurmdbd answer."""
        alive = {process.environ[DAEMON] for process in self._daemons()}
        if not {"munged", "mariadbd", "slurmdbd", "slurmctld"} <= alive:
            return False
        return "UP" in self.run("scontrol", "ping", check=False) and "gptopt" in self.run(
            "sacctmgr", "-nP", "list", "cluster", check=False
        )

    def node_state(self, node: str) -> set[str]:
        """Returns the state of a node and its flags as Slurm names them: {"IDLE"}, {"DOWN", "NOT_RESPONDING"}, ..."""
        return set(self._node_field(node, "State").split("+"))

    def _node_field(self, node: str, field: str) -> str:
        found = re.search(rf"\b{field}=(\S+)", self.run("scontrol", "show", "node", node))
        return found[1] if found else ""

    def kill_node(self, node: str) -> None:
        """Kills slurmd, the slurmstepds and every job process of a node at once, as a power failure does."""
        procs.kill_all(lambda: self._on((node,)))

    def restore_node(self, node: str, timeout_s: float = 30) -> None:
        """Starts slurmd of a node unless it runs, and returns when the node takes jobs."""
        launched = ""
        if not any(process.environ[DAEMON] == f"slurmd.{node}" for process in self._daemons()):
            launched = time.strftime("%Y-%m-%dT%H:%M:%S")
            self._launch_slurmd(node)

        def ready() -> bool:
            state = self.node_state(node)
            if self._node_field(node, "SlurmdStartTime") < launched or "NOT_RESPONDING" in state:
                return False
            if state & {"DOWN", "DRAIN"}:
                self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
                return False
            return bool(state & {"IDLE", "MIXED", "ALLOCATED"})

        self._wait(f"node {node}", ready, timeout_s)

    def reset(self, timeout_s: float = 60) -> None:
        """Cancels every job, restores every node, and returns when all nodes are idle."""
        self.run("scancel", "--user=root")
        for node in NODES:
            self.restore_node(node)
        self._wait("every node idle", lambda: all(self.node_state(node) == {"IDLE"} for node in NODES), timeout_s)

    def job_states(self, *ids: str) -> dict[str, str]:
        """Returns the states of jobs by id; an array gives one entry for each of its elements."""
        text = self.run("squeue", "--array", "-h", "-t", "all", "-o", "%i %T", "-j", ",".join(ids))
        return {job: state for job, _, state in (line.partition(" ") for line in text.splitlines())}

    def wait_job(self, job: str, timeout_s: float = 60) -> str:
        """Returns the final state of a job, or of an array whose elements ended alike.

        Raises:
            ClusterError: it did not end in time, or elements ended in different states.
        """
        deadline = time.monotonic() + timeout_s
        while (states := set(self.job_states(job).values())) - FINAL_STATES or not states:
            if time.monotonic() > deadline:
                raise ClusterError(f"job {job} must end within {timeout_s} s, but is {', '.join(sorted(states))}")
            time.sleep(0.2)
        if len(states) > 1:
            raise ClusterError(f"job {job} must end in one state, but ended in {', '.join(sorted(states))}")
        return states.pop()

    def processes(self) -> list[JobProcess]:
        """Returns the processes of jobs that are alive, without Slurm's own."""
        table = procs.everything()
        return [
            JobProcess(pid, node, table[pid].command)
            for pid, node in self._nodes_of(table).items()
            if DAEMON not in table[pid].environ
        ]

    def _daemons(self) -> list[procs.Process]:
        return [process for process in procs.everything().values() if self._is_daemon(process)]

    def _is_daemon(self, process: procs.Process) -> bool:
        """Says whether we launched it; a slurmstepd has its slurmd's environment."""
        return self._is_ours(process) and DAEMON in process.environ and process.name != "slurmstepd"

    def _is_ours(self, process: procs.Process) -> bool:
        return process.environ.get("SLURM_CONF") == str(self.home / "slurm.conf")

    def _on(self, nodes: tuple[str, ...]) -> list[procs.Process]:
        table = procs.everything()
        return [table[pid] for pid, node in self._nodes_of(table).items() if node in nodes]

    def _nodes_of(self, table: dict[int, procs.Process]) -> dict[int, str]:
        """Returns the node of every process that is on one: slurmd, slurmstepds, and what runs below those."""
        roots: dict[int, str] = {}
        for process in filter(self._is_ours, table.values()):
            if DAEMON in process.environ:
                roots[process.pid] = process.environ[DAEMON].partition("slurmd.")[2]
            elif "SLURM_JOB_ID" in process.environ:
                roots[process.pid] = process.environ.get("SLURMD_NODENAME", "")
        return {pid: node for pid in table if (node := _place(pid, table, roots))}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lets one process at a time start or stop the cluster."""
        make_own(self.folder)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _stop(self) -> None:
        daemons = self._daemons()
        for name in SHUTDOWN:
            procs.end((process for process in daemons if process.environ[DAEMON] == name), grace_s=5)
            if name == f"slurmd.{NODES[-1]}":
                procs.kill_all(lambda: self._on(NODES))
        if self.home.is_dir():
            for entry in self.home.iterdir():
                if entry.is_dir() and entry.name != "log":
                    shutil.rmtree(entry)
                elif not entry.is_dir():
                    entry.unlink()

    def _boot(self) -> None:
        lay_out(self.folder)
        home = self.home
        self._launch(
            "munged",
            *("munged", "--foreground", "--force", f"--socket={home}/munge.socket", f"--key-file={home}/munge.key"),
            *(f"--pid-file={home}/munged.pid", f"--log-file={home}/log/munged.log", f"--seed-file={home}/munge.seed"),
        )
        defaults = f"--defaults-file={home}/mariadb.cnf"
        self.run("mariadb-install-db", defaults, "--auth-root-authentication-method=socket", "--skip-test-db")
        self._launch("mariadbd", "mariadbd", defaults)
        self._wait_daemon("mariadbd", lambda: _accepts(home / "mariadb.socket"))
        self._launch("slurmdbd", "slurmdbd", "-D")
        self._wait_daemon("slurmdbd", lambda: "normal" in self.run("sacctmgr", "-nP", "list", "qos", check=False))
        for words in config.ACCOUNTS:
            self.run("sacctmgr", "-i", *words.split())
        self._launch("slurmctld", "slurmctld", "-D")
        self._wait_daemon("slurmctld", lambda: "UP" in self.run("scontrol", "ping", check=False))
        for node in NODES:
            self._launch_slurmd(node)
        self._wait("slurmd of every node", lambda: all(self.node_state(node) == {"IDLE"} for node in NODES))

    def _launch(self, name: str, *command: str) -> None:
        """Starts a daemon as nobody's child, so that it survives us and leaves no zombie."""
        with (self.home / "log" / f"{name}.out").open("ab") as out:
            subprocess.run(
                ["setsid", "--fork", *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self.env | {DAEMON: name},
                cwd=self.home,
                check=True,
            )

    def _launch_slurmd(self, node: str) -> None:
        self._launch(f"slurmd.{node}", "slurmd", "-D", "-N", node, "-d", str(self.home / "slurmstepd"))

    def _wait_daemon(self, name: str, answers: Callable[[], bool]) -> None:
        seen = time.monotonic()

        def ready() -> bool:
            nonlocal seen
            if any(process.environ[DAEMON] == name for process in self._daemons()):
                seen = time.monotonic()
            elif time.monotonic() - seen > _GONE_S:
                said = (self.home / "log" / f"{name}.out").read_text(errors="replace").strip().splitlines()
                raise ClusterError(f"{name} ended as soon as it had started: {' | '.join(said[-3:])}")
            return answers()

        self._wait(name, ready)

    def _wait(self, what: str, ready: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            if time.monotonic() > deadline:
                raise ClusterError(f"{what} must be ready within {timeout_s} s, but is not; see {self.home / 'log'}")
            time.sleep(0.1)


@contextmanager
def guarded(folder: Path) -> Iterator[Cluster]:
    """Starts a cluster that is stopped at the end of the block, or when this process dies, however it dies.

    A second process waits for the end of its standard input, which only we hold open, and stops the cluster then.
    """
    command = [sys.executable, "-m", "tests.cluster", "guard", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, start_new_session=True):
        yield Cluster.start(folder)


def _accepts(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(address)) == 0


def _place(pid: int, table: dict[int, procs.Process], roots: dict[int, str]) -> str | None:
    """Returns the node of the nearest process at or above `pid` that has one."""
    while pid in table:
        if roots.get(pid):
            return roots[pid]
        pid = table[pid].parent
    return None
