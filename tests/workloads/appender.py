"""A log that is appended to, a counter in a mapped file, and small files that come and go.

Two different parts of a migration move memory and files; this program notices when they disagree.
`--verify FILE` checks a log from outside, and exits with 0 if the log is whole, with 1 if not.
"""

import argparse
import hashlib
import json
import mmap
import os
import select
import signal
import struct
import sys
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from tests.workloads.status import LineServer, status_answer, tcp_listener
else:
    from status import LineServer, status_answer, tcp_listener

LINE_BYTES = 26  # 16 digits, space, 8 hexadecimal digits, newline
COUNTER = struct.Struct("<QI")  # lines written, CRC-32 of that number's 8 bytes
COUNTER_BYTES = 4096
FSYNC_EVERY_LINES = 100
CHURN_EVERY_LINES = 100
CHURN_KEPT_FILES = 16
MAX_ERRORS = 20


def log_line(seq: int) -> bytes:
    digits = b"%016d" % seq
    return b"%s %08x\n" % (digits, zlib.crc32(digits))


def verify_log(data: bytes) -> tuple[int, list[str]]:
    """Return the number of whole lines in a log, and what is wrong with it.

    The lines must be 1, 2, 3, ..., with right checksums.
    """
    errors: list[str] = []
    expected = 1
    for at in range(0, len(data) - LINE_BYTES + 1, LINE_BYTES):
        line = data[at : at + LINE_BYTES]
        if line != log_line(expected):
            errors.append(f"byte {at}: expected line {expected}, found {line!r}")
            if len(errors) >= MAX_ERRORS:
                break
            # Go on from what was found: one lost line is one error, not one for each line after it.
            seq = line[:16]
            expected = int(seq) if seq.isdigit() and line == log_line(int(seq)) else expected
        expected += 1
    if len(data) % LINE_BYTES:
        errors.append(f"{len(data) % LINE_BYTES} bytes of a torn line at the end")
    return len(data) // LINE_BYTES, errors


class Log:
    """The file that is appended to.

    Its descriptor is opened once: a restore has to give back the same file at the same path.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o644)
        self.written = 0
        self._crc = 0  # of all that was written

    def append(self) -> None:
        line = log_line(self.written + 1)
        if os.write(self._fd, line) != LINE_BYTES:
            raise OSError(f"short write to {self._path}")
        self.written += 1
        self._crc = zlib.crc32(line, self._crc)
        if self.written % FSYNC_EVERY_LINES == 0:
            os.fsync(self._fd)

    def check(self) -> list[str]:
        opened, named = os.fstat(self._fd), self._path.stat()
        if (opened.st_dev, opened.st_ino) != (named.st_dev, named.st_ino):
            return [f"{self._path} is not the file that is open"]
        data = self._path.read_bytes()
        if len(data) == self.written * LINE_BYTES and zlib.crc32(data) == self._crc:
            return []
        lines, errors = verify_log(data)
        return [f"{self._path} has {lines} lines, {self.written} were written", *errors]


class MappedCounter:
    """The number of lines, in a page of a file that is mapped shared and writable.

    It is written by stores, without a system call.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(bytes(COUNTER_BYTES))
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), COUNTER_BYTES, flags=mmap.MAP_SHARED)
        self.set(0)

    def set(self, value: int) -> None:
        COUNTER.pack_into(self._page, 0, value, zlib.crc32(value.to_bytes(8, "little")))

    def check(self, written: int) -> list[str]:
        expected = COUNTER.pack(written, zlib.crc32(written.to_bytes(8, "little"))).ljust(
            COUNTER_BYTES, b"\0"
        )
        seen = {"mapping": self._page[:], "file": self._path.read_bytes()}
        return [
            f"{self._path}, {how}: expected {written}, found {COUNTER.unpack_from(data)}"
            if len(data) >= COUNTER.size
            else f"{self._path}, {how}: {len(data)} bytes"
            for how, data in seen.items()
            if data != expected
        ]


