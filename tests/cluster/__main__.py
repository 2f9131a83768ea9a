"""`python -m tests.cluster up|down|status FOLDER`: the cluster of the tests, for a person.

`guard FOLDER` stops the cluster when standard input ends.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.cluster.layout import ClusterError


def main() -> int:
    """Does what the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("verb", choices=["up", "down", "status", "guard"])
    parser.add_argument("folder", type=Path, help="where the cluster lives: new, or a cluster's")
    arguments = parser.parse_args()
    began = time.monotonic()
    cluster = Cluster(arguments.folder.resolve())
    try:
        if arguments.verb == "up":
            Cluster.start(arguments.folder)
            print(f"up in {time.monotonic() - began:.1f} s; to use it:\nexport SLURM_CONF={cluster.home}/slurm.conf")
        elif arguments.verb == "down":
            cluster.stop()
            print(f"down in {time.monotonic() - began:.1f} s")
        elif arguments.verb == "guard":
            sys.stdin.read()
            cluster.stop()
        elif cluster.healthy():
            print(cluster.run("sinfo") + cluster.run("squeue"), end="")
        else:
            print(f"no cluster runs in {arguments.folder}")
            return 1
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
