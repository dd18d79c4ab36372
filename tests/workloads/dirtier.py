"""Memory that changes at a known rate and knows what it should hold.

Each page is a header (page, version, CRC-32 of the body) and a body that is cut from a seeded pool
at a place that depends on page and version. `versions` is the log of what was written. STATUS
compares every byte of every page with the log. So a page that is lost, stale or another's is found,
and so is a page whose entry in the log is.
"""

import argparse
import ctypes
import mmap
import os
import random
import struct
import threading
import time
import zlib
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from tests.workloads.status import serve
else:
    from status import serve

PAGE_BYTES = 4096
HEADER = struct.Struct("<QII")  # page, version, CRC-32 of the body
BODY_BYTES = PAGE_BYTES - HEADER.size
#: How many bodies there are. They are cut from the pool so far apart that no batch of pages
#: compresses.
BODIES = 1024
BODY_STEP_BYTES = 4096
TICK_S = 0.005
#: After a freeze the program goes on at its rate, and does not make up for more than this.
MAX_CATCH_UP_S = 0.1
MAX_ERRORS = 20
KINDS = ("private", "shared", "memfd", "file")
#: push rbp; mov rbp, rsp; and rsp, -4096; mov eax, 34 (pause); syscall; leave; ret
PAUSE_ON_A_PAGE_BOUNDARY = bytes.fromhex("55 4889e5 4881e400f0ffff b822000000 0f05 c9 c3")


class Pages:
    """A mapping, and the version that each of its pages must hold.

    The mapping is anonymous, of a new file, or of a memfd.
    """

    def __init__(
        self,
        memory_bytes: int,
        *,
        shared: bool,
        seed: int = 1,
        file: Path | None = None,
        memfd: bool = False,
        fill: bool = True,
    ) -> None:
        self.count = memory_bytes // PAGE_BYTES
        kind = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
        if memfd:
            self.descriptor = os.memfd_create("pages")  # stays open, as a program's own does
            os.truncate(self.descriptor, self.count * PAGE_BYTES)
            self.memory = mmap.mmap(self.descriptor, self.count * PAGE_BYTES, flags=kind)
        elif file is None:
            self.memory = mmap.mmap(-1, self.count * PAGE_BYTES, flags=kind | mmap.MAP_ANONYMOUS)
        else:
            with file.open("w+b") as opened:
                opened.truncate(self.count * PAGE_BYTES)
                self.memory = mmap.mmap(opened.fileno(), self.count * PAGE_BYTES, flags=kind)
        self.versions = array("I", bytes(4 * self.count))
        self.writes = 0
        drawn = random.Random(seed)  # noqa: S311 - test data
        pool = self._pool = drawn.randbytes(BODIES * BODY_STEP_BYTES + PAGE_BYTES)
        self._checksums = [
            zlib.crc32(pool[at : at + BODY_BYTES])
            for at in range(0, BODIES * BODY_STEP_BYTES, BODY_STEP_BYTES)
        ]
        for page in range(self.count if fill else 0):
            self.write(page)

    def _content(self, page: int, version: int) -> bytes:
        body = (page * 40503 + version * 1021) % BODIES
        start = body * BODY_STEP_BYTES
        return (
            HEADER.pack(page, version, self._checksums[body])
            + self._pool[start : start + BODY_BYTES]
        )

    def write(self, page: int) -> None:
        version = self.versions[page] + 1
        at = page * PAGE_BYTES
        self.memory[at : at + PAGE_BYTES] = self._content(page, version)
        self.versions[page] = version
        self.writes += 1

    def check(self) -> list[str]:
        """Compare all pages with the log, and return what is wrong, MAX_ERRORS findings at most."""
        errors: list[str] = []
        if sum(self.versions) != self.writes:
            errors.append(f"log holds {sum(self.versions)} writes, {self.writes} were made")
        for page, version in enumerate(self.versions):
            found = self.memory[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]
            if found == self._content(page, version):
                continue
            found_page, found_version, checksum = HEADER.unpack_from(found)
            torn = (
                "" if checksum == zlib.crc32(found[HEADER.size :]) else ", body not as its checksum"
            )
            found_is = f"found page {found_page} version {found_version}{torn}"
            errors.append(f"page {page}: expected version {version}, {found_is}")
            if len(errors) >= MAX_ERRORS:
                break
        return errors


