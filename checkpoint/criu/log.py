"""The lines that matter of CRIU's and the runtimes' logs."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

#: CRIU probes for things that may be absent and logs an error; these mean nothing.
HARMLESS = ("RLIMIT_NOFILE", "Can't find /run/criu.kdat")
MOST = 12


def errors(path: Path) -> list[str]:
    """The last "Error" lines of a CRIU log (criu/log.c), without time stamps. Empty when there is none."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    lines = [line for line in text.splitlines() if "Error (" in line and not any(h in line for h in HARMLESS)]
    return [line[line.index("Error (") :] for line in lines][-MOST:]


def last_words(path: Path) -> list[str]:
    """The last line of what an engine's command said. Empty when it said nothing."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").strip().splitlines()[-1:]
    return []


def runtime_errors(path: Path) -> list[str]:
    """The error messages of a log written by `runc` or `crun` with `--log FILE --log-format json`."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        # The last line may be cut off: whoever wrote it may have been killed.
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if entry.get("level") == "error":
                found.append(str(entry.get("msg", line)))
    return found[-MOST:]
