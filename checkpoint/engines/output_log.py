#!/usr/bin/python3 -IS
"""A lone program that appends what a container prints to a log of bounded size.

It imports the standard library only. Usage: output_log.py LOG BYTES, with the container's pipe on
standard input. A LOG of more than BYTES is renamed to LOG.1, in place of an older LOG.1.
Two of these programs, for standard output and standard error, may share a log. On a full disk
output is lost, but the container never waits.
"""

import fcntl
import os
import sys

PIECE = 1 << 16


def opened(path: str) -> int:
    """Open the log for appending, and return its descriptor; a new log is for root alone."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def next_log(log: int, path: str) -> int:
    """Rename the full log to LOG.1, and return a descriptor of the log that takes its place.

    `log` is the descriptor of the full log, and is closed. If the other writer or an administrator
    has renamed or removed the log already, nothing is renamed.
    """
    fcntl.flock(log, fcntl.LOCK_EX)
    if os.path.exists(path) and os.path.samestat(os.fstat(log), os.stat(path)):
        os.rename(path, f"{path}.1")
    new = opened(path)
    os.close(log)
    return new


def append(log: int, data: bytes) -> None:
    """Write all of `data`; after an error, such as a full disk, the rest of it is lost."""
    try:
        while data:
            data = data[os.write(log, data) :]  # short result: the rest follows
    except OSError:
        return


def main() -> None:
    """Append standard input to the log argv[1], of which each file has at most argv[2] bytes."""
    path, most_bytes = sys.argv[1], int(sys.argv[2])
    log = opened(path)
    while data := os.read(0, PIECE):  # short result: what there is
        if os.fstat(log).st_size > most_bytes:
            log = next_log(log, path)
        append(log, data)


if __name__ == "__main__":
    main()
