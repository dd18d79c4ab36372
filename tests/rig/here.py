"""Start a container on the machine on which this runs, as scripts/rig does on its nodes.

    python3 -m tests.rig.here NAME --ip IP -- COMMAND...

It is for a host that no rig made, such as one of the Vagrantfile. The host needs a bridge br0.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from tests.rig.errors import BadUsage, RigError
from tests.rig.node import Node
from tests.rig.tree import TREE_VARIABLE


class Here(Node):
    """The machine on which this runs, as a node."""

    @property
    def unified_cgroups(self) -> bool:
        """Whether this machine has cgroups v2 alone."""
        return Path("/sys/fs/cgroup/cgroup.controllers").exists()

    @property
    def pid(self) -> int:
        """The PID of this machine's first process."""
        return 1

    def start(self, *, base: Path, seed: Path, directory: Path, lock_fd: int) -> None:
        """Raise BadUsage: nobody can start the machine on which he is."""
        raise BadUsage("this machine is up")

    def ready(self, directory: Path) -> None:
        """Do nothing, since this machine is ready."""

    def command(self, argv: Sequence[str | PathLike[str]]) -> Sequence[str | PathLike[str]]:
        """Return argv itself."""
        return argv


def main() -> int:
    """Start the container, and return 0 if it runs."""
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.rig.here", description="start a container on this machine"
    )
    parser.add_argument("name")
    parser.add_argument("--ip", required=True)
    arguments = parser.parse_args(words[:cut])
    os.environ[TREE_VARIABLE] = "/"
    try:
        Here("here", os.uname().nodename).start_container(
            arguments.name, ip=arguments.ip, argv=words[cut + 1 :]
        )
    except RigError as error:
        print(f"rig: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
