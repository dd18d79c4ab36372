"""The version of this host's CRIU, and its abilities on this kernel."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from checkpoint.errors import CommandFailed
from checkpoint.host.run import find_program, run


def version() -> int | None:
    """Return CRIU's version in CRIU's own numbers (40201 is 4.2.1), or None if no criu works."""
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
    """Return whether pre-dumps work on this host.

    The kernel must track soft-dirty pages, and must not merge equal pages (KSM): of merged pages it
    forgets which were written.
    """
    merging = Path("/sys/kernel/mm/ksm/run")
    if merging.exists() and merging.read_text().strip() == "1":
        return False
    return has("mem_dirty_track")


@functools.cache
def has(feature: str) -> bool:
    """Return whether CRIU finds a feature on this kernel (`criu check --feature`).

    CRIU tries the feature itself. The answer is kept as long as this process runs.
    """
    program = find_program("criu")
    if program is None:
        return False
    try:
        run([str(program), "check", "--feature", feature])
    except CommandFailed:
        return False
    return True
