"""The choice of the kernel's means by which pre-copy sees writes, with its reason. No I/O here."""

from __future__ import annotations

import enum

from migrate.decisions.compatibility import Facts
from migrate.errors import CannotPreCopy


class Mode(enum.Enum):
    """The mode that the user requested."""

    AUTO = "auto"
    PRE_COPY = "pre-copy"
    STOP_COPY = "stop-copy"


class Tracking(enum.Enum):
    """The kernel's means of telling which pages were written."""

    USERFAULTFD = "userfaultfd"
    SOFT_DIRTY = "soft-dirty pages"


def choose(mode: Mode, source: Facts, target: Facts) -> tuple[tuple[Tracking, ...], str]:
    """Return the means to use, best first, and the line that says so to the user.

    No means: stop-copy. Raises CannotPreCopy if the user requested pre-copy and there is no means.

    With userfaultfd a round does not freeze the container, and the last dump finds no memory to
    write out. It does not reach every process (checkpoint/memory/tracking/tracker.py); CRIU's
    pre-dumps, by soft-dirty pages, do.
    """
    if mode is Mode.STOP_COPY:
        return (), "stop-copy, as asked for"
    why_not = _why_no_userfaultfd(source, target)
    pre_dumps = (Tracking.SOFT_DIRTY,) if source.soft_dirty else ()
    if not why_not:
        return (
            (Tracking.USERFAULTFD, *pre_dumps),
            "pre-copy: writes are seen by userfaultfd, memory is filled in on the target",
        )
    if pre_dumps:
        return pre_dumps, f"pre-copy by soft-dirty pages: {why_not}"
    why_not += f"; {source.hostname} does not track soft-dirty pages either"
    if mode is Mode.PRE_COPY:
        raise CannotPreCopy(why_not)
    return (), f"stop-copy: {why_not}"


def _why_no_userfaultfd(source: Facts, target: Facts) -> str:
    if not source.write_tracking:
        return (
            f"{source.hostname} cannot track writes (Linux {source.kernel} on {source.machine}; "
            "6.7 on x86_64 can)"
        )
    if not source.dumps_with_parent:
        return (
            f"CRIU on {source.hostname} cannot be told that memory went ahead "
            "(no /run/criu.kdat of a known form)"
        )
    if not target.lazy_pages:
        return f"CRIU has no lazy pages on {target.hostname} (Linux {target.kernel})"
    return ""
