"""Standard streams of a restored container: pipes again where they were pipes, with someone at the other end."""

from __future__ import annotations

import os
import pkgutil
import sys
from pathlib import Path

from checkpoint.host.ownership import private_directory
from checkpoint.host.run import start

LOG_DIRECTORY = Path("/var/log/migrate")
#: Of a container's log, and once more of the one before it.
MOST_LOG_BYTES = 64 << 20
#: Holds a pipe's write end open, so that the container's stdin does not end, until nobody can read it.
HOLDER = "import select; p = select.poll(); p.register({fd}, 0); p.poll()"


def rebuild(container_id: str, descriptors: list[str]) -> tuple[int, int, int]:
    """Open (stdin, stdout, stderr) for the runtime that restores; the caller closes them.

    `descriptors` are the names of the source's, as in /proc/PID/fd. Streams that shared a pipe share
    one again. What the container writes is appended to /var/log/migrate/ID.log: where the source's
    pipes led is unknown here.
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
    """Start the process at the pipe's other end. It lives as long as the container holds its own end."""
    reader, writer = pipe
    if number == 0:
        start([sys.executable, "-ISc", HOLDER.format(fd=writer)], pass_fds=[writer])
        return
    private_directory(LOG_DIRECTORY)
    program = pkgutil.get_data("checkpoint.runtimes", "output_log.py")
    assert program is not None
    log = LOG_DIRECTORY / f"{container_id}.log"
    start([sys.executable, "-ISc", program.decode(), str(log), str(MOST_LOG_BYTES)], stdin=reader)
