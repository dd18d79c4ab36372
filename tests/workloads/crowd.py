"""A program with many of one thing: processes, threads, descriptors, mappings, connections, ...

What there is many of takes time in a freeze, item by item. All processes and threads but the server
wait for ever.
"""

import argparse
import mmap
import os
import resource
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from tests.workloads.status import serve
else:
    from status import serve

PAGE_BYTES = 4096
CHUNK_BYTES = 1 << 20
STACK_BYTES = 64 << 10
TICK_S = 1.0


def processes(count: int) -> None:
    """Fork so many children, which wait for ever."""
    for _ in range(count):
        if os.fork() == 0:
            while True:
                threading.Event().wait()


def threads(count: int) -> None:
    """Start so many threads, which wait for ever."""
    threading.stack_size(STACK_BYTES)
    for _ in range(count):
        threading.Thread(target=threading.Event().wait, daemon=True).start()


def descriptors(count: int) -> list[int]:
    """Open so many files."""
    return [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]


def mappings(count: int) -> list[mmap.mmap]:
    """Map so many pages, each of which the kernel must keep apart from the one before."""
    both = (mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE)
    return [
        mmap.mmap(-1, PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=both[n % 2])
        for n in range(count)
    ]


def memory(size_bytes: int, flags: int) -> mmap.mmap | None:
    """Map so much memory, which does not compress."""
    if size_bytes == 0:
        return None
    mapped = mmap.mmap(-1, size_bytes, flags=flags | mmap.MAP_ANONYMOUS)
    for at in range(0, size_bytes, CHUNK_BYTES):
        mapped[at : at + CHUNK_BYTES] = os.urandom(CHUNK_BYTES)
    return mapped


def main() -> None:
    parser = argparse.ArgumentParser(description="have many of one thing")
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 - inside a container
    parser.add_argument("--port", type=int, default=7109)
    for name in ("processes", "threads", "descriptors", "mappings", "shared-mib", "private-mib"):
        parser.add_argument(f"--{name}", type=int, default=0)
    args = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    kept = (
        memory(args.private_mib << 20, mmap.MAP_PRIVATE),
        memory(args.shared_mib << 20, mmap.MAP_SHARED),
        descriptors(args.descriptors),
        mappings(args.mappings),
    )
    processes(args.processes)
    threads(args.threads)
    serve(
        args.host,
        args.port,
        lambda: {"ok": True, "errors": [], "keeps": len(kept)},
        lambda: None,
        TICK_S,
    )


if __name__ == "__main__":
    main()
