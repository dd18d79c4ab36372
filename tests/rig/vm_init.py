"""PID 1 of a virtual machine of the rig.

It mounts what a host has, makes the host's network, starts sshd and reaps orphans. The machine
runs it as a program, by path, from its copy of the checkout (boot.sh).
"""

import socket
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Become the first process of a host that is up."""
    sys.path.insert(0, str(CHECKOUT))
    from tests.rig import network, node_init

    hostname = Path("/etc/hostname").read_text().strip()
    socket.sethostname(hostname)
    node_init.mount_api_file_systems(devices=False)
    node_init.command("mount", "-t", "cgroup2", "cgroup2", str(node_init.CGROUP_BASE))
    node_init.command("modprobe", "virtio_net")
    network.configure_host(["ip"], hostname)
    node_init.start_sshd()
    node_init.reap_for_ever()


if __name__ == "__main__":
    main()
