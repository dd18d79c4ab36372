"""What there is of a container that CRIU handles item by item, counted in /proc (proc(5))."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from checkpoint.errors import ProcError
from checkpoint.host import memory, proc

#: States of include/net/tcp_states.h, as /proc/PID/net/tcp writes them, in which a socket is no
#: connection: TIME_WAIT, which no process has, CLOSE and LISTEN.
NO_CONNECTION = {"06", "07", "0A"}
#: The unit of st_blocks (stat(2)).
BLOCK_BYTES = 512


@dataclass(frozen=True, kw_only=True)
class Census:
    """The numbers of a container's items.

    `shared_bytes` is the size of the shared memory that its processes have mapped and that no mount
    has: anonymous, memfds, and System V's. CRIU dumps it as a whole (criu/shmem.c).
    """

    processes: int
    threads: int
    descriptors: int
    connections: int
    mappings: int
    shared_bytes: int


def census(init: int, pids: list[int]) -> Census:
    """Count what a container has, of which `pids` are the processes and `init` is the first.

    The connections are those in the network namespace of `init`. A process that has ended counts
    for nothing. `threads` are those besides the main thread of each process.
    """
    threads = descriptors = mappings = 0
    shared: dict[int, int] = {}
    device = proc.device_text(memory.shared_memory_device())
    for pid in pids:
        with contextlib.suppress(OSError, ProcError):
            threads += len(os.listdir(proc.path(pid, "task"))) - 1
            descriptors += len(proc.descriptors(pid))
            found = list(proc.mappings(pid))
            mappings += len(found)
            for mapping in found:
                if mapping.permissions.endswith("s") and mapping.device == device:
                    name = f"{mapping.start:x}-{mapping.end:x}"
                    with contextlib.suppress(OSError):
                        file = os.stat(proc.path(pid, "map_files", name))
                        shared[file.st_ino] = file.st_blocks * BLOCK_BYTES
    return Census(
        processes=len(pids),
        threads=threads,
        descriptors=descriptors,
        connections=_connections(init),
        mappings=mappings,
        shared_bytes=sum(shared.values()),
    )


def private_bytes(pids: Iterable[int]) -> int:
    """Return the RAM in private memory of processes without a file behind it (RssAnon, proc(5))."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, ProcError):
            with open(proc.path(pid, "status"), "rb") as status:
                found = [line for line in status if line.startswith(b"RssAnon:")]
            total += sum(int(line.split()[1]) * 1024 for line in found)
    return total


def _connections(init: int) -> int:
    """Return the number of TCP connections in a process's network namespace (proc_pid_net(5))."""
    count = 0
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), Path(proc.path(init, "net", name)).open() as table:
            next(table, None)
            count += sum(line.split(None, 4)[3] not in NO_CONNECTION for line in table)
    return count
