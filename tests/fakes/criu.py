"""criu.py: a stand-in for CRIU, which works on real processes and over real sockets.

The program has the sub-commands `--version`, `check` and `swrk FD`. It freezes
by ptrace, as CRIU does, so that the kernel thaws the frozen processes if the program dies. A
restore starts tests/fakes/task.py again with the number that it had counted to. The program writes
the few images that tests read, in CRIU's format. It appends each request that it gets to the file
of FAKE_CRIU_RECORD, as a JSON object on a line.

The program is written from CRIU's sources and not from the product's: criu/cr-service.c (the
conversation) and criu/page-xfer.c (the pages).
"""

import ctypes
import json
import os
import platform
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 14):  # pycriu itself says so
    os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")

from google.protobuf.json_format import MessageToDict
from pycriu import images as image_files
from pycriu import rpc_pb2 as rpc

VERSION = (4, 2, 1)
PAGE = 4096
REGION, REGION_PAGES = 0x1_0000_0000_00, 64
IOV = struct.Struct("=I4xQQQ")
ADD_F, OPEN2, FORCE_CLOSE = 6, 4, 0x1024
PE_PARENT, PE_LAZY, PE_PRESENT = 1, 2, 4
PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
CLONE_PARENT = 0x8000
#: {method in the RPC: its number in images (criu/include/cr_options.h)}.
NETWORK_LOCK = {rpc.IPTABLES: 0, rpc.NFTABLES: 1, rpc.SKIP: 2}
SYS_CLONE = {"x86_64": 56, "aarch64": 220}

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = libc.syscall.restype = ctypes.c_long


class FakeError(Exception):
    """A step that fails, as the response then says."""


class PeerGone(FakeError):
    """The peer is gone, and nothing can be answered."""


def record(**what: Any) -> None:
    """Write fields for the test."""
    if path := os.environ.get("FAKE_CRIU_RECORD"):
        line = json.dumps({"pid": os.getpid(), "ppid": os.getppid(), **what}) + "\n"
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, line.encode())
        os.close(fd)


