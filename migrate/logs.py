"""Logs of a migration that failed: CRIU's, the runtime's, the engine's and this program's.

CRIU, the runtime and the engine log beside the images, in RAM, and these logs go with the images.
If the migration fails, the end of each log of both hosts is kept on the source in DIRECTORY/ID, for
root alone. Only those of the newest migrations are kept.

This program logs by the standard library. Records of level INFO are a migration's states, phases
and notes. Those of level DEBUG are requests to the agent, programs that were run, and each message
between a runtime and CRIU. An agent that was asked to sends its records to the source.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
import shutil
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from checkpoint.host import paths
from checkpoint.host.ownership import private_directory
from checkpoint.schema import harmless

DIRECTORY = paths.LOGS
MOST_DIRECTORIES = 20
#: The most files that are kept of one host, and the most bytes of the end of one log.
MOST_FILES, MOST_BYTES = 16, 1 << 18
IDENTITY = re.compile(r"[0-9a-f]{12}")
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
#: The name of a log, and its end.
Log = tuple[str, bytes]


#: The packages whose records are kept, and the form of a line. Times are the wall clock's.
PACKAGES = ("migrate", "checkpoint", "transport")
FORMAT = "%(asctime)s.%(msecs)03d %(host)s %(threadName)s %(name)s: %(message)s"
BRIEF_FORMAT = "%(asctime)s.%(msecs)03d %(host)s: %(message)s"
MOST_RECORDS = 5000


def formatter(layout: str = FORMAT) -> logging.Formatter:
    """Return a formatter of records. A record without a `host` of its own is this host's."""
    return logging.Formatter(layout, "%H:%M:%S", defaults={"host": platform.node()})


class Recorder(logging.Handler):
    """A logging handler that holds the newest MOST_RECORDS records of this program.

    Lines are made of the records only in `log`, never while a container is frozen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(formatter())
        self._records: deque[logging.LogRecord] = deque(maxlen=MOST_RECORDS)
        self._count = self._taken = 0

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)
        self._count += 1

    def take_new(self, most: int) -> list[logging.LogRecord]:
        """Return the records since the last call, at most so many: the newest."""
        new = min(self._count - self._taken, most)
        self._taken = self._count
        return list(self._records)[-new:] if new else []

    def log(self, name: str) -> Log:
        """Return all records as a log of that name."""
        lines = [harmless(self.format(record)) for record in list(self._records)]
        return name, "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")


@contextlib.contextmanager
def recorded(*others: logging.Handler) -> Iterator[Recorder]:
    """Record what the PACKAGES log, at all levels, during the block. The `others` get it, too."""
    recorder = Recorder()
    handlers = (recorder, *others)
    loggers = [logging.getLogger(name) for name in PACKAGES]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        for handler in handlers:
            logger.addHandler(handler)
    try:
        yield recorder
    finally:
        for logger in loggers:
            for handler in handlers:
                logger.removeHandler(handler)
            logger.propagate = True
            logger.setLevel(logging.NOTSET)


def gather(directory: Path) -> list[Log]:
    """Return the logs anywhere beneath a directory of images, MOST_FILES at most.

    A log that cannot be read is left out.
    """
    found: list[Log] = []
    for path in sorted(directory.rglob("*.log")):
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                file.seek(max(0, os.fstat(fd).st_size - MOST_BYTES))
                if data := file.read(MOST_BYTES):
                    found.append(("-".join(path.relative_to(directory).parts), data))
    return found[:MOST_FILES]


def traceback_of(error: BaseException) -> Log:
    """Return the traceback of an error, and of those that caused it, as a log."""
    text = "".join(traceback.format_exception(error)).encode(errors="backslashreplace")
    return "traceback.txt", text[-MOST_BYTES:]


def keep(migration_id: str, side: str, logs: Iterable[Log]) -> Path | None:
    """Write the logs of one host into DIRECTORY/ID, each as SIDE-NAME.

    Returns that directory, None if there is no log. Removes the oldest directories of other
    migrations, so that at most MOST_DIRECTORIES stay. Raises OSError.
    """
    logs = [(name, data) for name, data in logs if NAME.fullmatch(name)]
    if not logs or not IDENTITY.fullmatch(migration_id):
        return None
    private_directory(DIRECTORY)
    directory = DIRECTORY / migration_id
    directory.mkdir(mode=0o700, exist_ok=True)
    for name, data in logs[:MOST_FILES]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(directory / f"{side}-{name}", flags, 0o600), "wb") as file:
            file.write(data[-MOST_BYTES:])
    _make_room(directory)
    return directory


def _make_room(kept: Path) -> None:
    """Remove the oldest directories of migrations, so that MOST_DIRECTORIES stay, with `kept`.

    Anything else in DIRECTORY is left alone.
    """
    moves = [
        path
        for path in DIRECTORY.iterdir()
        if IDENTITY.fullmatch(path.name) and path != kept and path.is_dir()
    ]
    moves.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in moves[MOST_DIRECTORIES - 1 :]:
        shutil.rmtree(path, ignore_errors=True)
