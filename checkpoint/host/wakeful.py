"""A way to keep processors from sleeping while a container is frozen.

In a dump and a restore CRIU and the container's tasks wake each other up thousands of times. A
processor that has gone to sleep answers late, and a virtual one later still, because its host has
to wake it. These delays were half of the time of a dump (docs/performance.md).
Kernel: Documentation/power/pm_qos_interface.rst.
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
    """Request a wake-up latency of 0 from the kernel during the block.

    The request also ends when this process does. Without the device nothing is requested.
    """
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
