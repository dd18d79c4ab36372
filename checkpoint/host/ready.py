"""Waiting for descriptors by poll(2), because select(2) accepts none above 1023."""

from __future__ import annotations

import select


def ready(*descriptors: int, timeout_s: float | None = None) -> list[int]:
    """Wait until descriptors are ready, and return these. Return [] after `timeout_s`.

    A descriptor is ready if it can be read or its peer is gone, a pidfd if its process has ended.
    Without `timeout_s` there is no limit to the wait.
    """
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [
        descriptor for descriptor, _ in poll.poll(None if timeout_s is None else timeout_s * 1000)
    ]
