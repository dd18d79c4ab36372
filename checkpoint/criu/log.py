"""The lines that matter of CRIU's and runc's logs."""

from __future__ import annotations

import contextlib
import json
import re
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
            # The last line may be cut off: whoever wrote it may have been killed.
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if entry.get("level") == "error":
                    found.append(str(entry.get("msg", line)))
        elif "level=error" in line:
            # logrus quotes a message only where it must.
            message = re.search(r'msg=(?:"((?:[^"\\]|\\.)*)"|(\S+))', line)
            text = (message[1] or message[2] or "") if message else line
            found.append(re.sub(r"\\(.)", r"\1", text))
    return found[-MOST:]
