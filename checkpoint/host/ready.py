"""Wait for descriptors with poll(2): select(2) knows none above 1023."""

from __future__ import annotations

import select


def ready(*descriptors: int, timeout_s: float | None = None) -> list[int]:
    """Those that can be read, or whose peer is gone; a pidfd whose process ended. Empty after `timeout_s`."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [
        descriptor for descriptor, _ in poll.poll(None if timeout_s is None else timeout_s * 1000)
    ]
