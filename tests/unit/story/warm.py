"""warm.py SOCKET: a program that forks the processes of a migration in milliseconds.

The program has imported everything before it is asked for a process. Each request is a JSON object
in one message of the socket, and the answer is the pid of the new process. That is a child of the
process that started this program (clone(2), CLONE_PARENT), which can therefore wait for it. `kind`
of a request is one of:

    init      the init of a container, with a pid and a mount namespace of its own and nothing open,
              which counts in its memory
    nothing   a process that ends
    runtime   what runc does with CRIU: the process asks the fake CRIU for a dump or a restore,
              through the interposer

This program and its processes are one host to the product: they have a mount namespace in which
/run, /var/lib and /var/log are their own. All processes of a migration append to one file, the
journal of the world, so that the kernel keeps the order of the steps.
"""

import ctypes
import json
import os
import platform
import signal
import socket
import struct
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
if sys.version_info >= (3, 14):  # pycriu itself says so
    os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pycriu import images as image_files
    from pycriu import rpc_pb2 as rpc

    from checkpoint.criu import shim
    from tests.fakes import criu, task

Spec = dict[str, Any]
CLONE_PARENT, CLONE_NEWNS, CLONE_NEWPID = 0x8000, 1 << 17, 1 << 29
PR_SET_PDEATHSIG = 1
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 1 << 12, 1 << 14, 1 << 18, 2
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
PTRACE_O_TRACEEXIT = 0x40
PF_EXITING = 0x4
#: A descriptor that nothing else of the process is likely to have.
IMAGES_FD = 150
#: No process of a test lives longer, in seconds, whatever becomes of the test.
LIFE_S = 120

libc = criu.libc
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]


def clone(flags: int) -> int:
    number = criu.SYS_CLONE[platform.machine()]
    pid = libc.syscall(number, flags | signal.SIGCHLD, 0, 0, 0, 0)
    if pid < 0:
        sys.exit(f"clone: {os.strerror(ctypes.get_errno())}")
    return int(pid)


