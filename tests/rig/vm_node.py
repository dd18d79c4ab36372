"""A node that is a virtual machine with a kernel of its own: QEMU, emulating the processor in software.

About ten times slower than this machine. For what its kernel lacks: Debian's can track soft-dirty pages, and the
machine has cgroups v2. The VM is wired to the switch by a tap device and holds a copy of the checkout made when it
was started.
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
    """Commands run over an SSH connection that `ready` opened; ending one here does not end it there."""

    slowness = 10

    @property
    def unified_cgroups(self) -> bool:
        return True

    @property
    def pid(self) -> int:
        running = cgroups.pids(self.group)
        if not running:
            raise RigError(f"node {self.name} of rig {self.rig} is not running")
        return min(running)

    def start(self, *, base: Path, seed: Path, directory: Path, lock_fd: int) -> None:
        network.create_tap(self.rig, self.name)
        cgroups.create(self.group)
        disk, files = directory / f"{self.name}.qcow2", directory / f"{self.name}.tar"
        overlay = ["-f", "qcow2", "-F", "raw", "-b", str(base / "disk.raw"), str(disk)]
        process.run(["qemu-img", "create", "-q", *overlay], keep_lock=True)
        _pack(files, seed)
        pid_file = directory / f"{self.name}.pid"
        qemu: list[str | PathLike[str]] = [
            *(
                "qemu-system-x86_64",
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                PROCESSOR,
                "-m",
                MEMORY,
                "-smp",
                "1",
            ),
            *(
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
                "-daemonize",
                "-pidfile",
                pid_file,
            ),
            *("-kernel", base / "vmlinuz", "-append", " ".join(KERNEL_ARGUMENTS)),
            *("-serial", f"file:{self.log(directory)}"),
            *("-drive", f"if=none,id=disk,format=qcow2,cache=unsafe,file={disk}"),
            *("-drive", f"if=none,id=files,format=raw,file={files}"),
            *(
                "-device",
                "nvme,serial=rig",
                "-device",
                "nvme-ns,drive=disk",
                "-device",
                "nvme-ns,drive=files",
            ),
            *(
                "-netdev",
                f"tap,id=net,ifname={names.switch_port(self.name)},script=no,downscript=no",
            ),
            *("-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"),
        ]
        process.run(Switch(self.rig).command(qemu))  # without the lock, which it would hold
        for entrance in cgroups.entrances(self.group):
            (entrance / "cgroup.procs").write_text(pid_file.read_text())

    def ready(self, directory: Path) -> None:
        """Opens the connection that all commands share."""
        process.run([*self._ssh(directory), "-M", "-N", "-f", self.address], keep_lock=True)

    def command(self, argv: Sequence[str | PathLike[str]]) -> Sequence[str | PathLike[str]]:
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
        ssh = [
            "ssh",
            "-F",
            "none",
            "-l",
            "root",
            *(f"-o{name}={value}" for name, value in options.items()),
        ]
        return Switch(self.rig).command(ssh)


def _pack(archive: Path, files: Path) -> None:
    """The files and the checkout, as the VM unpacks them over its root (boot.sh)."""
    owned = ["--numeric-owner", "--owner=0", "--group=0", f"--file={archive}"]
    process.run(["tar", "--create", *owned, "-C", files, "."], keep_lock=True)
    moved = f"--transform=s,^\\.,.{CHECKOUT_IN_NODE},"
    skipped = [f"--exclude=./{name}" for name in (".git", ".*_cache", ".hypothesis")]
    process.run(["tar", "--append", *owned, moved, *skipped, "-C", CHECKOUT, "."], keep_lock=True)
