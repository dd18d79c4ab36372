#!/usr/bin/python3 -IS
"""Append what a container writes to a log of bounded size. A lone program: standard library only.

Usage: output_log.py LOG BYTES, the container's pipe on standard input. A log of more than BYTES becomes LOG.1, and an
older one of that name goes. Two of these, for standard output and standard error, may share a log. A disk that is full
loses lines and never stops the container.
"""

import fcntl
import os
import sys

PIECE = 1 << 16


def opened(path: str) -> int:
    """The log, made for root alone."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def next_log(log: int, path: str) -> int:
    """A new one in its place, unless the other writer, or an administrator, made one meanwhile."""
    fcntl.flock(log, fcntl.LOCK_EX)
    if os.path.exists(path) and os.path.samestat(os.fstat(log), os.stat(path)):
        os.rename(path, f"{path}.1")
    new = opened(path)
    os.close(log)
    return new


def append(log: int, data: bytes) -> None:
    """All of it, as far as there is room."""
    try:
        while data:
            data = data[os.write(log, data) :]  # short result: the rest follows
    except OSError:
        return


def main() -> None:
    path, most_bytes = sys.argv[1], int(sys.argv[2])
    log = opened(path)
    while data := os.read(0, PIECE):  # short result: what there is
        if os.fstat(log).st_size > most_bytes:
            log = next_log(log, path)
        append(log, data)


if __name__ == "__main__":
    main()
