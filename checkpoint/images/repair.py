"""Mend in images what CRIU would restore wrong, before they are sent."""

from __future__ import annotations

from pathlib import Path

from checkpoint.criu.rpc import DECODE_ERRORS, fdinfo
from checkpoint.errors import ImageError
from checkpoint.images.messages import LENGTH, MAGICS_BYTES, messages

FILES = "files.img"


def repaired(path: Path) -> bytes:
    """The content of an image file, mended where that is needed."""
    data = path.read_bytes()
    return with_periodic_timers(data) if path.name == FILES else data


def with_periodic_timers(files_image: bytes) -> bytes:
    """files.img with every periodic timerfd going to fire again.

    One that expired while the container stood still shows no time left in /proc/PID/fdinfo. CRIU
    saves that as it_value 0, and restoring it disarms the timer for good (criu issue 3162). A
    nanosecond left makes it fire at once, which is what it was about to do.
    """
    out = [files_image[:MAGICS_BYTES]]
    try:
        out += map(_with_periodic_timer, messages(FILES, files_image))
    except DECODE_ERRORS as error:
        raise ImageError(f"{FILES} has a timer that is damaged") from error
    return b"".join(out)


def _with_periodic_timer(message: bytes) -> bytes:
    # The type is the first field; other files are not looked into.
    if message[:2] == bytes((0x08, fdinfo().TIMERFD)):
        entry = fdinfo().file_entry.FromString(message)
        if not entry.IsInitialized():
            raise ImageError(
                f"{FILES} has a timer that lacks {', '.join(entry.FindInitializationErrors())}"
            )
        timer = entry.tfd
        if not (timer.vsec or timer.vnsec) and (timer.isec or timer.insec):
            timer.vnsec = 1
            message = entry.SerializeToString()
    return LENGTH.pack(len(message)) + message
