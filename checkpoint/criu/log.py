"""The lines that matter of CRIU's and the runtimes' logs."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

#: CRIU probes for things that may be absent and logs an error; these mean nothing.
HARMLESS = ("RLIMIT_NOFILE", "Can't find /run/criu.kdat")
MOST = 12
#: Of a longer log the end is read: its size is up to whom it tells of.
MOST_BYTES = 1 << 20


def errors(path: Path) -> list[str]:
    """The last "Error" lines of a CRIU log (criu/log.c), without time stamps. Empty when there is none."""
    found = [
        line for line in _lines(path) if "Error (" in line and not any(h in line for h in HARMLESS)
    ]
    return [line[line.index("Error (") :] for line in found][-MOST:]


def last_words(path: Path) -> list[str]:
    """The last line of what an engine's command said. Empty when it said nothing."""
    return [line.strip() for line in _lines(path) if line.strip()][-1:]


def runtime_errors(path: Path) -> list[str]:
    """The error messages of a log written by `runc` or `crun` with `--log FILE --log-format json`."""
    found = []
    for line in _lines(path):
        # The last line may be cut off: whoever wrote it may have been killed.
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict) and entry.get("level") == "error":
                found.append(str(entry.get("msg", line)))
    return found[-MOST:]


def _lines(path: Path) -> list[str]:
    """The lines at the end of a file; none of one that cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MOST_BYTES))
            return file.read(MOST_BYTES).decode(errors="replace").split("\n")
    except OSError:
        return []
