"""A tree of processes that check each other for a wrong byte, a lost message, a stopped timer.

    root -pipe-> signals -pipe-> threads -socketpair-> sleeper -pipe-> poller -seqpacket pair-> root

`sleeper` is a child of `threads`, the others are children of `root`. Numbered tokens go round that
ring. Each stage checks number, place, content and checksum of each token, and with each token
verifies and rewrites a page of its private memory. One token at a time is the baton: its holder,
and nobody else, may raise the counter in shared memory, and the baton says what the counter must
be. `sleeper` lags on purpose, so that bytes are in flight whenever the freeze comes. Errors stay.

root finds what has stopped by counting its own periods, and not by a clock: a freeze stops all
stages alike.
"""

import argparse
import contextlib
import os
import queue
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING or __package__:
    from tests.workloads.status import LineServer, status_answer, tcp_listener
    from tests.workloads.tree_stage import (
        POLLER,
        ROOT,
        SIGNALS,
        SLEEPER,
        STAGES,
        THREADS,
        TOKEN_BYTES,
        Shared,
        Stage,
        pack_token,
    )
else:
    from status import LineServer, status_answer, tcp_listener
    from tree_stage import (
        POLLER,
        ROOT,
        SIGNALS,
        SLEEPER,
        STAGES,
        THREADS,
        TOKEN_BYTES,
        Shared,
        Stage,
        pack_token,
    )

#: So many tokens are on their way at most. All of them fit into one pipe, so that no stage can
#: block for ever on a full one.
IN_FLIGHT = 32
PERIOD_S = 0.004
ALARM_S = 0.01
SLEEP_S = 0.01
#: Longer than a dump, so that the timer is still to expire when it is restored.
ONE_SHOT_S = 1.0
#: About 4 s of root not being frozen.
STALLED_PERIODS = 1000
MAX_ERRORS = 20


def read_token(fd: int) -> bytes:
    """Return one token, or b"" at the end of the stream."""
    token = b""
    while len(token) < TOKEN_BYTES:
        data = os.read(fd, TOKEN_BYTES - len(token))
        if not data:
            return b""
        token += data
    return token


def relay_signals(stage: Stage, shared: Shared, source: int, sink: int) -> None:
    """Relay while SIGALRM from an interval timer interrupts every system call sooner or later."""
    signal.signal(signal.SIGALRM, lambda *_: shared.add(stage.place, Shared.TICKS))
    signal.setitimer(signal.ITIMER_REAL, ALARM_S, ALARM_S)
    while token := read_token(source):
        os.write(sink, stage.forward(token))


def relay_threads(stage: Stage, shared: Shared, source: int, sink: int) -> None:
    """Relay through two more threads, handing over by queues (futexes)."""
    first: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    second: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def check() -> None:
        while token := first.get():
            second.put(stage.forward(token))

    def write() -> None:
        while token := second.get():
            try:
                os.write(sink, token)
            except OSError as error:
                if not shared.stopping:
                    stage.fail(f"write: {error}")
                os._exit(1)

    for work in (check, write):
        threading.Thread(target=work, daemon=True).start()
    while token := read_token(source):
        first.put(token)


def relay_sleeper(stage: Stage, shared: Shared, source: int, sink: int) -> None:
    """Relay in batches, and sleep between them; what comes meanwhile waits in the socket."""
    while token := read_token(source):
        os.write(sink, stage.forward(token))
        if shared.get(stage.place, Shared.PASSED) % 4 == 0:
            time.sleep(SLEEP_S)


def relay_poller(stage: Stage, shared: Shared, source: int, sink: int) -> None:
    """Relay by epoll with a short timeout; a timer is set anew by its own signal meanwhile."""

    def ring(*_: object) -> None:
        shared.add(stage.place, Shared.ONE_SHOTS)
        signal.setitimer(signal.ITIMER_REAL, ONE_SHOT_S)

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, ONE_SHOT_S)
    epoll = select.epoll()
    epoll.register(source, select.EPOLLIN)
    while True:
        if not epoll.poll(PERIOD_S / 2):
            shared.add(stage.place, Shared.TICKS)
            continue
        token = read_token(source)
        if not token:
            return
        os.write(sink, stage.forward(token))


