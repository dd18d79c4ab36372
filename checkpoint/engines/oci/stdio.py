"""The standard streams of a restored container.

A stream that was a pipe on the source is a pipe on the target, with a process at its other end.
"""

from __future__ import annotations

import os
import pkgutil
import sys

from checkpoint.host import paths
from checkpoint.host.ownership import private_directory
from checkpoint.host.run import start

LOG_DIRECTORY = paths.LOGS
#: The bound of a container's log, and of the older log that output_log.py keeps.
MOST_LOG_BYTES = 64 << 20
#: A program that holds the write end of a pipe open, so that the container's stdin does not end. It
#: exits when no process has the read end any more.
HOLDER = "import select; p = select.poll(); p.register({fd}, 0); p.poll()"


def rebuild(container_id: str, descriptors: list[str]) -> tuple[int, int, int]:
    """Open (stdin, stdout, stderr) for the runtime that restores; the caller closes them.

    `descriptors` names what the streams were open on at the source, as in /proc/PID/fd. Streams
    that shared a pipe share one again; a stream that was no pipe is /dev/null. What the container
    prints is appended to /var/log/migrate/ID.log, because it is unknown on the target where the
    source's pipes led.
    """
    ends: dict[str, tuple[int, int]] = {}
    streams = []
    for number, name in enumerate((list(descriptors) + ["/dev/null"] * 3)[:3]):
        if not name.startswith("pipe:"):
            streams.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
            continue
        if name not in ends:
            ends[name] = os.pipe()
            _attach(container_id, number, ends[name])
        streams.append(os.dup(ends[name][0 if number == 0 else 1]))
    for pair in ends.values():
        for fd in pair:
            os.close(fd)
    return streams[0], streams[1], streams[2]


def _attach(container_id: str, number: int, pipe: tuple[int, int]) -> None:
    """Start the process at the other end of the pipe of stream `number`.

    The process lives as long as the container has its own end of the pipe.
    """
    reader, writer = pipe
    if number == 0:
        start([sys.executable, "-ISc", HOLDER.format(fd=writer)], pass_fds=[writer])
        return
    private_directory(LOG_DIRECTORY)
    program = pkgutil.get_data("checkpoint.engines", "output_log.py")
    assert program is not None
    log = LOG_DIRECTORY / f"{container_id}.log"
    start([sys.executable, "-ISc", program.decode(), str(log), str(MOST_LOG_BYTES)], stdin=reader)
