"""A node that is a virtual machine with a kernel of its own.

QEMU emulates the processor in software, so the node is about ten times slower than this machine.
Its kernel is Debian's, which tracks soft-dirty pages, and it has cgroups v2. A tap device connects
it with the switch. It has a copy of the checkout that was made when it was started.
"""

import shlex
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path

from tests.rig import cgroups, names, network, process, seed
from tests.rig.errors import RigError
from tests.rig.node import CHECKOUT, Node
from tests.rig.node_init import CHECKOUT_IN_NODE
from tests.rig.switch import Switch

MEMORY = "4G"
#: Without cx16, which some versions of QEMU emulate wrongly at random.
PROCESSOR = "max,cx16=off"
KERNEL_ARGUMENTS = [
    *("console=ttyS0", "quiet", "panic=-1", "root=/dev/nvme0n1", "rw", "init=/sbin/rig-boot"),
    *("net.ifnames=0", "mitigations=off", "tsc=reliable", "random.trust_cpu=on"),
    "transparent_hugepage=never",  # soft-dirty is as coarse as a page is large
]


class VmNode(Node):
    """A node that runs commands over an SSH connection, which `ready` opens.

    A command that is ended on this machine goes on in the node.
    """

    slowness = 10

    @property
    def unified_cgroups(self) -> bool:
        """True: the node has cgroups v2 alone."""
        return True

    @property
    def pid(self) -> int:
        """The PID of QEMU on this machine. Raises RigError if the node is not running."""
        running = cgroups.pids(self.group)
        if not running:
            raise RigError(f"node {self.name} of rig {self.rig} is not running")
        return min(running)

    def start(self, *, base: Path, seed: Path, directory: Path, lock_fd: int) -> None:
        """Start QEMU on an overlay of the disk `base`, with the seed on a second disk."""
        network.create_tap(self.rig, self.name)
        cgroups.create(self.group)
        disk, files = directory / f"{self.name}.qcow2", directory / f"{self.name}.tar"
        overlay = ["-f", "qcow2", "-F", "raw", "-b", str(base / "disk.raw"), str(disk)]
        process.run(["qemu-img", "create", "-q", *overlay], keep_lock=True)
        _pack(files, seed)
        pid_file = directory / f"{self.name}.pid"
        # The second disk is of another kind, because the kernel numbers two of one kind at random.
        disks = ["-device", "nvme,serial=rig,drive=disk", "-device", "virtio-blk-pci,drive=files"]
        tap = f"tap,id=net,ifname={names.switch_port(self.name)},script=no,downscript=no"
        qemu: list[str | PathLike[str]] = [
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", PROCESSOR),
            *("-m", MEMORY, "-smp", "1", "-nodefaults", "-no-user-config", "-display", "none"),
            *("-no-reboot", "-daemonize", "-pidfile", pid_file),
            *("-kernel", base / "vmlinuz", "-append", " ".join(KERNEL_ARGUMENTS)),
            *("-serial", f"file:{self.log(directory)}"),
            *("-drive", f"if=none,id=disk,format=qcow2,cache=unsafe,file={disk}"),
            *("-drive", f"if=none,id=files,format=raw,file={files}"),
            *(*disks, "-netdev", tap),
            *("-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"),
        ]
        process.run(Switch(self.rig).command(qemu))  # without the lock, which it would hold
        for entrance in cgroups.entrances(self.group):
            (entrance / "cgroup.procs").write_text(pid_file.read_text())

    def ready(self, directory: Path) -> None:
        """Open the connection that all commands share."""
        process.run([*self._ssh(directory), "-M", "-N", "-f", self.address], keep_lock=True)

    def command(self, argv: Sequence[str | PathLike[str]]) -> Sequence[str | PathLike[str]]:
        """Return the command that has the node's shell run argv, by ssh(1)."""
        words = shlex.join(fspath(word) for word in argv)
        return [*self._ssh(names.state_directory(self.rig)), self.address, words]

    def _ssh(self, directory: Path) -> Sequence[str | PathLike[str]]:
        keys = directory / "keys"
        options = {
            "IdentityFile": keys / seed.ROOT_KEY,
            "UserKnownHostsFile": keys / seed.KNOWN_HOSTS,
            "ControlPath": directory / f"{self.name}.ssh",
            "IdentitiesOnly": "yes",
            "LogLevel": "ERROR",
        }
        settings = [f"-o{name}={value}" for name, value in options.items()]
        return Switch(self.rig).command(["ssh", "-F", "none", "-l", "root", *settings])


def _pack(archive: Path, files: Path) -> None:
    """Pack the files and the checkout, as the VM unpacks them over its root (boot.sh)."""
    owned = ["--numeric-owner", "--owner=0", "--group=0", f"--file={archive}"]
    process.run(["tar", "--create", *owned, "-C", files, "."], keep_lock=True)
    moved = f"--transform=s,^\\.,.{CHECKOUT_IN_NODE},"
    skipped = [f"--exclude=./{name}" for name in (".git", ".*_cache", ".hypothesis")]
    process.run(["tar", "--append", *owned, moved, *skipped, "-C", CHECKOUT, "."], keep_lock=True)