class Service:
    """The process of `criu swrk FD`."""

    def __init__(self, fd: int) -> None:
        self.peer = socket.socket(fileno=fd)
        credentials = self.peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.creator = struct.unpack("3i", credentials)[0]
        self.opts: Any = None

    def serve(self) -> int:
        """Answer requests until one ends the service or the peer goes, and return the status."""
        handlers = {rpc.VERSION: self.version, rpc.FEATURE_CHECK: self.features}
        while True:
            request = self.receive()
            if request is None:
                return 0
            if request.type in handlers:
                self.send(
                    rpc.criu_resp(type=request.type, success=True, **handlers[request.type]())
                )
                if not request.keep_open:
                    return 0
                continue
            return self.act(request)

    def act(self, request: Any) -> int:
        self.opts = request.opts
        steps = {rpc.DUMP: self.dump, rpc.RESTORE: self.restore}
        answer = rpc.criu_resp(type=request.type, success=True)
        try:
            steps[request.type](answer)
        except PeerGone:
            return 1
        except (FakeError, OSError) as error:
            answer.success, answer.cr_errmsg = False, f"Error (tests/fakes/criu.py): {error}\n"
        self.send(answer)
        return 0 if answer.success else 1

    def version(self) -> dict[str, Any]:
        major, minor, sub = VERSION
        return {"version": rpc.criu_version(major_number=major, minor_number=minor, sublevel=sub)}

    def features(self) -> dict[str, Any]:
        return {"features": rpc.criu_features(mem_track=False, lazy_pages=True)}

    # --- messages ---------------------------------------------------------------------------------

    def receive(self) -> Any:
        try:
            data, fds, _, _ = socket.recv_fds(self.peer, 1 << 20, 8)
        except ConnectionResetError:
            return None
        if not data:
            return None
        message = rpc.criu_req()
        message.ParseFromString(data)
        record(
            request=MessageToDict(message, preserving_proto_field_name=True),
            fds=[name_of(fd) for fd in fds],
        )
        for fd in fds:
            os.close(fd)
        return message

    def send(self, message: Any, fds: tuple[int, ...] = ()) -> None:
        try:
            socket.send_fds(self.peer, [message.SerializeToString()], list(fds))
        except OSError as error:
            raise PeerGone from error

    def notify(self, script: str, pid: int = 0, fds: tuple[int, ...] = ()) -> None:
        if not self.opts.notify_scripts:
            return
        notify = rpc.criu_notify(script=script, pid=pid)
        self.send(rpc.criu_resp(type=rpc.NOTIFY, success=True, notify=notify), fds)
        answer = self.receive()
        if answer is None:
            raise PeerGone
        if not answer.notify_success:
            raise FakeError(f"the peer failed {script}")

    # --- dump and restore -------------------------------------------------------------------------

    def directory(self) -> Path:
        """Return the images directory, as CRIU finds it.

        Its descriptor is one of the process that made the socket.
        """
        return Path(os.readlink(f"/proc/{self.creator}/fd/{self.opts.images_dir_fd}"))

    def log(self) -> None:
        text = "" if self.opts.log_level < 4 else f"(00.000001) Dumping task {self.opts.pid}\n"
        work = Path(os.readlink(f"/proc/{self.creator}/fd/{self.opts.work_dir_fd}"))
        (work / self.opts.log_file).write_text(text)

    def dump(self, answer: Any) -> None:
        images = self.directory()
        self.log()
        if not (self.opts.HasField("ps") or self.opts.lazy_pages):
            raise FakeError("memory in images is more than this fake does")
        self.notify("pre-dump")
        if self.opts.freeze_cgroup and not Path(self.opts.freeze_cgroup).exists():
            raise FakeError(f"can't open {self.opts.freeze_cgroup}")
        tasks = tree_of(self.opts.pid)
        for task in tasks:
            freeze(task)
        try:
            self.notify("query-ext-files")
            self.write_images(images, tasks)
            self.notify("post-dump")
        except FakeError:
            for task in tasks:
                libc.ptrace(PTRACE_DETACH, task, None, None)
            raise
        for task in tasks:
            os.kill(task, signal.SIGKILL)

    def write_images(self, images: Path, tasks: list[int]) -> None:
        inventory = {"img_version": 2, "network_lock_method": NETWORK_LOCK[self.opts.network_lock]}
        save(images / "inventory.img", "INVENTORY", [inventory])
        save(images / "pstree.img", "PSTREE", [])
        interpreter, option, program = (
            Path(f"/proc/{tasks[0]}/cmdline").read_bytes().decode().split("\0")[:3]
        )
        (counter,) = struct.unpack("=Q", memory_of(tasks[0], 8))
        (images / "fake.json").write_text(
            json.dumps({"argv": [interpreter, option, program, str(counter)]})
        )
        if self.opts.HasField("ps"):  # the page server writes the pagemaps then
            self.send_pages(tasks)
            return
        for number, task in enumerate(tasks, 1):
            entry = {
                "vaddr": hex(REGION),
                "nr_pages": REGION_PAGES,
                "compat_nr_pages": REGION_PAGES,
                "flags": PE_LAZY,
            }
            save(images / f"pagemap-{task}.img", "PAGEMAP", [{"pages_id": number}, entry])

    def send_pages(self, tasks: list[int]) -> None:
        with socket.socket(fileno=self.opts.ps.fd) as server:
            for task in tasks:
                image = task << 8 | 1
                server.sendall(IOV.pack(OPEN2, 0, 0, image))
                in_parent = server.recv(1) != b"\0"
                if in_parent and not self.opts.track_mem:
                    raise FakeError("the page server says that there are parent images")
                flags = PE_PARENT if in_parent else PE_PRESENT
                server.sendall(IOV.pack(ADD_F | flags << 16, REGION_PAGES, REGION, image))
                if not in_parent:
                    server.sendall(memory_of(task, REGION_PAGES * PAGE))
            server.sendall(IOV.pack(FORCE_CLOSE, 0, 0, 0))
            if server.recv(4, socket.MSG_WAITALL) != struct.pack("=i", 0):
                raise FakeError("the page server did not confirm")

    def restore(self, answer: Any) -> None:
        argv = json.loads((self.directory() / "fake.json").read_text())["argv"]
        self.log()
        self.notify("pre-restore")
        if self.opts.orphan_pts_master:
            master, slave = os.openpty()
            self.notify("orphan-pts-master", fds=(master,))
            os.close(master)
            os.close(slave)
        pid, release = start_held(argv, sibling=self.opts.rst_sibling)
        answer.restore.pid = pid
        try:
            self.notify("post-restore", pid)
            self.notify("pre-resume", pid)
        except FakeError:
            os.kill(pid, signal.SIGKILL)
            raise
        os.write(release, b"!")
        self.notify("post-resume", pid)


def start_held(argv: list[str], *, sibling: bool) -> tuple[int, int]:
    """Start a program that waits, and return (pid, descriptor).

    The program goes on when a byte is written to the descriptor. As with CRIU, it can be a sibling
    of this process.
    """
    wait, release = os.pipe()
    flags = (CLONE_PARENT if sibling else 0) | signal.SIGCHLD
    pid = libc.syscall(SYS_CLONE[platform.machine()], flags, 0, 0, 0, 0)
    if pid == 0:
        os.close(release)
        if os.read(wait, 1):
            os.setsid()
            os.execv(argv[0], argv)  # noqa: S606
        os._exit(1)
    os.close(wait)
    return pid, release


def freeze(pid: int) -> None:
    if libc.ptrace(PTRACE_SEIZE, pid, None, None) or libc.ptrace(PTRACE_INTERRUPT, pid, None, None):
        raise FakeError(f"ptrace of {pid}: {os.strerror(ctypes.get_errno())}")
    os.waitpid(pid, 0x40000000)


def tree_of(root: int) -> list[int]:
    found = [root]
    for pid in found:
        found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return found


def memory_of(pid: int, size: int) -> bytes:
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        memory.seek(REGION)
        return bytes(memory.read(size))


def save(path: Path, magic: str, entries: list[dict[str, Any]]) -> None:
    with path.open("wb") as file:
        image_files.dump({"magic": magic, "entries": entries}, file)


def name_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def main() -> int:
    arguments = sys.argv[1:]
    if arguments[:1] == ["swrk"]:
        number = int(arguments[1])
        record(argv=arguments, socket=name_of(number))
        return Service(number).serve()
    record(argv=arguments)
    if arguments == ["--version"]:
        print("Version: {}.{}.{}".format(*VERSION))
        return 0
    if arguments[:1] == ["check"]:
        print("Looks good.")
        return 0
    print(f"Error: unknown command: {' '.join(arguments)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
