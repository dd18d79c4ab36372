"""The life of a node, from a process of this machine to the node's PID 1.

This runs as a program, by path, so it uses the standard library only and nothing of ours. Each
stage ends by becoming the next:
    join    in this machine: enter the node's cgroups, then unshare everything
    pivot   PID 1, in this machine's files: make the node's root and move into it
    serve   PID 1, in the node's files: mount what a host has, start sshd, reap orphans for ever
"""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

CHECKOUT_IN_NODE = Path("/opt/migrate")
PYTHON_IN_NODE = "/usr/bin/python3"
SPEC_IN_NODE = Path("/etc/rig-node.json")
CGROUP_BASE = Path("/sys/fs/cgroup")
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
    """Enter the node's cgroups, let the caller go on, and become the node.

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
    unshare = [
        "unshare",
        "--mount",
        "--pid",
        "--uts",
        "--ipc",
        "--cgroup",
        "--fork",
        "--kill-child",
    ]
    become(
        "nsenter",
        f"--net={spec.netns}",
        *unshare,
        *python(sys.executable, __file__, "pivot", spec_path),
    )


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
    here = Path(__file__).resolve().relative_to(spec.checkout)
    become(*python(PYTHON_IN_NODE, str(CHECKOUT_IN_NODE / here), "serve", str(SPEC_IN_NODE)))


def serve(spec: Spec) -> None:
    """Become the first process of a host that is up."""
    socket.sethostname(spec.hostname)
    mount_api_file_systems()
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


def become(*argv: str) -> None:
    """Become another program."""
    os.execvp(argv[0], argv)  # noqa: S606


def main() -> None:
    """Run the stage that the command line names."""
    stage, spec_path = sys.argv[1:]
    spec = Spec.load(Path(spec_path))
    if stage == "join":
        join(spec, spec_path)
    elif stage == "pivot":
        pivot(spec)
    else:
        serve(spec)


if __name__ == "__main__":
    main()
