"""The lines that matter of CRIU's and runc's logs."""

from __future__ import annotations

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


def runtime_errors(path: Path) -> list[str]:
    """The error messages of a log written by `runc --log` (text or JSON)."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        if line.startswith("{"):
            entry = json.loads(line)
            if entry.get("level") == "error":
                found.append(entry["msg"])
        elif "level=error" in line:
            found.append(line.partition("msg=")[2].strip('"'))
    return found[-MOST:]