def write_down(spec: Spec, event: str, **fields: Any) -> None:
    """Add a line to the journal."""
    line = json.dumps({"host": spec["host"], "event": event, "pid": os.getpid(), **fields}) + "\n"
    fd = os.open(spec["journal"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line.encode())
    os.close(fd)


def fault(spec: Spec, at: str) -> None:
    """Let a point go wrong, if it is to."""
    if (spec.get("fault") or {}).get("at") != at:
        return
    what = spec["fault"]["do"]
    told = f"{what} at {at}"
    if spec["fault"]["once"] and told in Path(spec["journal"]).read_text():
        return
    write_down(spec, "", fault=told)
    if what == "fail":
        raise criu.FakeError(f"{at} was to fail")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "late":
        time.sleep(spec["fault"]["seconds"])
    if what == "stall":
        time.sleep(LIFE_S)
        os._exit(4)


# --- the container -----------------------------------------------------------------------------


def remember(content: bytes) -> None:
    """Map the region of tests/fakes/task.py, and fill it with a content."""
    size = task.PAGES * task.PAGE_SIZE
    found = libc.mmap(
        task.REGION, size, task.PROT_READ_WRITE, task.MAP_PRIVATE_ANONYMOUS_FIXED, -1, 0
    )
    if found != task.REGION:
        os._exit(3)
    ctypes.memmove(task.REGION, content, size)


def count() -> NoReturn:
    """Count on from the number in memory."""
    (counter,) = task.COUNTER.unpack(ctypes.string_at(task.REGION, task.COUNTER.size))
    last = time.monotonic() + LIFE_S
    while time.monotonic() < last:
        counter += 1
        ctypes.memmove(task.REGION, task.COUNTER.pack(counter), task.COUNTER.size)
        time.sleep(0.0005)
    os._exit(0)


def must(result: int) -> None:
    """Raise OSError for a system call that has failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def init(spec: Spec) -> NoReturn:
    root = spec["root"].encode()
    must(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
    must(libc.mount(root, root, None, MS_BIND, None))
    os.chdir(root)
    must(libc.syscall(SYS_PIVOT_ROOT[platform.machine()], b".", b"."))
    must(libc.umount2(b".", MNT_DETACH))
    if spec["tmpfs"]:
        os.makedirs("/data", exist_ok=True)
        must(libc.mount(b"tmpfs", b"/data", b"tmpfs", 0, b"size=1m"))
        Path("/data/note").write_text("a note\n")
    remember(b"".join(map(task.pattern, range(task.PAGES))))
    os.closerange(0, 1 << 16)
    count()


# --- CRIU ----------------------------------------------------------------------------------------


class Criu(criu.Service):
    """The CRIU of tests/fakes/criu.py, with faults, and with its steps in the journal.

    The process does not call exec.
    """

    def __init__(self, fd: int, spec: Spec) -> None:
        super().__init__(fd)
        self.spec = spec
        write_down(spec, "", criu=os.getpid())

    def log(self) -> None:
        """Write no log, as nobody reads it."""

    def step(self, script: str, pid: int = 0) -> None:
        fault(self.spec, script)
        self.notify(script, pid)

    def send(self, message: Any, fds: tuple[int, ...] = ()) -> None:
        if message.type != rpc.NOTIFY and not message.success:
            write_down(self.spec, "", failed=message.cr_errmsg)
        super().send(message, fds)

    def dump(self, answer: Any) -> None:
        images, pid = self.directory(), self.opts.pid
        self.step("pre-dump")
        # With this option a traced process stops on its way out, too. The process survives SIGKILL
        # until CRIU lets it go.
        options = PTRACE_O_TRACEEXIT if self.spec.get("undying") else 0
        if libc.ptrace(criu.PTRACE_SEIZE, pid, None, options) or libc.ptrace(
            criu.PTRACE_INTERRUPT, pid, None, None
        ):
            raise criu.FakeError(f"ptrace of {pid}: {os.strerror(ctypes.get_errno())}")
        os.waitpid(pid, 0x40000000)
        write_down(self.spec, "frozen")
        try:
            self.step("network-lock")
            inventory = {
                "img_version": 2,
                "network_lock_method": criu.NETWORK_LOCK[self.opts.network_lock],
            }
            criu.save(images / "inventory.img", "INVENTORY", [inventory])
            criu.save(images / "pstree.img", "PSTREE", [])
            virtual_pid = int(status_of(pid, "NSpid").split()[-1])
            (images / "story.img").write_text(json.dumps({"image": virtual_pid, "source": pid}))
            fault(self.spec, "pages")
            self.send_memory(pid, virtual_pid)
            self.step("post-dump")
        except (criu.FakeError, OSError):
            libc.ptrace(criu.PTRACE_DETACH, pid, None, None)
            write_down(self.spec, "thawed")
            raise
        os.kill(pid, signal.SIGKILL)

    def send_memory(self, pid: int, virtual_pid: int) -> None:
        """Send the memory of a process in one image, all of it present (CRIU criu/page-xfer.c)."""
        image = virtual_pid << 8 | 1
        with socket.socket(fileno=self.opts.ps.fd) as server:
            server.sendall(criu.IOV.pack(criu.OPEN2, 0, 0, image))
            server.recv(1)
            server.sendall(
                criu.IOV.pack(criu.ADD_F | criu.PE_PRESENT << 16, task.PAGES, task.REGION, image)
            )
            server.sendall(criu.memory_of(pid, task.PAGES * task.PAGE_SIZE))
            server.sendall(criu.IOV.pack(criu.FORCE_CLOSE, 0, 0, 0))
            if server.recv(4, socket.MSG_WAITALL) != struct.pack("=i", 0):
                raise criu.FakeError("the page server did not confirm")

    def restore(self, answer: Any) -> None:
        images = self.directory()
        known = json.loads((images / "story.img").read_text())
        self.step("pre-restore")
        with (images / f"pagemap-{known['image']}.img").open("rb") as file:
            head, *entries = image_files.load(file)["entries"]
        content = (images / f"pages-{head['pages_id']}.img").read_bytes()
        whole = task.PAGES * task.PAGE_SIZE
        if [entry["vaddr"] for entry in entries] != [task.REGION] or len(content) != whole:
            raise criu.FakeError("the images are not of a whole container")
        pid, release = self.restored(content)
        write_down(self.spec, "restored", restored=pid)
        answer.restore.pid = pid
        try:
            for script in ("post-restore", "network-unlock", "pre-resume"):
                self.step(script, pid)
            fault(self.spec, "resume")
        except criu.FakeError:
            os.kill(pid, signal.SIGKILL)
            write_down(self.spec, "killed what was restored")
            raise
        write_down(self.spec, "resumed", source_runs=can_run(known["source"]))
        os.write(release, b"!")
        self.step("post-resume", pid)

    def restored(self, content: bytes) -> tuple[int, int]:
        """Return (pid, descriptor) of a restored process, which waits.

        The process goes on when a byte is written to the descriptor, and ends when CRIU ends before
        that. As with CRIU, the memory of the process is in place at the return, however busy the
        machine is.
        """
        (wait, release), (filled, tell) = os.pipe(), os.pipe()
        pid = clone(CLONE_PARENT if self.opts.rst_sibling else 0)
        if pid == 0:
            os.close(release)
            os.setsid()
            remember(content)
            os.write(tell, b"!")
            os.close(tell)
            if not os.read(wait, 1):
                os._exit(1)
            os.closerange(0, 1 << 16)
            count()
        for fd in (wait, tell):
            os.close(fd)
        if not os.read(filled, 1):
            raise criu.FakeError("the restored process ended before it had its memory")
        os.close(filled)
        return pid, release


def status_of(pid: int, name: str) -> str:
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return next(value.strip() for key, _, value in lines if key == name)


def can_run(pid: int) -> bool:
    """Return whether a process may run its own code again (proc_pid_stat(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] not in "ZX" and not int(fields[6]) & PF_EXITING


# --- the runtime ---------------------------------------------------------------------------------


def runtime(spec: Spec) -> NoReturn:
    """Run `runc checkpoint` or `runc restore`, and end with 0 if CRIU has done it."""
    fault_of(spec, "start")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        ours.close()
        number = theirs.detach()
        shim.hand_over(number, spec["rpc_socket"])
        os._exit(Criu(number, spec).serve())
    theirs.close()
    with ours:
        done = converse(ours, spec)
    os.waitpid(child, 0)
    fault_of(spec, "end")
    os._exit(0 if done else 1)


def fault_of(spec: Spec, at: str) -> None:
    try:
        fault(spec, f"runtime {at}")
    except criu.FakeError:
        os._exit(1)


def converse(peer: socket.socket, spec: Spec) -> bool:
    request = rpc.criu_req(type=rpc.criu_req_type.Value(spec["asks"]))
    directory = os.open(spec["images"], os.O_RDONLY | os.O_DIRECTORY)
    os.dup2(directory, IMAGES_FD)
    os.close(directory)
    options = request.opts
    options.images_dir_fd = options.work_dir_fd = IMAGES_FD
    options.log_file = f"{spec['asks'].lower()}.log"
    options.notify_scripts = True
    options.manage_cgroups = False
    options.root = spec["root"]
    options.rst_sibling = spec["asks"] == "RESTORE"
    if "pid" in spec:
        options.pid = spec["pid"]
    try:
        peer.send(request.SerializeToString())
        while data := peer.recv(1 << 20):
            message = rpc.criu_resp()
            message.ParseFromString(data)
            if message.type != rpc.NOTIFY:
                return bool(message.success)
            peer.send(rpc.criu_req(type=rpc.NOTIFY, notify_success=True).SerializeToString())
    except OSError:  # the other end is gone
        pass
    return False


def nothing(_: Spec) -> NoReturn:
    os._exit(0)


def have_own_directories() -> None:
    """Have a mount namespace with empty directories of their own where a host keeps its files."""
    must(libc.unshare(CLONE_NEWNS))
    must(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
    for directory in (b"/run", b"/var/lib", b"/var/log"):
        must(libc.mount(b"tmpfs", directory, b"tmpfs", 0, b"mode=755"))


def serve(control: socket.socket) -> None:
    while request := control.recv(1 << 16):
        spec = json.loads(request)
        is_init = spec["kind"] == "init"
        pid = clone(CLONE_PARENT | (CLONE_NEWPID | CLONE_NEWNS if is_init else 0))
        if pid == 0:
            control.close()
            os.setsid()
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            {"init": init, "runtime": runtime, "nothing": nothing}[spec["kind"]](spec)
        control.send(str(pid).encode())


if __name__ == "__main__":
    criu.record = lambda **_: None  # the journal has what matters
    have_own_directories()
    serve(socket.socket(fileno=int(sys.argv[1])))
