"""Which CRIU is here and what it can do."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from checkpoint.errors import CommandFailed
from checkpoint.host.run import find_program, run


def version() -> int | None:
    """CRIU's version as its own number (40201 is 4.2.1), or None where there is no working criu."""
    program = find_program("criu")
    if program is None:
        return None
    try:
        match = re.search(r"Version: (\d+)\.(\d+)(?:\.(\d+))?", run([str(program), "--version"]))
    except CommandFailed:
        return None
    if match is None:
        return None
    major, minor, sub = (int(group or 0) for group in match.groups())
    return major * 10000 + minor * 100 + sub


def tracks_soft_dirty() -> bool:
    """Whether pre-dumps work here. Where the kernel merges equal pages (KSM) it forgets which of them were written."""
    merging = Path("/sys/kernel/mm/ksm/run")
    if merging.exists() and merging.read_text().strip() == "1":
        return False
    return has("mem_dirty_track")


@functools.cache
def has(feature: str) -> bool:
    """`criu check --feature`: CRIU tries the thing itself on this kernel."""
    program = find_program("criu")
    if program is None:
        return False
    try:
        run([str(program), "check", "--feature", feature])
    except CommandFailed:
        return False
    return True
