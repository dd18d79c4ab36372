"""The faults of a whole host: its power, its memory, its disk, its engine's storage."""

from __future__ import annotations

import re
import tempfile
import time

from checkpoint.host.paths import STATE
from tests.faults.cases import HOSTS, Case
from tests.faults.injection import NOTHING, Injection, sh
from tests.rig import Node, cgroups, process
from tests.rig.engine import DOCKERD
from tests.rig.hosts import Hosts

#: How long a host has no memory, or its disk hangs.
LASTS_S = 10.0
#: The disk of a host's journals, as a file, and its size.
DISK, DISK_BYTES = "/var/lib/journals.disk", 64 << 20
#: The memory that a host still has when its memory is full.
LEFT_BYTES = 1 << 20
#: Mounts that disk. The kernel has more loop devices than a node has names for.
MOUNT = f"""
[ -e /dev/loop-control ] || mknod /dev/loop-control c 10 237
for n in $(seq 0 63); do [ -e /dev/loop$n ] || mknod /dev/loop$n b 7 $n; done
mkdir -p {STATE}
mount -o loop {DISK} {STATE}
"""
#: The command that prints the agent's pid on the target.
AGENT = "sed 's/.*process //' /run/migrate/locks/{engine}-redis"
#: What systemd does for an engine when a host starts (docker.service, podman-restart.service).
AT_BOOT = {
    "docker": DOCKERD,
    "podman": "podman start --all --filter should-start-on-boot=true",
}
SSHD = "/usr/sbin/sshd -E /var/log/sshd.log"
#: A program that takes memory until it is killed, and is not the first to be killed.
HOG = "timeout 5 head --bytes=400M /dev/zero | tail > /dev/null"
#: A program that has podman's storage locked, as podman locks it (containers/storage).
LOCKER = f"""
import fcntl, time
with open("/var/lib/containers/storage/storage.lock", "r+") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    time.sleep({LASTS_S:g})
"""


def give_disks(hosts: Hosts) -> None:
    """Have both hosts keep their journals on disks of their own, which can hang."""
    for node in hosts.both:
        if node.run(["mountpoint", "--quiet", str(STATE)], check=False).returncode != 0:
            with tempfile.NamedTemporaryFile() as file:
                file.truncate(DISK_BYTES)
                process.run(["mkfs.ext4", "-q", file.name])
                node.copy(file.name, DISK)
            node.run(["sh", "-ec", MOUNT])


def take_disks(hosts: Hosts) -> None:
    """Undo `give_disks`, together with the journals."""
    for node in hosts.both:
        sh(node, f"umount {STATE}; rm -f {DISK}")


def inject(case: Case, hosts: Hosts, injection: Injection) -> None:
    """Do what a case wants to a host."""
    host, _, what = case.what.replace("'s ", " ").partition(" ")
    node = hosts.beta if host == "agent" else next(n for n in hosts.both if n.name == HOSTS[host])
    if what == "rebooted":
        hosts.rig.reboot(node.name)
        sh(node, AT_BOOT.get(case.engine, ""))
    elif what == "disk hangs":
        sh(node, f"fsfreeze --freeze {STATE}")
        injection.later(LASTS_S, node, f"fsfreeze --unfreeze {STATE}")
    elif what == "storage is locked":
        if case.engine != "podman":
            injection.what, injection.hit = NOTHING, False
        else:
            sh(node, f"setsid python3 -c '{LOCKER}' > /dev/null 2>&1 & sleep 0.5")
    else:
        _no_memory(case, node, injection)


def _no_memory(case: Case, node: Node, injection: Injection) -> None:
    """Have a host run out of memory; the kernel kills what it likes, or the agent first."""
    if case.fault.startswith("agent"):
        sh(node, f"echo 1000 > /proc/$({AGENT.format(engine=case.engine)})/oom_score_adj")
    since = _uptime_s(node)
    cgroups.limit_memory(node.group, LEFT_BYTES)
    try:
        sh(node, HOG)
        time.sleep(0 if case.fault.startswith("agent") else LASTS_S)
    finally:
        cgroups.limit_memory(node.group, None)
    if case.engine == "docker":
        sh(node, f"pgrep -x dockerd || {DOCKERD}")  # as systemd does
    sh(node, f"pgrep -f 'sshd.*[[]listener[]]' || {SSHD}")  # as systemd does
    injection.what = f"{case.fault}: {' '.join(_killed_for_memory(node, since))}"


def _killed_for_memory(node: Node, since_s: float) -> list[str]:
    """Return the processes of a node that the kernel has killed for memory: "task=NAME".

    `since_s` is the uptime from which on the kernel's messages count.
    """
    return [
        word
        for line in sh(node, "dmesg | grep oom-kill:").splitlines()
        if re.search(f"task_memcg=/{node.group}[,/]", line)
        and float(line[1:].split("]")[0]) >= since_s
        for word in line.split(",")
        if word.startswith("task=")
    ]


def _uptime_s(node: Node) -> float:
    return float(sh(node, "cat /proc/uptime").split()[0])
