"""Durations and sizes in the form in which people read them. No I/O here."""

from __future__ import annotations

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def duration(us: float) -> str:
    """Return a length of time, given in microseconds, with two or three digits that matter."""
    seconds = us / 1e6
    if seconds < 0.01:
        return f"{us / 1e3:.1f} ms"
    if seconds < 1:
        return f"{us / 1e3:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60)} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(size_bytes: float) -> str:
    """Return a size, given in bytes, in the largest unit of which there is at least one."""
    unit = 0
    while size_bytes >= 1024 and unit < len(UNITS) - 1:
        size_bytes, unit = size_bytes / 1024, unit + 1
    digits = 1 if unit and size_bytes < 100 else 0
    return f"{size_bytes:.{digits}f} {UNITS[unit]}"
