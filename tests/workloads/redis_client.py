"""A client that sends INCR every millisecond over one TCP connection, which is never made again.

Each reply must be exactly one more than the reply before. The times between consecutive replies,
the gaps, are what a move costs a client. Gaps of at least --gap-ms are logged, each with the time
of the reply before it.

A line `MARK name` on stdin ends the window so far and prints its figures as one line of JSON; a
wait that is still going on counts in both windows. The client ends on SIGTERM, SIGINT, --seconds or
the end of stdin with one line of JSON, and exits with 0 if all went well.
"""

import argparse
import gc
import heapq
import json
import os
import select
import signal
import socket
import sys
import time

#: So many of the longest gaps are kept.
MAX_GAPS = 1000
MAX_LINE_BYTES = 4096
#: The longest wait without a look at the stop flag and the time limits.
POLL_S = 0.1
NS_PER_MS = 1_000_000


class ClientError(Exception):
    """The server or the connection broke the promise."""


class Gaps:
    """The worst gap of the run and of the window, and the longest gaps, in bounded memory."""

    def __init__(self, threshold_ms: float) -> None:
        self._threshold_ns = int(threshold_ms * NS_PER_MS)
        #: A heap of (ns, start monotonic, start unix).
        self._longest: list[tuple[int, int, int]] = []
        self.above_threshold = 0
        self.worst_ns = 0
        self.window_worst_ns = 0

    def add(self, gap_ns: int, start_monotonic_ns: int, start_unix_ns: int) -> None:
        if gap_ns > self.window_worst_ns:
            self.window_worst_ns = gap_ns
            self.worst_ns = max(self.worst_ns, gap_ns)
        if gap_ns < self._threshold_ns:
            return
        self.above_threshold += 1
        gap = (gap_ns, start_monotonic_ns, start_unix_ns)
        if len(self._longest) < MAX_GAPS:
            heapq.heappush(self._longest, gap)
        else:
            heapq.heappushpop(self._longest, gap)

    def as_json(self) -> list[dict[str, int | float]]:
        return [
            {"start_monotonic_ns": monotonic_ns, "start_unix_ns": unix_ns, "ms": gap_ns / NS_PER_MS}
            for gap_ns, monotonic_ns, unix_ns in sorted(self._longest, key=lambda gap: gap[1])
        ]


