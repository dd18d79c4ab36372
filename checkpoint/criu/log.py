"""Readers of the logs of CRIU, runtimes and engines, which return only the lines that matter."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

#: Errors that CRIU logs when it probes for a thing that may be absent; they mean nothing.
HARMLESS = ("RLIMIT_NOFILE", "Can't find /run/criu.kdat")
MOST = 12
#: Only the last bytes of a longer log are read: the container has a say in how long it gets.
MOST_BYTES = 1 << 20


def errors(path: Path) -> list[str]:
    """Return the last "Error" lines of a CRIU log (criu/log.c), oldest first, without time stamps.

    Lines in HARMLESS are left out. The list has at most MOST lines; it is empty for a file that
    cannot be read.
    """
    found = [
        line for line in _lines(path) if "Error (" in line and not any(h in line for h in HARMLESS)
    ]
    return [line[line.index("Error (") :] for line in found][-MOST:]


def last_words(path: Path) -> list[str]:
    """Return the last line that an engine's command printed; [] when it printed nothing."""
    return [line.strip() for line in _lines(path) if line.strip()][-1:]


def runtime_errors(path: Path) -> list[str]:
    """Return the last error messages of a log that runc or crun wrote, oldest first.

    The log is that of the options `--log FILE --log-format json`. The list has at most MOST lines.
    """
    found = []
    for line in _lines(path):
        # The last line may be cut off, because the runtime may have been killed.
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict) and entry.get("level") == "error":
                found.append(str(entry.get("msg", line)))
    return found[-MOST:]


def _lines(path: Path) -> list[str]:
    """Return the lines in the last MOST_BYTES of a file; [] for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MOST_BYTES))
            return file.read(MOST_BYTES).decode(errors="replace").split("\n")
    except OSError:
        return []
