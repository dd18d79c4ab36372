"""Processes whose timers go off once, and are set anew by the handler of their own signal.

A timer whose signal is lost never goes off again. STATUS says which timers still go off.
"""

import argparse
import ctypes
import mmap
import os
import signal
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from tests.workloads.status import serve
else:
    from status import serve

TICK_S = 0.05
#: How long STATUS watches the timers.
WATCH_S = 1.0
LOOK_S = 0.005
COUNT = struct.Struct("=Q")
KINDS = ("setitimer", "timer_create")


class SigEvent(ctypes.Structure):
    """struct sigevent (sigevent(7)): a signal to the process."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("pad", ctypes.c_byte * 48),
    )


class Once(ctypes.Structure):
    """struct itimerspec (timer_settime(2)), without an interval."""

    _fields_ = (("interval", ctypes.c_long * 2), ("value", ctypes.c_long * 2))


def ring(counts: mmap.mmap, number: int, period_s: float, kind: str) -> None:
    """Count how often a timer goes off, and never return."""
    libc, timer = ctypes.CDLL(None), ctypes.c_void_p()
    once = Once(value=(0, int(period_s * 1e9)))

    def set_anew(*_: object) -> None:
        (count,) = COUNT.unpack_from(counts, number * COUNT.size)
        COUNT.pack_into(counts, number * COUNT.size, count + 1)
        if kind == "setitimer":
            signal.setitimer(signal.ITIMER_REAL, period_s)
        else:
            libc.timer_settime(timer, 0, ctypes.byref(once), None)

    if kind == "setitimer":
        signal.signal(signal.SIGALRM, set_anew)
    else:
        signal.signal(signal.SIGUSR1, set_anew)
        event = SigEvent(signo=signal.SIGUSR1)
        libc.timer_create(time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer))
    set_anew()
    # It does not wait for a signal: a process that CRIU restores with one goes on waiting.
    while True:
        time.sleep(LOOK_S)


def main() -> None:
    parser = argparse.ArgumentParser(description="count timers that go off once, in processes")
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 - inside a container
    parser.add_argument("--port", type=int, default=7110)
    parser.add_argument("--processes", type=int, default=20)
    parser.add_argument("--period-ms", type=float, default=4.0)
    args = parser.parse_args()
    counts = mmap.mmap(-1, mmap.PAGESIZE)
    for number in range(args.processes):
        if not os.fork():
            ring(counts, number, args.period_ms / 1000, KINDS[number % len(KINDS)])

    def seen() -> list[int]:
        return [
            COUNT.unpack_from(counts, number * COUNT.size)[0] for number in range(args.processes)
        ]

    def report() -> dict[str, object]:
        before = seen()
        time.sleep(WATCH_S)
        after = seen()
        still = [KINDS[n % len(KINDS)] for n in range(args.processes) if before[n] == after[n]]
        errors = [f"a timer of {kind} goes off no more" for kind in still]
        return {"ok": not still, "went_off": sum(after), "errors": errors}

    serve(args.host, args.port, report, lambda: None, TICK_S)


if __name__ == "__main__":
    main()
