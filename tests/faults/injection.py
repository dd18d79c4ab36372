"""What was done to a move, and what takes it back."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from tests.rig import Node

#: What was hit when nothing was.
NOTHING = "nothing to hit"


@dataclass
class Injection:
    """One fault that was injected, and what takes it back. `what` says what was hit, for people."""

    what: str = NOTHING
    hit: bool = False
    _timers: list[threading.Timer] = field(default_factory=list)

    def later(self, after_s: float, node: Node, script: str) -> None:
        """Run a script on a node after some seconds."""
        timer = threading.Timer(after_s, sh, [node, script])
        timer.start()
        self._timers.append(timer)

    def end(self) -> None:
        """Wait until the fault was taken back."""
        for timer in self._timers:
            timer.join()


def sh(node: Node, script: str) -> str:
    """Run a script on a node, and return its output; whether it failed is nobody's business."""
    return node.run(["sh", "-c", script], check=False, timeout=60).stdout.strip()
