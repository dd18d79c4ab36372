"""Memory of every kind that is changed in every way, and checked to the last byte on STATUS.

Private, shared and file-backed mappings are written at a set rate. Mappings come and go, grow and
move, and lose pages to MADV_DONTNEED. Children are forked that write to what they inherited. Every
page knows what it should hold (dirtier.py).
"""

import argparse
import contextlib
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from tests.workloads.dirtier import MAX_CATCH_UP_S, MAX_ERRORS, PAGE_BYTES, TICK_S, Pages
    from tests.workloads.status import serve
else:
    from dirtier import MAX_CATCH_UP_S, MAX_ERRORS, PAGE_BYTES, TICK_S, Pages
    from status import serve

MIB = 1 << 20
#: Shares of the memory, in hundredths. Memory that is not lazy to CRIU is copied while frozen, so
#: there is little of it.
SHARES = {"private": 76, "shared": 6, "file": 3, "copy on write": 3, "dropped": 6, "grown": 6}
YOUNG = 8  # mappings alive at a time, of YOUNG_PAGES each
YOUNG_PAGES = 64
CHILDREN = 2
CHILD_S = 1.5
DROPPED_PAGES = 16


class Dropping(Pages):
    """Pages that are given back now and then, and are zero from then until they are written."""

    def _content(self, page: int, version: int) -> bytes:
        return super()._content(page, version) if version else bytes(PAGE_BYTES)

    def drop(self, first: int) -> None:
        self.memory.madvise(mmap.MADV_DONTNEED, first * PAGE_BYTES, DROPPED_PAGES * PAGE_BYTES)
        for page in range(first, first + DROPPED_PAGES):
            self.writes -= self.versions[page]
            self.versions[page] = 0


class Growing(Pages):
    """A mapping that grows; the kernel moves it when there is no room behind it (mremap(2))."""

    def grow(self, pages: int) -> None:
        self.memory.resize((self.count + pages) * PAGE_BYTES)
        self.versions.extend([0] * pages)
        for page in range(self.count, self.count + pages):
            self.count += 1
            self.write(page)


class Every:
    """An action that is due again and again, so many seconds apart."""

    def __init__(self, seconds: float, action: Callable[[], None]) -> None:
        self._seconds, self._action = seconds, action
        self._due = time.monotonic()

    def tick(self) -> None:
        if time.monotonic() >= self._due:
            self._action()
            self._due = time.monotonic() + self._seconds


