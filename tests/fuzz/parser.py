"""A parser as a fuzzer sees it, and the bounds within which one run of it must stay."""

from __future__ import annotations

import gc
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
#: One input may take so much memory, and so many seconds.
MOST_BYTES, MOST_S = 64 << 20, 5.0
PAGE_BYTES = resource.getpagesize()


@dataclass(frozen=True, kw_only=True)
class Parser:
    """A parser under test.

    `run` takes any bytes: it returns, having checked what it got, or raises one of `refuses`.
    Anything else that comes out is a defect. `seeds` are inputs that it takes.
    """

    run: Callable[[bytes], object]
    refuses: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]

    def takes(self, data: bytes) -> bool:
        """Return whether an input is taken, and not refused. Raises the error that is a defect."""
        try:
            self.run(data)
        except self.refuses:
            return False
        return True


def corpus(name: str) -> list[bytes]:
    """Return the inputs of a parser that a fuzzer found to lead somewhere new, by name."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Have allocations of this process fail in the block beyond MOST_BYTES more than it has."""
    gc.collect()  # or memory that is given back later could be taken, too
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * PAGE_BYTES + MOST_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def bounded_time() -> Iterator[None]:
    """Raise TimeoutError in the main thread if it is still in the block after MOST_S."""

    def end(*_: object) -> None:
        raise TimeoutError(f"no end after {MOST_S:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, MOST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
