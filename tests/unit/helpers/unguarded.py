"""A migration without a guardian, for tests of the coordinator alone.

A guardian kills its coordinator, which is the process of the tests here.
"""

from __future__ import annotations

import os
from typing import Any

from checkpoint.host.detached import Detached
from checkpoint.host.lock import Locks
from migrate.guardian.handle import Guardian


class Absent(Detached):
    """The handle of a process that was killed at once: it is told everything, and does nothing."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.told: list[bytes] = []

    def tell(self, message: bytes, *_: int) -> None:
        self.told.append(message[:1])

    def release(self, last: bytes) -> None:
        """There is nobody to release."""

    def leave(self, last: bytes) -> None:
        """There is nobody to take over."""


class Unguarded(Guardian):
    """The handle of a guardian that was killed at once."""

    def __init__(self, *_: Any) -> None:
        self._left, self._deadline_ns, self._locks = False, None, Locks({})
        self._process = self._absent = Absent()

    @property
    def told(self) -> list[bytes]:
        """The first byte of each word that the guardian was told."""
        return self._absent.told
