"""Waiting for a condition, instead of sleeping for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

from tests.rig.errors import RigError

Result = TypeVar("Result")

DEFAULT_TIMEOUT_S = 60.0
POLL_S = 0.01
LONGEST_POLL_S = 0.2


def until(
    condition: Callable[[], Result | None], what: str, *, timeout_s: float = DEFAULT_TIMEOUT_S
) -> Result:
    """Call condition again and again, and return its first true result.

    A condition that takes long, such as a command on a node, is called half of the time at most:
    what is waited for needs the processors, too. Raises RigError, which names what was waited for,
    if there is no true result after timeout_s.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        began = time.monotonic()
        result = condition()
        if result:
            return result
        now = time.monotonic()
        if now > deadline:
            raise RigError(f"waited {timeout_s:.0f} s in vain for {what}")
        time.sleep(min(max(POLL_S, now - began), LONGEST_POLL_S))
