"""A migration without a guardian, for tests of the coordinator alone.

A guardian kills its coordinator, which is the process of the tests here.
"""

from __future__ import annotations

import os
from typing import Any

from migrate.guardian.handle import Guardian


class Unguarded(Guardian):
    """The handle of a guardian that was killed at once: it is told everything, and does nothing."""

    def __init__(self, *_: Any) -> None:
        self.pid, self._deadline_ns = os.getpid(), None
        self.told: list[bytes] = []

    def __exit__(self, *_: object) -> None:
        """There is nobody to release."""

    def take_over(self) -> None:
        """There is nobody to take over."""

    def _tell(self, message: bytes, *_: int) -> None:
        self.told.append(message[:1])
