"""Repair of image files that CRIU would restore wrong, before they are sent to the target."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from checkpoint.criu.images.alarms import with_lost_alarms
from checkpoint.criu.images.format import rewritten, writable
from checkpoint.criu.rpc import fdinfo

FILES = "files.img"
CORE = re.compile(r"core-([0-9]+)\.img")


def repaired(path: Path, waiting: Callable[[int], int]) -> bytes:
    """Return the content of an image file, repaired if it needs that.

    `waiting` returns the mask of the signals that wait for a frozen process, given its pid in its
    own pid namespace. Raises ImageError when a file that may need repair is damaged, and OSError.
    """
    data = path.read_bytes()
    if path.name == FILES:
        return with_expired_timers_armed(data)
    core = CORE.fullmatch(path.name)
    if core is not None and (signals := waiting(int(core[1]))):
        return with_lost_alarms(path.name, data, signals)
    return data


def with_expired_timers_armed(files_image: bytes) -> bytes:
    """Return files.img, changed so that every periodic timerfd that has expired fires again.

    A timerfd that has expired and was not read since shows no time left in /proc/PID/fdinfo, and is
    armed again by the read (fs/timerfd.c). CRIU saves it as it_value 0, which disarms the timer
    when it is restored, and the timer never fires again (criu issue 3162). With one nanosecond left
    the restored timer fires at once. A timer that the program has disarmed has no time left either,
    but no ticks, and stays as it is. Raises ImageError when the file is damaged.
    """
    return rewritten(FILES, files_image, _with_expired_timer_armed)


def _with_expired_timer_armed(message: bytes) -> bytes:
    # The type is the first field. Entries of other types need no repair and are not parsed.
    if message[:2] != bytes((0x08, fdinfo().TIMERFD)):
        return message
    entry = writable(FILES, fdinfo().file_entry, message)
    timer = entry.tfd
    expired = timer.ticks and not (timer.vsec or timer.vnsec)
    if not expired or not (timer.isec or timer.insec):
        return message
    timer.vnsec = 1
    return bytes(entry.SerializeToString())