class Dirtier:
    """The writer of the pages: it goes through them in a scattered order, at a rate."""

    def __init__(self, pages: Pages, *, hot_pages: int, bytes_per_second: float) -> None:
        self._pages = pages
        self._hot_pages = hot_pages
        self._pages_per_second = bytes_per_second / PAGE_BYTES
        self._cursor = 0
        self._owed = 0.0
        self._last_s = time.monotonic()
        self._errors: list[str] = []  # sticky

    def tick(self) -> None:
        now_s = time.monotonic()
        elapsed_s = min(max(now_s - self._last_s, 0.0), MAX_CATCH_UP_S)
        self._last_s = now_s
        self._owed += elapsed_s * self._pages_per_second
        while self._owed >= 1:
            # 7919 is prime: the walk meets every page unless their number is a multiple of it.
            self._cursor = (self._cursor + 7919) % self._hot_pages
            self._pages.write(self._cursor)
            self._owed -= 1

    def report(self) -> dict[str, object]:
        if len(self._errors) < MAX_ERRORS:
            self._errors += self._pages.check()
        self._last_s = time.monotonic()  # the time of the check is not owed
        return {
            "ok": not self._errors,
            "pages": self._pages.count,
            "writes": self._pages.writes,
            "errors": self._errors[:MAX_ERRORS],
        }


def of_kind(kind: str, memory_bytes: int, name: str, *, fill: bool = True) -> Pages:
    """Return memory of one of KINDS; a file that backs it has that name in /data."""
    if kind == "file":
        return Pages(memory_bytes, shared=True, file=Path("/data") / name, fill=fill)
    return Pages(memory_bytes, shared=kind != "private", memfd=kind == "memfd", fill=fill)


def read_zeros(untouched: list[Pages]) -> dict[str, object]:
    """Return what is wrong with mappings to which nobody has written: they must be zeros.

    From then on the mappings are no longer untouched.
    """
    wrong = [any(part.memory[:]) for part in untouched]
    return {"ok": False, "errors": [f"untouched: {wrong}"]} if any(wrong) else {}


def stand_on_a_page_boundary() -> None:
    """Keep the thread's stack pointer at a multiple of the page size, and never return.

    The code is for x86_64.
    """
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(PAUSE_ON_A_PAGE_BOUNDARY)
    pause = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    while True:
        pause()


def main() -> None:
    parser = argparse.ArgumentParser(
        description="dirty a known part of memory at a known rate, verify it on STATUS"
    )
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 - inside a container
    parser.add_argument("--port", type=int, default=7106)
    parser.add_argument("--mib", type=int, default=64, help="memory held")
    parser.add_argument("--hot-mib", type=int, help="part of it that is dirtied (default: all)")
    parser.add_argument(
        "--mb-per-second", type=float, default=20, help="rate of dirtying, in 10^6 bytes; 0: none"
    )
    parser.add_argument(
        "--kind", choices=KINDS, default="private", help="of what memory it is made"
    )
    parser.add_argument(
        "--untouched", action="store_true", help="hold a mapping of each kind that nobody wrote to"
    )
    parser.add_argument(
        "--aligned-stack", action="store_true", help="have a thread whose stack pointer ends in 000"
    )
    parser.add_argument("--direct-io", action="store_true", help="have a file open for direct I/O")
    args = parser.parse_args()
    if args.direct_io:
        os.open("/data/direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    if args.aligned_stack:
        threading.Thread(target=stand_on_a_page_boundary, daemon=True).start()
    untouched = (
        [of_kind(kind, 1 << 20, "untouched", fill=False) for kind in KINDS]
        if args.untouched
        else []
    )
    pages = of_kind(args.kind, args.mib << 20, "pages")
    hot_mib = args.mib if args.hot_mib is None else max(1, min(args.hot_mib, args.mib))
    dirtier = Dirtier(
        pages, hot_pages=(hot_mib << 20) // PAGE_BYTES, bytes_per_second=args.mb_per_second * 1e6
    )
    serve(
        args.host,
        args.port,
        lambda: {**dirtier.report(), **read_zeros(untouched)},
        dirtier.tick,
        TICK_S,
    )


if __name__ == "__main__":
    main()