class Churn:
    """Small files that are created, renamed and deleted.

    `_files` says which must exist and what each holds.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(exist_ok=True)
        for old in directory.iterdir():
            old.unlink()
        self._files: dict[str, bytes] = {}
        self.steps = 0

    def step(self) -> None:
        """Create one file, rename the one before, delete the oldest."""
        self.steps += 1
        new = f"{self.steps:08d}.new"
        content = hashlib.shake_128(new.encode()).digest(1 + self.steps * 977 % 20000)
        (self._directory / new).write_bytes(content)
        self._files[new] = content
        before = f"{self.steps - 1:08d}"
        if f"{before}.new" in self._files:
            (self._directory / f"{before}.new").rename(self._directory / f"{before}.kept")
            self._files[f"{before}.kept"] = self._files.pop(f"{before}.new")
        if len(self._files) > CHURN_KEPT_FILES:
            oldest = min(self._files)
            (self._directory / oldest).unlink()
            del self._files[oldest]

    def check(self) -> list[str]:
        present = {entry.name for entry in self._directory.iterdir()}
        errors = [
            f"{self._directory}: {name} is missing" for name in sorted(self._files.keys() - present)
        ]
        errors += [
            f"{self._directory}: {name} should not exist"
            for name in sorted(present - self._files.keys())
        ]
        for name in sorted(self._files.keys() & present):
            if (self._directory / name).read_bytes() != self._files[name]:
                errors.append(f"{self._directory}: {name} has the wrong content")
        return errors


class Appender:
    """The log, the counter and the small files, and the errors of them, which stay."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._log = Log(directory / "append.log")
        self._counter = MappedCounter(directory / "counter.bin")
        self._churn = Churn(directory / "churn")
        self._errors: list[str] = []

    def _fail(self, error: str) -> None:
        if len(self._errors) < MAX_ERRORS and error not in self._errors:
            self._errors.append(error)

    def step(self) -> None:
        try:
            self._log.append()
            self._counter.set(self._log.written)
            if self._log.written % CHURN_EVERY_LINES == 0:
                self._churn.step()
        except OSError as error:
            self._fail(f"write: {error}")

    def report(self) -> dict[str, object]:
        written = self._log.written
        try:
            for error in [*self._log.check(), *self._counter.check(written), *self._churn.check()]:
                self._fail(error)
        except OSError as error:
            self._fail(f"check: {error}")
        return {
            "ok": not self._errors,
            "written": written,
            "churned": self._churn.steps,
            "errors": self._errors,
        }


def verify(path: Path) -> int:
    lines, errors = verify_log(path.read_bytes())
    print(json.dumps({"ok": not errors, "lines": lines, "errors": errors}))
    return 1 if errors else 0


def run(host: str, port: int, directory: Path, interval_s: float) -> None:
    appender = Appender(directory)
    epoll = select.epoll()
    server = LineServer(epoll, tcp_listener(host, port), status_answer(appender.report))
    next_s = time.monotonic()
    while True:
        wait_s = next_s - time.monotonic()
        for fd, events in epoll.poll(max(0.0, wait_s)):
            server.handle(fd, events)
        now_s = time.monotonic()
        if now_s >= next_s:
            appender.step()
            # After a freeze the program goes on at its rate, and does not catch up.
            next_s = max(next_s + interval_s, now_s)


def main() -> int:
    parser = argparse.ArgumentParser(description="append to a log, verify it on STATUS")
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 - inside a container
    parser.add_argument("--port", type=int, default=7102)
    parser.add_argument(
        "--dir", type=Path, default=Path("/data"), help="holds append.log, counter.bin and churn/"
    )
    parser.add_argument("--interval-ms", type=float, default=10)
    parser.add_argument(
        "--verify", type=Path, metavar="FILE", help="check this log, print JSON and exit"
    )
    args = parser.parse_args()
    if args.verify is not None:
        return verify(args.verify)
    # Init of a container has no default action for SIGTERM: without a handler it would be ignored.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    run(args.host, args.port, args.dir, args.interval_ms / 1000)
    return 0


if __name__ == "__main__":
    sys.exit(main())
