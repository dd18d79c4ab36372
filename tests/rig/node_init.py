"""The life of a node, from a process of this machine to the node's PID 1.

This runs as a program, by path, so it uses the standard library only and nothing of ours. Each
stage ends by becoming the next:
    join    in this machine: enter the node's cgroups, then unshare everything
    pivot   PID 1, in this machine's files: make the node's root and move into it
    serve   PID 1, in the node's files: mount what a host has, start sshd, reap orphans for ever
A node that is rebooted comes from `rejoin` to `serve`, in the files that it has had before:
    rejoin  in this machine: as join
    again   PID 1, in the node's files: unmount what a host mounts when it starts
"""

import ctypes
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

CHECKOUT_IN_NODE = Path("/opt/migrate")
PYTHON_IN_NODE = "/usr/bin/python3"
SPEC_IN_NODE = Path("/etc/rig-node.json")
CGROUP_BASE = Path("/sys/fs/cgroup")
#: What is mounted before a host starts: its disks.
DISKS = {"/", str(CHECKOUT_IN_NODE), *(f"/var/lib/{name}" for name in ("containers", "docker"))}
DISKS |= {"/var/lib/containerd", "/var/lib/migrate"}
MNT_DETACH = 2  # umount2(2)
BOOT_ID = "/proc/sys/kernel/random/boot_id"
CPU_DMA_LATENCY = Path("/sys/class/misc/cpu_dma_latency/dev")
CHARACTER_DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
PRIVILEGED_DEVICES = {"net/tun": (10, 200), "fuse": (10, 229)}
DEVICE_LINKS = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    "stdin": "fd/0",
    "stdout": "fd/1",
    "stderr": "fd/2",
}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The parts of a node; paths are this machine's."""

    hostname: str
    tree: str
    seed: str  # files laid over the tree before the node starts
    work: str  # an empty directory to build the node's root in
    checkout: str
    log: str
    netns: str
    cgroup_roots: list[str]
    cgroup_mounts: list[tuple[str, str, str]]  # path below CGROUP_BASE, file system type, options
    writable_size: str
    lock_fd: int

    def to_json(self) -> str:
        """Return the text from which `load` reads the same."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def load(cls, path: Path) -> "Spec":
        """Return what a file says."""
        return cls(**json.loads(path.read_text()))


def command(*argv: str) -> None:
    """Run a command, which must succeed."""
    subprocess.run(argv, check=True)


def join(spec: Spec, spec_path: str) -> None:
    """Enter the node's cgroups, let the caller go on, and become the node."""
    detach(spec)
    become(*nsenter(spec), *unshare(), *python(sys.executable, __file__, "pivot", spec_path))


def rejoin(spec: Spec, mounts: str) -> None:
    """Do as `join` does, in the files of a node that has died. `mounts` is its mount namespace."""
    detach(spec)
    become(*nsenter(spec, f"--mount={mounts}"), *unshare(), *in_node("again"))


def detach(spec: Spec) -> None:
    """Enter the node's cgroups, and leave the caller.

    The process leaves the caller's session, or a signal to that would reach the node.
    """
    for root in spec.cgroup_roots:
        (Path(root) / "cgroup.procs").write_text("0")
    os.close(spec.lock_fd)  # from here on `down` finds this process by its cgroups
    if os.fork() != 0:
        os._exit(0)
    os.setsid()
    log = os.open(spec.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)


def nsenter(spec: Spec, *options: str) -> list[str]:
    """Return the command that enters the node's network."""
    return ["nsenter", f"--net={spec.netns}", *options]


def unshare() -> list[str]:
    """Return the command that makes the node's other namespaces."""
    kinds = [f"--{kind}" for kind in ("mount", "pid", "uts", "ipc", "cgroup")]
    return ["unshare", *kinds, "--fork", "--kill-child"]


def pivot(spec: Spec) -> None:
    """Make the node's root and move into it.

    Its mounts are the node's alone: they are gone when its last process is gone.
    """
    work = Path(spec.work)
    command(
        "mount", "-t", "tmpfs", "-o", f"mode=755,size={spec.writable_size}", "rig-node", spec.work
    )
    upper, scratch, root = work / "upper", work / "work", work / "root"
    scratch.mkdir()
    root.mkdir()
    command("cp", "-a", spec.seed, str(upper))
    overlay = f"lowerdir={spec.tree},upperdir={upper},workdir={scratch}"
    command("mount", "-t", "overlay", "-o", overlay, "rig-node", str(root))
    checkout = str(root) + str(CHECKOUT_IN_NODE)
    Path(checkout).mkdir(parents=True)
    command("mount", "--bind", spec.checkout, checkout)
    command("mount", "-o", "remount,bind,ro", checkout)
    (root / SPEC_IN_NODE.relative_to("/")).write_text(spec.to_json())
    command("mount", "-t", "proc", "proc", str(root / "proc"))  # umount(8) needs it
    os.chdir(root)
    command("pivot_root", ".", "mnt")  # moves this process too (pivot_root(2))
    os.chdir("/")
    command("umount", "--lazy", "/mnt")
    become(*in_node("serve"))