Relay = Callable[[Stage, Shared, int, int], None]
RELAYS: dict[int, Relay] = {
    SIGNALS: relay_signals,
    THREADS: relay_threads,
    SLEEPER: relay_sleeper,
    POLLER: relay_poller,
}


class Links:
    """The ring's edges: each stage has a source where it reads, and a sink where it writes."""

    def __init__(self) -> None:
        from_threads, to_sleeper = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        from_poller, to_root = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pipes = {place: os.pipe() for place in (ROOT, SIGNALS, SLEEPER)}
        self._sinks = {place: pipe[1] for place, pipe in pipes.items()}
        self._sources = {place + 1: pipe[0] for place, pipe in pipes.items()}
        self._sinks |= {THREADS: from_threads.detach(), POLLER: from_poller.detach()}
        self._sources |= {SLEEPER: to_sleeper.detach(), ROOT: to_root.detach()}

    def take(self, place: int) -> tuple[int, int]:
        """Keep the source and the sink of one stage, and close all others.

        Only so does the death of a stage show as the end of a stream.
        """
        source, sink = self._sources[place], self._sinks[place]
        for fd in {*self._sources.values(), *self._sinks.values()} - {source, sink}:
            os.close(fd)
        return source, sink


def child_main(place: int, shared: Shared, links: Links, memory_bytes: int) -> NoReturn:
    """Be a relay until the stream ends that it reads.

    So no process outlives the one before it in the ring.
    """
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if place == THREADS:
            fork_stage(SLEEPER, shared, links, memory_bytes)  # while there is only one thread
        source, sink = links.take(place)
        stage = Stage(shared, place, memory_bytes)
        try:
            RELAYS[place](stage, shared, source, sink)
            if not shared.stopping:
                stage.fail("the stage before is gone")
            code = 0
        except OSError as error:
            if not shared.stopping:
                stage.fail(f"the stage after is gone: {error}")
    finally:
        os._exit(code)


def fork_stage(place: int, shared: Shared, links: Links, memory_bytes: int) -> int:
    pid = os.fork()
    if pid == 0:
        child_main(place, shared, links, memory_bytes)
    return pid


def periodic_timerfd() -> int:
    """Return a timerfd with an interval of PERIOD_S, or -1 if Python has none (before 3.13)."""
    if sys.version_info < (3, 13):
        return -1
    fd = os.timerfd_create(time.CLOCK_MONOTONIC)
    os.timerfd_settime(fd, initial=PERIOD_S, interval=PERIOD_S)
    return fd


