"""The rescue of a container whose CRIU died while it held the container frozen.

The tasks run on by themselves: ptrace(2) detaches tracees when their tracer ends. Two things stay
as CRIU left them. An nft table drops all packets of the network namespace (CRIU criu/net.c; its
name is from criu/netfilter.c, nftables_get_table). TCP sockets are in repair mode, in which tasks
can neither send nor receive on them (CRIU soccr/soccr.c).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterable, Iterator

from checkpoint.host import kernel, proc
from checkpoint.host.ready import ready
from checkpoint.host.run import find_program, run

FAMILIES = (socket.AF_INET, socket.AF_INET6)
TCP_REPAIR = 19  # include/uapi/linux/tcp.h
TABLE_PREFIX = "CRIU-"
#: The longest wait for the end of a CRIU that was killed.
DEATH_S = 1.0


def end(criu_pidfd: int, timeout_s: float) -> bool:
    """Wait until a CRIU whose peer is gone has ended; kill it when `timeout_s` seconds are over.

    Return whether CRIU ended by itself. A CRIU that somebody has stopped (SIGSTOP) goes on first.
    """
    if timeout_s > 0:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(criu_pidfd, signal.SIGCONT)
    if ready(criu_pidfd, timeout_s=timeout_s):
        return True
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(criu_pidfd, signal.SIGKILL)
    ready(criu_pidfd, timeout_s=DEATH_S)
    return False


def unlock(pids: Iterable[int]) -> bool:
    """Take the TCP sockets of these processes out of repair mode, and unlock their network.

    Return whether a socket was in repair mode or a table of CRIU's was found. Only the network
    namespace of the first process is unlocked (`unlock_network`). A connection that a task wrote
    to, or closed, while its socket was in repair mode is lost: the socket takes neither. Raises
    CommandFailed when nft fails.
    """
    found = False
    pids = list(pids)
    for pid in pids:
        for sock in _tcp_sockets(pid):
            with contextlib.suppress(OSError):
                if sock.getsockopt(socket.IPPROTO_TCP, TCP_REPAIR):
                    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
                    found = True
    return unlock_network(proc.path(pids[0], "ns", "net")) or found


def unlock_network(path: str) -> bool:
    """Remove the tables by which CRIU has locked a network namespace, and return if there were any.

    `path` is the namespace's. Only tables that were made with nft are removed. Raises CommandFailed
    when nft fails.
    """
    found = False
    if find_program("nft") is None:
        return found
    in_namespace = ["nsenter", f"--net={path}"]
    for line in run([*in_namespace, "nft", "list", "tables", "inet"]).splitlines():
        name = line.split()[-1]
        if name.startswith(TABLE_PREFIX):
            run([*in_namespace, "nft", "delete", "table", "inet", name])
            found = True
    return found


def _tcp_sockets(pid: int) -> Iterator[socket.socket]:
    """Yield a duplicate of each of a process's TCP sockets, and close it before the next."""
    with contextlib.suppress(OSError), _pidfd(pid) as pidfd:
        for number in proc.descriptors(pid):
            # The process runs, and may have closed a descriptor meanwhile.
            with contextlib.suppress(OSError):
                if os.readlink(proc.path(pid, "fd", number)).startswith("socket:"):
                    fd = kernel.pidfd_getfd(pidfd, number)
                    with socket.socket(fileno=fd) as sock:
                        if sock.family in FAMILIES and sock.type == socket.SOCK_STREAM:
                            yield sock


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)
