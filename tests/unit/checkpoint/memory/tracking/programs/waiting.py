"""Calls that wait, in a loop, for a process that a test attaches to meanwhile.

The text of this file is sent to the obedient process (tests/unit/helpers/obedient.py), which then
calls `wait_again_and_again`.
"""

import ctypes
import os
import select
import signal
import struct
import threading
import time
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
epoll = select.epoll()
lock = threading.Lock()
lock.acquire()
stop: list[int] = []


def writer() -> int:
    """Return the read end of a pipe into which a child writes a byte every few milliseconds."""
    reader, end = os.pipe()
    if not os.fork():
        os.close(reader)
        try:
            while True:
                time.sleep(0.005)
                os.write(end, b"x")
        except OSError:
            os._exit(0)
    os.close(end)
    return reader


def slept_child() -> bool:
    """Return whether waitpid(2) waits for a child that sleeps for a few milliseconds."""
    pid = os.fork()
    if not pid:
        time.sleep(0.005)
        os._exit(0)
    return int(libc.waitpid(pid, None, 0)) > 0


def ten_ms(fraction_of_a_second: int) -> bytes:
    """Return 10 ms as a struct timespec or timeval, whose second field counts such fractions."""
    return struct.pack("qq", 0, fraction_of_a_second // 100)


def calls(name: str) -> Any:
    """Return the function that makes one call of a name.

    The calls go straight to libc where Python would hide a wrong result by calling again.
    """
    if name == "pipe read":
        reader = writer()
        return lambda: libc.read(reader, ctypes.create_string_buffer(1), 1)
    return {
        "time.sleep": lambda: time.sleep(0.01),
        "nanosleep": lambda: libc.nanosleep(ten_ms(10**9), None),
        "select": lambda: libc.select(0, None, None, None, ten_ms(10**6)),
        "poll": lambda: libc.poll(None, 0, 10),
        "epoll": lambda: epoll.poll(0.01),
        "waitpid": slept_child,
        "lock": lambda: lock.acquire(timeout=0.01),
    }[name]


def wait_again_and_again(name: str, right: Any, least_ms: int) -> dict[str, Any]:
    """Make one call after the other until SIGUSR1, and return what was wrong with them.

    `count` is the number of calls, `early` how many of them took less than `least_ms`, and `wrong`
    the results that were not `right`, with errno.
    """
    call, wrong, count, early = calls(name), [], 0, 0
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda *_: stop.append(1))
    print("1", flush=True)
    while not stop:
        before = time.monotonic_ns()
        result = call()
        took = time.monotonic_ns() - before
        if stop:
            break
        count += 1
        early += took < least_ms * 1_000_000
        if result != right:
            wrong.append((result, ctypes.get_errno()))
    return {"count": count, "early": early, "wrong": wrong}
