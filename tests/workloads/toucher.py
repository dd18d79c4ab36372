"""Memory of which a page is touched each millisecond, in a scattered order.

STATUS tells how long each touch took, in a list of [microseconds since its beginning, microseconds
it took], with each page once at most. The list begins after the last pause in which nothing was
touched, such as a freeze.
"""

import argparse
import mmap
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from tests.workloads.status import serve
else:
    from status import serve

PAGE_BYTES = 4096
NUMBER = struct.Struct("<Q")
TICK_S = 0.001
PAUSE_NS = 30_000_000
MAX_TOUCHES = 10_000
STRIDE = 7919  # prime: the walk meets every page unless their number is a multiple of it


class Toucher:
    """A walk over pages, each of which holds its own number."""

    def __init__(self, memory_bytes: int) -> None:
        self._count = memory_bytes // PAGE_BYTES
        self._memory = mmap.mmap(
            -1, self._count * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        for page in range(self._count):
            NUMBER.pack_into(self._memory, page * PAGE_BYTES, page)
        self._page = 0
        self._errors: list[str] = []
        self._begun_ns = self._last_ns = time.monotonic_ns()
        self._touches: list[tuple[float, float]] = []

    def tick(self) -> None:
        before_ns = time.monotonic_ns()
        if before_ns - self._last_ns > PAUSE_NS:
            self._begun_ns, self._touches = before_ns, []
        self._page = (self._page + STRIDE) % self._count
        started_ns = time.monotonic_ns()
        (found,) = NUMBER.unpack_from(self._memory, self._page * PAGE_BYTES)
        self._last_ns = time.monotonic_ns()
        if found != self._page:
            self._errors.append(f"page {self._page} holds {found}")
        if len(self._touches) < MAX_TOUCHES:
            self._touches.append(
                ((started_ns - self._begun_ns) / 1000, (self._last_ns - started_ns) / 1000)
            )

    def report(self) -> dict[str, object]:
        return {"ok": not self._errors, "errors": self._errors[:20], "touches": self._touches}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="touch a page each millisecond and tell how long that took"
    )
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 - inside a container
    parser.add_argument("--port", type=int, default=7107)
    parser.add_argument("--mib", type=int, default=1024)
    args = parser.parse_args()
    toucher = Toucher(args.mib << 20)
    serve(args.host, args.port, toucher.report, toucher.tick, TICK_S)


if __name__ == "__main__":
    main()
