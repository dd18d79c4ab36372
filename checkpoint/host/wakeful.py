"""Keep processors from sleeping while a container stands still.

Dump and restore are conversations between CRIU and the container's tasks, thousands of wake-ups long, and a processor
that has gone to sleep answers late: more so a virtual one, which has to be woken by its host. That was half of the
time of a dump (docs/performance.md). Kernel: Documentation/power/pm_qos_interface.rst.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator

from checkpoint.host import whole

DEVICE = "/dev/cpu_dma_latency"


@contextlib.contextmanager
def wakeful() -> Iterator[None]:
    """Ask for no wake-up latency at all. The wish ends with the block, or with us; without the device none is made."""
    try:
        fd = os.open(DEVICE, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            whole.write(fd, struct.pack("=i", 0))
        yield
    finally:
        os.close(fd)
