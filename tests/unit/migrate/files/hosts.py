"""A source and a target of one tree, both on this host."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoint.engines.base import Tree
from checkpoint.files.changes import TICK_NS
from checkpoint.files.rsync import PARTIAL, Ending, Rsync
from migrate.agent.received import Received
from migrate.files.tree_door import TreeDoor
from migrate.files.trees import TreeSync
from migrate.wire import message, protocol
from tests.unit.helpers.joined import Joined, change_root

VOLUME = "/data"


class Target:
    """The agent's end of the trees and tmpfs mounts, in this process."""

    def __init__(self, run: Path, tidy: contextlib.ExitStack) -> None:
        #: How often a connection that was lost was made anew (AgentClient).
        self.renewed = 0
        self.trees = TreeDoor(run / "trees")
        tidy.callback(self.trees.close)
        asked = protocol.Prepare(shared=False, network=None, room_bytes=1 << 20, page_channels=1)
        self.received = Received("0123456789ab", asked, self.trees, tidy, print, batch_s=1.0)

    def request_all(self, asked: Any, parts: Any = ()) -> list[Any]:
        """Hand over a command, and return its answers, both as they come over the wire."""
        came = message.decode(protocol.encode(asked), b"".join(parts), type(asked))
        return [
            message.decode(message.encode(answer), b"", type(answer))
            for answer in self.received.handle(came)
        ]

    def request(self, asked: Any, parts: Any = (), *, timeout_s: float | None = None) -> Any:
        (answer,) = self.request_all(asked, parts)
        return answer

    stream = request


class Hosts:
    """A source and a target of one tree, of which the test sees both sides."""

    def __init__(self, root: Path, tidy: contextlib.ExitStack) -> None:
        self.source, self.place = root / "source", root / "target"
        self.source.mkdir()
        self.place.mkdir()
        self.target = Target(root, tidy)
        self.tidy = tidy
        #: The number of passes from now on that end with PARTIAL.
        self.partial = 0

    def rsync(self, tree: int, key: str | None) -> Rsync:
        """Return an rsync to the target, as RsyncTunnel does."""
        assert key == VOLUME
        joined = self.tidy.enter_context(contextlib.closing(Joined(self.source, self.place)))

        def carry(*words: Any) -> Ending:
            ending = joined.carry(*words)
            if self.partial:
                self.partial -= 1
                return Ending(status=PARTIAL, complaint="rsync: [generator] recv_generator failed")
            return ending

        return Rsync(tree, carry)

    def sync(self, layer: Path | None = None) -> TreeSync:
        self.target.trees.show([(VOLUME, self.place)])
        tree = Tree(destination=VOLUME, root=self.source, layer=layer)
        bridge: Any = self
        target: Any = self.target
        sync = TreeSync(tree, bridge, target, lambda: ())
        self.tidy.callback(sync.close)
        return sync

    def mount(self, *words: str, at: Path) -> None:
        subprocess.run(["mount", *words, str(at)], check=True)
        self.tidy.callback(subprocess.run, ["umount", str(at)], check=True)


def settle(source: Path) -> None:
    """Wait until time stamps tell of changes, and make the root's own an old one.

    rsync leaves times that differ by less than a second.
    """
    os.utime(source, (1, 2))
    newest = time.time_ns()
    while time.time_ns() <= newest + 3 * TICK_NS:
        time.sleep(0.001)


Change = Callable[[Path], object]
CHANGES: dict[str, Change] = {
    "all of it": change_root,
    "its mode": lambda root: root.chmod(0o711),
    "its owner": lambda root: os.chown(root, 7, 8),
    "an attribute": lambda root: os.setxattr(root, "user.who", b"me"),
    "its time": lambda root: os.utime(root, (3, 4)),
    "a file in it": lambda root: (root / "file").write_text("new"),
    "a file less": lambda root: (root / "file").unlink(),
}
