"""The texts of the cluster's configuration files: pure functions of a folder, ports and a password."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

NODES = ("n1", "n2", "n3", "n4")
CPUS_PER_NODE = 2
GPUS_PER_NODE = 2
MAX_ARRAY_SIZE = 31
TINY_QOS_MAX_SUBMIT = 3
ACCOUNTS = (
    "add cluster gptopt",
    f"add qos tiny MaxSubmitJobsPerUser={TINY_QOS_MAX_SUBMIT}",
    "modify user root set qos=normal,tiny defaultqos=normal",
)
"""What sacctmgr is told: the cluster, and the QOS that limits submissions."""


@dataclass(frozen=True)
class Ports:
    """TCP ports on loopback; `nodes` holds one for each of NODES."""

    mariadb: int
    slurmdbd: int
    slurmctld: int
    nodes: tuple[int, ...]


def devices(home: Path, node: str) -> list[Path]:
    """Returns the device files that stand for the GPUs of a node."""
    return [home / "dev" / f"{node}-gpu{index}" for index in range(GPUS_PER_NODE)]


def slurm_conf(home: Path, ports: Ports, hostname: str, on_loopback: bool) -> str:
    """Returns slurm.conf.

    `on_loopback` says that the host's name resolves to loopback. Slurm can listen on that address or on all of them;
    where it must be all, munge keeps strangers out.
    """
    listen = "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny\n" if on_loopback else ""
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={hostname} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS_PER_NODE} "
        f"RealMemory=4000 Gres=gpu:{GPUS_PER_NODE} State=UNKNOWN"
        for node, port in zip(NODES, ports.nodes, strict=True)
    )
    return f"""\
ClusterName=gptopt
SlurmctldHost={hostname}(127.0.0.1)
SlurmctldPort={ports.slurmctld}
{listen}SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job may not start before the credentials of its first start have expired.
AuthInfo=socket={home}/munge.socket,cred_expire=8
StateSaveLocation={home}/slurmctld
SlurmctldPidFile={home}/slurmctld.pid
SlurmctldLogFile={home}/log/slurmctld.log
SlurmdSpoolDir={home}/%n
SlurmdPidFile={home}/%n.pid
SlurmdLogFile={home}/log/slurmd.%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
PropagateResourceLimits=NONE
# The nodes are what this file says, however small the machine is.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
GresTypes=gpu
# Faults are noticed, and jobs started, in seconds.
SlurmdTimeout=15
KillWait=5
InactiveLimit=0
MinJobAge=3600
ReturnToService=2
JobRequeue=1
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
# Small on purpose: a sweep must be split.
MaxArraySize={MAX_ARRAY_SIZE}
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports.slurmdbd}
AccountingStoragePass={home}/munge.socket
AccountingStorageEnforce=associations,limits,qos
{nodes}
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def slurmstepd(python: str, program: str) -> str:
    """Returns the script that slurmd starts as slurmstepd: it makes it the parent of its tasks' orphans.

    proctrack/linuxproc kills the descendants of slurmstepd, so a child that outlives its parent would escape. Sites use
    cgroups, which hold such a child, but are not to be had in every container.
    36 is PR_SET_CHILD_SUBREAPER of prctl(2).
    """
    code = "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
    return f"""\
#!/bin/sh
exec {shlex.quote(python)} -I -S -c {shlex.quote(code)} {shlex.quote(program)} "$@"
"""


def gres_conf(home: Path) -> str:
    """Returns gres.conf."""
    lines = [f"NodeName={node} Name=gpu File={device}" for node in NODES for device in devices(home, node)]
    return "\n".join(["AutoDetect=off", *lines, ""])


def slurmdbd_conf(home: Path, ports: Ports, hostname: str, on_loopback: bool, password: str) -> str:
    """Returns slurmdbd.conf; slurmdbd wants it readable by its user alone."""
    listen = "CommunicationParameters=NoInAddrAny\n" if on_loopback else ""
    return f"""\
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
{listen}DbdHost={hostname}
DbdAddr=127.0.0.1
DbdPort={ports.slurmdbd}
SlurmUser=root
PidFile={home}/slurmdbd.pid
LogFile={home}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports.mariadb}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct
"""


def mariadb_conf(home: Path, ports: Ports) -> str:
    """Returns MariaDB's options: little memory, no waiting for the disk."""
    return f"""\
[mysqld]
user=root
datadir={home}/mariadb
tmpdir={home}/mariadb-tmp
socket={home}/mariadb.socket
pid-file={home}/mariadb.pid
bind-address=127.0.0.1
port={ports.mariadb}
init-file={home}/mariadb.sql
innodb_buffer_pool_size=32M
innodb_log_file_size=16M
innodb_lock_wait_timeout=900
innodb_flush_log_at_trx_commit=0
innodb_flush_method=nosync
innodb_doublewrite=0
key_buffer_size=1M
aria_pagecache_buffer_size=1M
performance_schema=OFF
skip-log-bin
"""


def mariadb_sql(password: str) -> str:
    """Returns what MariaDB runs at its start."""
    return f"""\
CREATE DATABASE IF NOT EXISTS slurm_acct;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY '{password}';
CREATE USER IF NOT EXISTS 'slurm'@'localhost' IDENTIFIED BY '{password}';
GRANT ALL ON slurm_acct.* TO 'slurm'@'127.0.0.1', 'slurm'@'localhost';
"""
