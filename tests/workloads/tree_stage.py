"""A stage of tree.py, which checks tokens, the shared counter, its memory, its pid, its clock."""

import hashlib
import mmap
import os
import struct
import time
import zlib

STAGES = ("root", "signals", "threads", "sleeper", "poller")
ROOT, SIGNALS, THREADS, SLEEPER, POLLER = range(len(STAGES))

#: Number, stages passed, 1 if it is the baton, counter, content. A CRC-32 follows.
TOKEN = struct.Struct("<QIIQ40s")
TOKEN_BYTES = TOKEN.size + 4
PAGE_BYTES = 4096


def content_of(number: int) -> bytes:
    return hashlib.blake2b(number.to_bytes(8, "little"), digest_size=40).digest()


def pack_token(number: int, passed: int, baton: int, counter: int) -> bytes:
    body = TOKEN.pack(number, passed, baton, counter, content_of(number))
    return body + zlib.crc32(body).to_bytes(4, "little")


class Shared:
    """Anonymous memory that all stages share.

    It has the counter, a stop flag, and a slot for each stage, to which only that stage writes.
    """

    _SLOT_WORDS, _TEXT_BYTES = 8, 512
    PID, PASSED, TICKS, ONE_SHOTS, SWEEPS, ERRORS = range(6)

    def __init__(self) -> None:
        words = 2 + len(STAGES) * self._SLOT_WORDS
        self._text_at = words * 8
        self._memory = mmap.mmap(
            -1, self._text_at + len(STAGES) * self._TEXT_BYTES
        )  # shared is Python's default
        self._words = memoryview(self._memory)[: self._text_at].cast("Q")

    @property
    def counter(self) -> int:
        return self._words[0]

    @counter.setter
    def counter(self, value: int) -> None:
        self._words[0] = value

    @property
    def stopping(self) -> bool:
        return bool(self._words[1])

    def stop(self) -> None:
        self._words[1] = 1

    def get(self, stage: int, field: int) -> int:
        return self._words[2 + stage * self._SLOT_WORDS + field]

    def set(self, stage: int, field: int, value: int) -> None:
        self._words[2 + stage * self._SLOT_WORDS + field] = value

    def add(self, stage: int, field: int) -> None:
        self._words[2 + stage * self._SLOT_WORDS + field] += 1

    def fail(self, stage: int, error: str) -> None:
        """Keep a stage's first error (the root cause as a rule) and count the others."""
        if not self.get(stage, self.ERRORS):
            at = self._text_at + stage * self._TEXT_BYTES
            text = error.encode()[: self._TEXT_BYTES]
            self._memory[at : at + len(text)] = text
        self.add(stage, self.ERRORS)  # last: the reader looks at the text only when this is not 0

    def errors(self) -> list[str]:
        found = []
        for stage, name in enumerate(STAGES):
            if count := self.get(stage, self.ERRORS):
                at = self._text_at + stage * self._TEXT_BYTES
                text = (
                    self._memory[at : at + self._TEXT_BYTES]
                    .rstrip(b"\0")
                    .decode("utf-8", "replace")
                )
                found.append(f"{name}: {text}" + (f" (and {count - 1} more)" if count > 1 else ""))
        return found


class PatternMemory:
    """Private memory whose pages are functions of (stage, page, version)."""

    def __init__(self, stage: int, memory_bytes: int) -> None:
        self._stage = stage
        self._versions = [0] * (memory_bytes // PAGE_BYTES)
        self._memory = mmap.mmap(-1, memory_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._cursor = 0
        for page in range(len(self._versions)):
            self._memory[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = self._content(page)

    def _content(self, page: int) -> bytes:
        return hashlib.shake_128(b"%d %d %d" % (self._stage, page, self._versions[page])).digest(
            PAGE_BYTES
        )

    def step(self) -> tuple[bool, bool]:
        """Verify and rewrite the next page.

        Return whether the page was intact, and whether all pages have been seen once more.
        """
        page = self._cursor
        place = slice(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
        intact = self._memory[place] == self._content(page)
        self._versions[page] += 1
        self._memory[place] = self._content(page)
        self._cursor = (page + 1) % len(self._versions)
        return intact, self._cursor == 0


class Stage:
    """One process's place in the ring."""

    def __init__(self, shared: Shared, place: int, memory_bytes: int) -> None:
        self._shared = shared
        self.place = place
        self._pid = os.getpid()
        self._expected = 1
        self._pattern = PatternMemory(place, memory_bytes)
        self._last_monotonic_ns = time.monotonic_ns()
        shared.set(place, Shared.PID, self._pid)

    def fail(self, error: str) -> None:
        self._shared.fail(self.place, error)

    def receive(self, token: bytes, passed: int) -> tuple[int, int, int]:
        """Check a token that has passed so many stages.

        Return its number, whether it is the baton (1 or 0), and the counter that it tells.
        """
        number, found_passed, baton, counter, content = TOKEN.unpack_from(token)
        if zlib.crc32(token[: TOKEN.size]).to_bytes(4, "little") != token[TOKEN.size :]:
            self.fail(f"token {number}: checksum")
        elif number != self._expected:
            self.fail(f"token {number} came, {self._expected} was due")
        elif content != content_of(number) or found_passed != passed:
            self.fail(
                f"token {number}: content, or passed {found_passed} stages instead of {passed}"
            )
        elif baton and counter != self._shared.counter:
            self.fail(
                f"baton {number} says {counter}, the shared counter is {self._shared.counter}"
            )
        self._expected = number + 1
        self._shared.add(self.place, Shared.PASSED)
        self._check_self()
        return number, baton, counter

    def forward(self, token: bytes) -> bytes:
        """Check a token, and return the one to hand on.

        The holder of the baton raises the shared counter.
        """
        number, baton, counter = self.receive(token, self.place - 1)
        if baton:
            counter += 1
            self._shared.counter = counter
        return pack_token(number, self.place, baton, counter)

    def _check_self(self) -> None:
        intact, swept = self._pattern.step()
        if not intact:
            self.fail("private memory changed")
        if swept:
            self._shared.add(self.place, Shared.SWEEPS)
            if os.getpid() != self._pid:
                self.fail(f"pid was {self._pid}, is {os.getpid()}")
        now_ns = time.monotonic_ns()
        if (
            now_ns < self._last_monotonic_ns
        ):  # CRIU restores into a time namespace so that this cannot happen
            self.fail(f"CLOCK_MONOTONIC went back by {self._last_monotonic_ns - now_ns} ns")
        self._last_monotonic_ns = now_ns
