"""Waiting for a condition, instead of sleeping for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

from tests.rig.errors import RigError

Result = TypeVar("Result")

DEFAULT_TIMEOUT_S = 60.0
POLL_S = 0.01


def until(
    condition: Callable[[], Result | None], what: str, *, timeout_s: float = DEFAULT_TIMEOUT_S
) -> Result:
    """The first true result of condition; RigError, naming what was waited for, if there is none in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise RigError(f"waited {timeout_s:.0f} s in vain for {what}")
        time.sleep(POLL_S)
