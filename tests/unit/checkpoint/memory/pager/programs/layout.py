"""What the tests of the pager, their tasks and their pagers know of a task's memory."""

import struct

from checkpoint.memory.tracking.write_protection import PAGE_SIZE

#: Addresses of a task's mapping, and of the place that it may move the mapping to.
START, ELSEWHERE = 0x1000_0000_0000, 0x2000_0000_0000


def content(page: int) -> bytes:
    """Return the content of page number `page`: the number `page` + 1, as often as it fits."""
    return struct.pack("=Q", page + 1) * (PAGE_SIZE // 8)
