"""Do for a container what its CRIU would have done, had it not died while it held it frozen.

The tasks run on by themselves: ptrace(2) lets go of them when the tracer ends. Two things stay: the table
with which nft drops the namespace's packets (CRIU criu/netfilter.c), and TCP sockets in repair mode,
deaf and mute (CRIU soccr/soccr.c).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator

from checkpoint.host.run import find_program, run
from checkpoint.memory.inject import SYS_PIDFD_GETFD, libc

TCP_REPAIR = 19  # include/uapi/linux/tcp.h
TABLE_PREFIX = "CRIU-"


def unlock(pids: Iterable[int]) -> bool:
    """Unlock the network of these processes, the first one's namespace, and wake their TCP connections.

    Whether there was anything to do. A connection that was written to or closed before is lost: a socket
    in repair mode takes neither. Raises CommandFailed when nft does.
    """
    found = False
    pids = list(pids)
    for pid in pids:
        for sock in _tcp_sockets(pid):
            with contextlib.suppress(OSError):
                if sock.getsockopt(socket.IPPROTO_TCP, TCP_REPAIR):
                    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
                    found = True
    if find_program("nft") is None:
        return found
    in_namespace = ["nsenter", f"--net=/proc/{pids[0]}/ns/net"]
    for line in run([*in_namespace, "nft", "list", "tables", "inet"]).splitlines():
        name = line.split()[-1]
        if name.startswith(TABLE_PREFIX):
            run([*in_namespace, "nft", "delete", "table", "inet", name])
            found = True
    return found


def _tcp_sockets(pid: int) -> Iterator[socket.socket]:
    """Our own duplicates of a process's TCP sockets; each is closed again before the next."""
    with contextlib.suppress(OSError), _pidfd(pid) as pidfd:
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(
                OSError
            ):  # the process runs: one may have been closed meanwhile
                if os.readlink(f"/proc/{pid}/fd/{number}").startswith("socket:"):
                    fd = libc.syscall(SYS_PIDFD_GETFD, pidfd, int(number), 0)
                    if fd >= 0:
                        with socket.socket(fileno=fd) as sock:
                            if (
                                sock.family in (socket.AF_INET, socket.AF_INET6)
                                and sock.type == socket.SOCK_STREAM
                            ):
                                yield sock


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)