class Root:
    """The first process: it starts the others, feeds the ring, watches it, answers STATUS."""

    def __init__(self, memory_bytes: int, *, stalled_periods: int, timerfd: bool) -> None:
        self._stalled_periods = stalled_periods
        self._shared = Shared()
        links = Links()
        # Before any epoll or listener exists, so that no child inherits one.
        self._children = {
            fork_stage(place, self._shared, links, memory_bytes): place
            for place in (SIGNALS, THREADS, POLLER)
        }
        self._source, self._sink = links.take(ROOT)
        self._stage = Stage(self._shared, ROOT, memory_bytes)
        self._errors: list[str] = []
        self._sent = self._returned = self._periods = 0
        #: What the baton said when it left; -1 while it is here.
        self._baton_counter = -1
        #: Of all that moves, its count, and the period in which it moved last.
        self._progress: dict[str, tuple[int, int]] = {}
        self._timerfd = periodic_timerfd() if timerfd else -1
        while not all(self._shared.get(place, Shared.PID) for place in range(len(STAGES))):
            self._reap()
            if self._errors:
                break
            time.sleep(0.001)

    def run(self, host: str, port: int) -> None:
        epoll = select.epoll()
        server = LineServer(epoll, tcp_listener(host, port), status_answer(self.report))
        for fd in (self._source, self._timerfd):
            if fd >= 0:
                epoll.register(fd, select.EPOLLIN)
        next_s = time.monotonic()
        while True:
            for fd, event in epoll.poll(max(0.0, next_s - time.monotonic())):
                if fd == self._source:
                    if not self._take_token():
                        epoll.unregister(fd)
                elif fd == self._timerfd:
                    os.read(fd, 8)
                    self._shared.add(ROOT, Shared.TICKS)
                else:
                    server.handle(fd, event)
            # The timerfd does not tell the time here: what watches the timers must not be one.
            now_s = time.monotonic()
            if now_s >= next_s:
                next_s = now_s + PERIOD_S
                self._period()

    def _fail(self, error: str) -> None:
        if len(self._errors) < MAX_ERRORS and error not in self._errors:
            self._errors.append(error)

    def _period(self) -> None:
        self._periods += 1
        self._reap()
        self._watch_progress()
        if self._sink < 0 or self._sent - self._returned >= IN_FLIGHT:
            return
        baton = self._baton_counter < 0
        if baton:
            self._baton_counter = self._shared.counter
        self._sent += 1
        try:
            os.write(
                self._sink, pack_token(self._sent, 0, baton, self._baton_counter if baton else 0)
            )
        except OSError as error:
            self._fail(f"root: the ring is broken: {error}")
            self._close_sink()

    def _take_token(self) -> bool:
        token = read_token(self._source)
        if not token:
            self._fail("root: the ring has ended")
            return False
        _, baton, counter = self._stage.receive(token, POLLER)
        self._returned += 1
        if baton:
            raised = counter - self._baton_counter
            if raised != len(STAGES) - 1:
                self._fail(f"root: the baton's counter was raised {raised} times")
            self._baton_counter = -1
        return True

    def _reap(self) -> None:
        """Reap children, and note which stage died; init of a container reaps strangers, too."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                place = self._children.pop(pid, None)
                if place is not None:
                    code = os.waitstatus_to_exitcode(status)
                    self._fail(f"{STAGES[place]} ({pid}) died: exit code {code}")

    def _timers(self) -> dict[str, int]:
        timers = {
            "SIGALRM": self._shared.get(SIGNALS, Shared.TICKS),
            "one-shot SIGALRM": self._shared.get(POLLER, Shared.ONE_SHOTS),
            "epoll timeout": self._shared.get(POLLER, Shared.TICKS),
        }
        return (
            timers
            if self._timerfd < 0
            else {**timers, "timerfd": self._shared.get(ROOT, Shared.TICKS)}
        )

    def _watch_progress(self) -> None:
        for name, now in {"the ring": self._returned, **self._timers()}.items():
            last, period = self._progress.get(name, (0, 0))
            if now < last:
                self._fail(f"{name} went back from {last} to {now}")
            if now != last:
                self._progress[name] = now, self._periods
            elif self._periods - period > self._stalled_periods:
                self._fail(f"{name} has stopped at {now}")

    def _processes(self) -> int:
        count = 1 + len(self._children)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._shared.get(SLEEPER, Shared.PID), 0)
            count += 1
        return count

    def report(self) -> dict[str, object]:
        self._reap()
        errors = [*self._errors, *self._shared.errors()]
        stages = range(len(STAGES))
        return {
            "ok": not errors,
            "rounds": self._returned,
            "ticks": self._shared.get(SIGNALS, Shared.TICKS),
            "timers": self._timers(),
            "processes": self._processes(),
            # Sweeps over all of their memory that all stages have made.
            "sweeps": min(self._shared.get(place, Shared.SWEEPS) for place in stages),
            "counter": self._shared.counter,
            "pids": {STAGES[place]: self._shared.get(place, Shared.PID) for place in stages},
            "errors": errors,
        }

    def _close_sink(self) -> None:
        if self._sink >= 0:
            os.close(self._sink)
            self._sink = -1

    def close(self) -> None:
        """End root's children; `sleeper` ends with the stream it reads."""
        self._shared.stop()
        self._close_sink()
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="a tree of five processes that check each other, verified on STATUS"
    )
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 - inside a container
    parser.add_argument("--port", type=int, default=7101)
    parser.add_argument("--mib", type=int, default=2, help="private memory of each process")
    parser.add_argument(
        "--stalled-periods",
        type=int,
        default=STALLED_PERIODS,
        help="periods of 4 ms without progress",
    )
    parser.add_argument(
        "--no-timerfd", action="store_true", help="CRIU 4.2 stops periodic ones (criu#3162)"
    )
    args = parser.parse_args()
    root = Root(args.mib << 20, stalled_periods=args.stalled_periods, timerfd=not args.no_timerfd)
    # Init of a container has no default action for SIGTERM: without a handler it would be ignored.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        root.run(args.host, args.port)
    finally:
        root.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