class Client:
    """The loop of the client, which must not make gaps itself.

    Nothing in it allocates memory that stays, and the garbage collector is off.
    """

    def __init__(self, sock: socket.socket, args: argparse.Namespace) -> None:
        self._sock = sock
        key = args.key.encode()
        #: An inline command, which other workloads understand, too (status.py).
        self._request = b"INCR %s\r\n" % key
        self._interval_ns = int(args.interval_ms * NS_PER_MS)
        self._reply_timeout_ns = int(args.reply_timeout_s * 1e9)
        self._inputs: list[int] = [] if args.no_stdin else [sys.stdin.fileno()]
        self._commands = b""
        self._gaps = Gaps(args.gap_ms)
        self._count = self._window_count = 0
        self._first: int | None = None
        self._last: int | None = None
        self._error: str | None = None
        self._contiguous = True
        self._mark: str | None = None
        self._reply_monotonic_ns = time.monotonic_ns()
        self._reply_unix_ns = time.time_ns()
        self._end_ns = self._reply_monotonic_ns + int(args.seconds * 1e9) if args.seconds else None
        self.stopping = False

    def run(self) -> None:
        next_ns = time.monotonic_ns()
        try:
            while self._wait(next_ns, reply=False):
                sent_ns = time.monotonic_ns()
                self._sock.sendall(self._request)
                if not self._wait(sent_ns + self._reply_timeout_ns, reply=True):
                    # A wait that was cut short was at least so long.
                    self._add_gap(time.monotonic_ns())
                    return
                self._take_reply()
                # No burst follows a gap.
                next_ns = max(next_ns + self._interval_ns, self._reply_monotonic_ns)
        except (ClientError, OSError) as error:
            self._add_gap(time.monotonic_ns())
            self._error = self._error or f"{type(error).__name__}: {error}"

    def _wait(self, until_ns: int, *, reply: bool) -> bool:
        """Serve stdin until the time or the reply comes, and return False if the run is over."""
        sources = [self._sock.fileno(), *self._inputs] if reply else self._inputs
        while True:
            now_ns = time.monotonic_ns()
            if self.stopping or (self._end_ns is not None and now_ns >= self._end_ns):
                return False
            if now_ns >= until_ns:
                if reply:
                    raise ClientError(f"no reply for {self._reply_timeout_ns / 1e9:g} s")
                return True
            ready, _, _ = select.select(sources, (), (), min((until_ns - now_ns) / 1e9, POLL_S))
            if self._inputs and self._inputs[0] in ready:
                self._read_commands()
                sources = [self._sock.fileno(), *self._inputs] if reply else self._inputs
            if reply and self._sock.fileno() in ready:
                return True

    def _read_value(self) -> int:
        data = self._sock.recv(64)
        while data and not data.endswith(b"\r\n"):
            more = self._sock.recv(64)
            data = data + more if more else b""
        if not data:
            raise ClientError("the server closed the connection")
        if data[:1] != b":" or not data[1:-2].isdigit():
            raise ClientError(f"unexpected reply {data[:60]!r}")
        return int(data[1:-2])

    def _take_reply(self) -> None:
        value = self._read_value()
        now_ns, unix_ns = time.monotonic_ns(), time.time_ns()
        self._add_gap(now_ns)
        if self._last is None:
            self._first = value
        elif value != self._last + 1:
            self._contiguous = False
            self._error = self._error or f"{self._last + 1} was due, {value} came"
        self._last = value
        self._count += 1
        self._window_count += 1
        self._reply_monotonic_ns, self._reply_unix_ns = now_ns, unix_ns

    def _add_gap(self, until_ns: int) -> None:
        if self._count:
            self._gaps.add(
                until_ns - self._reply_monotonic_ns, self._reply_monotonic_ns, self._reply_unix_ns
            )

    def _read_commands(self) -> None:
        data = os.read(self._inputs[0], MAX_LINE_BYTES)
        if not data:
            self.stopping = True
            self._inputs = []
        *lines, self._commands = (self._commands + data)[-MAX_LINE_BYTES:].split(b"\n")
        for line in lines:
            verb, _, name = line.decode("utf-8", "replace").strip().partition(" ")
            print(
                json.dumps(
                    self._end_window(name) if verb == "MARK" else {"error": "unknown command"}
                ),
                flush=True,
            )

    def _end_window(self, name: str) -> dict[str, object]:
        now_ns = time.monotonic_ns()
        waiting_ns = now_ns - self._reply_monotonic_ns if self._count else 0
        figures: dict[str, object] = {
            "mark": name,
            "since": self._mark,
            "monotonic_ns": now_ns,
            "count": self._window_count,
            "worst_gap_ms": max(self._gaps.window_worst_ns, waiting_ns) / NS_PER_MS,
            "contiguous": self._contiguous,
            "last": self._last,
        }
        self._mark, self._window_count, self._gaps.window_worst_ns = name, 0, 0
        return figures

    def summary(self) -> dict[str, object]:
        return {
            "count": self._count,
            "first": self._first,
            "last": self._last,
            "contiguous": self._contiguous,
            "reconnects": 0,
            "worst_gap_ms": self._gaps.worst_ns / NS_PER_MS,
            "gaps_above_threshold": self._gaps.above_threshold,
            "gaps": self._gaps.as_json(),
            "error": self._error,
        }


def main(kind: type[Client] = Client) -> int:
    parser = argparse.ArgumentParser(
        description="a request each millisecond over one connection; report the gaps"
    )
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--key", default="client:counter")
    parser.add_argument("--interval-ms", type=float, default=1)
    parser.add_argument("--gap-ms", type=float, default=10, help="log gaps of at least this")
    parser.add_argument("--seconds", type=float, help="run so long (default: until told)")
    parser.add_argument(
        "--reply-timeout-s", type=float, default=120, help="a reply later than this is an error"
    )
    parser.add_argument(
        "--no-stdin", action="store_true", help="do not read stdin, nor end with it"
    )
    args = parser.parse_args()
    with socket.create_connection((args.host, args.port), timeout=10) as sock:
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = kind(sock, args)

        def stop(*_: object) -> None:
            client.stopping = True

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        gc.disable()
        client.run()
    summary = client.summary()
    print(json.dumps(summary), flush=True)
    return 0 if summary["error"] is None else 1


if __name__ == "__main__":
    sys.exit(main())