def again() -> None:
    """Unmount all but the disks, and start as a host does."""
    # It is of processes that are gone, and umount(8) would read it.
    if ctypes.CDLL(None).umount2(b"/proc", MNT_DETACH) != 0:
        sys.exit("the old /proc was not unmounted")
    command("mount", "-t", "proc", "proc", "/proc")
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for path in reversed([line.split()[4] for line in lines]):
        if path not in DISKS | {"/proc"}:
            command("umount", "--lazy", path)
    become(*in_node("serve"))


def serve(spec: Spec) -> None:
    """Become the first process of a host that is up."""
    socket.sethostname(spec.hostname)
    mount_api_file_systems()
    give_boot_id()
    make_devices()
    mount_cgroups(spec)
    start_sshd()
    reap_for_ever()


def start_sshd() -> None:
    """Start sshd, as every host has it."""
    Path("/run/sshd").mkdir()
    command("/usr/sbin/sshd", "-E", "/var/log/sshd.log")


def mount_api_file_systems(*, devices: bool = True) -> None:
    """Mount what a host has. Without `devices`, /dev has been mounted already, by the kernel."""
    command("mount", "-t", "sysfs", "sysfs", "/sys")
    modes = {"/run": "mode=755", "/tmp": "mode=1777", "/dev": "mode=755"}  # noqa: S108
    for path, options in modes.items():
        if path != "/dev" or devices:
            command("mount", "-t", "tmpfs", "-o", options, "tmpfs", path)
    for name in ("pts", "shm", "mqueue", "net"):
        Path("/dev", name).mkdir(exist_ok=True)
    command(
        "mount",
        "-t",
        "devpts",
        "-o",
        "newinstance,ptmxmode=0666,mode=620,gid=5",
        "devpts",
        "/dev/pts",
    )
    command("mount", "-t", "tmpfs", "-o", "mode=1777", "shm", "/dev/shm")  # noqa: S108
    command("mount", "-t", "mqueue", "mqueue", "/dev/mqueue")


def give_boot_id() -> None:
    """Have the node see an id of its own boot; the kernel's is that of this machine."""
    file = Path("/run/boot_id")
    file.write_text(f"{uuid.uuid4()}\n")
    command("mount", "--bind", str(file), BOOT_ID)


def make_devices() -> None:
    """Make the device nodes and links that a host has in /dev."""
    os.umask(0)
    for devices, mode in ((CHARACTER_DEVICES, 0o666), (PRIVILEGED_DEVICES, 0o600)):
        for name, (major, minor) in devices.items():
            os.mknod(f"/dev/{name}", mode | stat.S_IFCHR, os.makedev(major, minor))
    if CPU_DMA_LATENCY.exists():  # its number is the kernel's choice
        number = os.makedev(*map(int, CPU_DMA_LATENCY.read_text().split(":")))
        os.mknod(f"/dev/{CPU_DMA_LATENCY.parent.name}", 0o600 | stat.S_IFCHR, number)
    os.umask(0o022)
    for name, target in DEVICE_LINKS.items():
        Path("/dev", name).symlink_to(target)


def mount_cgroups(spec: Spec) -> None:
    """Mount the cgroup hierarchies as this machine has them.

    In the node's cgroup namespace, the root of each is the node's own group.
    """
    if not any(path == "." for path, _, _ in spec.cgroup_mounts):
        command("mount", "-t", "tmpfs", "-o", "mode=755", "cgroup", str(CGROUP_BASE))
    for path, kind, options in spec.cgroup_mounts:
        directory = CGROUP_BASE / path
        directory.mkdir(exist_ok=True)
        command("mount", "-t", kind, *(["-o", options] if options else []), kind, str(directory))
        # Programs look for controllers by their own names, also for those that are mounted
        # together: cpu -> cpu,cpuacct.
        if "," in path:
            for name in path.split(","):
                (CGROUP_BASE / name).symlink_to(path)


def reap_for_ever() -> None:
    """Reap every child that ends, orphans among them, and never return."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        reap()
        signal.sigwait({signal.SIGCHLD})


def reap() -> None:
    """Reap the children that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    except ChildProcessError:
        pass


def python(interpreter: str, *arguments: str) -> list[str]:
    """Return the command of a Python program that writes no bytecode."""
    return [interpreter, "-I", "-B", *arguments]


def in_node(stage: str) -> list[str]:
    """Return the command of a stage in the node's files."""
    here = CHECKOUT_IN_NODE / "tests/rig/node_init.py"
    return python(PYTHON_IN_NODE, str(here), stage, str(SPEC_IN_NODE))


def become(*argv: str) -> None:
    """Become another program."""
    os.execvp(argv[0], argv)  # noqa: S606


def main() -> None:
    """Run the stage that the command line names."""
    stage, spec_path, *mounts = sys.argv[1:]
    spec = Spec.load(Path(spec_path))
    if stage == "join":
        join(spec, spec_path)
    elif stage == "pivot":
        pivot(spec)
    elif stage == "rejoin":
        rejoin(spec, *mounts)
    elif stage == "again":
        again()
    else:
        serve(spec)


if __name__ == "__main__":
    main()