class Churn:
    """All of the memory, and what happens to it."""

    def __init__(
        self, memory_bytes: int, directory: Path, bytes_per_second: float, fork_every_s: float = 0.4
    ) -> None:
        hundredth = memory_bytes // PAGE_BYTES // 100
        pages = {name: max(2 * DROPPED_PAGES, hundredth * share) for name, share in SHARES.items()}
        size = {name: count * PAGE_BYTES for name, count in pages.items()}
        self.parts: dict[str, Pages] = {
            "private": Pages(size["private"], shared=False, seed=1),
            "shared": Pages(size["shared"], shared=True, seed=2),
            "file": Pages(size["file"], shared=True, seed=3, file=directory / "shared"),
            "copy on write": Pages(
                size["copy on write"], shared=False, seed=4, file=directory / "private"
            ),
        }
        self._dropping = Dropping(size["dropped"], shared=False, seed=5)
        self._most_grown = pages["grown"]
        self._grown_from = max(1, pages["grown"] // 8)
        self._growing = self._new_growing()
        self._young: list[Pages] = []
        self._children: set[int] = set()
        self._errors: list[str] = []
        self._done = dict.fromkeys(("forks", "maps", "growths", "drops"), 0)
        self._pages_per_second = bytes_per_second / PAGE_BYTES
        self._owed, self._last_s, self._cursor = 0.0, time.monotonic(), 0
        self._timers = [
            Every(0.04, self._map),
            Every(0.1, self._drop),
            Every(0.1, self._grow),
            Every(fork_every_s, self._fork),
        ]

    def tick(self) -> None:
        now_s = time.monotonic()
        self._owed += min(max(now_s - self._last_s, 0.0), MAX_CATCH_UP_S) * self._pages_per_second
        self._last_s = now_s
        parts = [*self.parts.values(), self._dropping, self._growing]
        weights = [part.count for part in parts]
        while self._owed >= 1:
            # The walk meets every page of every part, in a scattered order.
            self._cursor = (self._cursor + 7919) % sum(weights)
            at = self._cursor
            for part in parts:
                if at < part.count:
                    part.write(at)
                    break
                at -= part.count
            self._owed -= 1
        for timer in self._timers:
            timer.tick()
        self._reap()

    def report(self) -> dict[str, object]:
        parts = self.parts_by_name()
        for name, part in parts.items():
            self._note(name, part.check())
        self._last_s = time.monotonic()  # the time of the check is not owed
        return {
            "ok": not self._errors,
            "pages": sum(part.count for part in parts.values()),
            "writes": sum(part.writes for part in parts.values()),
            **self._done,
            "errors": self._errors[:MAX_ERRORS],
        }

    def parts_by_name(self) -> dict[str, Pages]:
        young = {f"young {number}": part for number, part in enumerate(self._young)}
        return {**self.parts, "dropped": self._dropping, "grown": self._growing, **young}

    def _note(self, name: str, errors: list[str]) -> None:
        if len(self._errors) < MAX_ERRORS:
            self._errors += [f"{name}: {error}" for error in errors]

    def _map(self) -> None:
        self._young.append(Pages(YOUNG_PAGES * PAGE_BYTES, shared=False, seed=6))
        self._done["maps"] += 1
        if len(self._young) > YOUNG:
            oldest = self._young.pop(0)
            self._note("unmapped", oldest.check())
            oldest.memory.close()

    def _drop(self) -> None:
        self._dropping.drop(
            self._done["drops"] * DROPPED_PAGES % (self._dropping.count - DROPPED_PAGES)
        )
        self._done["drops"] += 1

    def _grow(self) -> None:
        if self._growing.count >= self._most_grown:
            self._note("grown", self._growing.check())
            self._growing.memory.close()
            self._growing = self._new_growing()
        self._growing.grow(self._grown_from)
        self._done["growths"] += 1

    def _new_growing(self) -> Growing:
        return Growing(self._grown_from * PAGE_BYTES, shared=False, seed=7)

    def _fork(self) -> None:
        if len(self._children) < CHILDREN:
            pid = os.fork()
            if not pid:
                self._be_child()
            self._children.add(pid)
            self._done["forks"] += 1

    def _be_child(self) -> None:
        """Write to what was inherited, see that nobody else does, and end; a child calls this."""
        status = 1
        with contextlib.suppress(Exception):
            private, ends = self.parts["private"], time.monotonic() + CHILD_S
            page = 0
            while time.monotonic() < ends:
                for _ in range(20):
                    page = (page + 104729) % private.count
                    private.write(page)
                time.sleep(TICK_S)
            status = 2 if private.check() or self.parts["copy on write"].check() else 0
        os._exit(status)

    def _reap(self) -> None:
        for pid in list(self._children):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self._children.discard(pid)
                if status:
                    self._note("child", [f"{pid} ended with status {status}"])


def main() -> None:
    parser = argparse.ArgumentParser(description="change memory in every way, verify it on STATUS")
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 - inside a container
    parser.add_argument("--port", type=int, default=7107)
    parser.add_argument("--mib", type=int, default=256, help="memory held")
    parser.add_argument(
        "--mb-per-second", type=float, default=20, help="rate of writing, in 10^6 bytes"
    )
    parser.add_argument("--fork-every", type=float, default=0.4, help="seconds between children")
    parser.add_argument(
        "--directory", type=Path, default=Path("/data"), help="for the mapped files"
    )
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    churn = Churn(args.mib * MIB, args.directory, args.mb_per_second * 1e6, args.fork_every)
    serve(args.host, args.port, churn.report, churn.tick, TICK_S)


if __name__ == "__main__":
    main()
