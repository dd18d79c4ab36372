"""Keep the target's files equal to the source's: while running, and what changed last, while frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from checkpoint.errors import CommandFailed
from checkpoint.rootfs import overlay
from checkpoint.rootfs.beneath import TreeRoot
from checkpoint.rootfs.changes import (
    Changes,
    FileState,
    Snapshot,
    below,
    changes,
    differing,
    snapshot,
)
from checkpoint.rootfs.rsync import PARTIAL, Running
from checkpoint.runtimes.base import ROOTFS, Tree
from migrate import protocol
from migrate.agent.client import AgentClient
from migrate.bridge import Bridge
from migrate.values import DirectoryTime, in_pieces

WHOLE_TIMEOUT_S = 3600.0
FROZEN_TIMEOUT_S = 300.0
ARM_TIMEOUT_S = 30.0
#: With the container frozen: to remove a piece of a list, or to set times, takes the target no longer.
FROZEN_ANSWER_S = 30.0
#: So often a pass is made while the container runs, which may exchange directories under it.
TRIES = 3


class TreeSync:
    """Passes of rsync for one tree: whole, what changed since, and that again, frozen.

    Raises CommandFailed, AgentFailed or AgentGone.
    """

    def __init__(
        self, tree: Tree, bridge: Bridge, agent: AgentClient, mapped: Callable[[], Iterable[str]]
    ) -> None:
        """`mapped` returns the files that processes have mapped now (changes.written_through_mappings)."""
        self._tree, self._agent, self._mapped_now = tree, agent, mapped
        self._root = TreeRoot(tree.root)
        self._looked_at = TreeRoot(tree.layer) if tree.layer is not None else self._root
        self._rsync = bridge.rsync(self._root.fd, tree.destination)
        # Taken before the first copy: what changes during it shows up as changed since.
        self._before = snapshot(self._looked_at)
        #: Mapped when a copy was begun of what was looked at: only the first store to a page changes the file's times.
        self._mapped = below(tree.destination, mapped())
        self._armed: Running | None = None
        #: Files that are on the target, maybe without being in `_before`: made and copied after that was taken.
        self._there: set[str] = set()
        #: What the last pass sent, and what of that is not on the target as it was looked at (changes.differing).
        self._sent: tuple[str, ...] = ()
        self._wrong: dict[str, int] = {}

    @property
    def kind(self) -> str:
        """What its bytes are reported as."""
        return "rootfs" if self._tree.destination == ROOTFS else "volumes"

    def copy_whole(self) -> int:
        """First pass, while the container runs. Returns bytes sent."""
        if self._tree.layer is None:
            sent = tried(lambda: self._rsync.whole().finish(WHOLE_TIMEOUT_S))
            there = list(self._listed(None))
            # It deletes what the source has not: all that is there now, it has sent.
            self._there = {file.path for file in there} - self._before.files.keys()
            self._check(self._before.files, there)
            return sent
        found = overlay.content(self._before, self._root)
        self._remove(found.removed, WHOLE_TIMEOUT_S)
        listed = self._rsync.listed()
        listed.send_list(found.changed)
        sent = listed.finish(WHOLE_TIMEOUT_S)
        self._look_at(found.changed)
        return sent

    def catch_up(self) -> int:
        """A pass of what changed since the one before, while the container runs. Returns bytes sent."""
        return tried(self._catch_up)

    def _catch_up(self) -> int:
        now = snapshot(self._looked_at)
        mapped = below(self._tree.destination, self._mapped_now())
        found = self._found(now, self._mapped)
        self._there.update(found.changed)
        self.arm()
        sent = self._apply(found, WHOLE_TIMEOUT_S, WHOLE_TIMEOUT_S)
        self._before, self._mapped = now, mapped
        self._look_at(found.changed)
        return sent

    def arm(self) -> None:
        """Start the next pass; both its ends wait for the list of files."""
        if self._armed is None:
            self._armed = self._rsync.listed()

    def wait_armed(self) -> None:
        """Wait until the pass that `arm` started does nothing but wait: its start takes processor time."""
        if self._armed is not None:
            self._armed.wait_ready(ARM_TIMEOUT_S)

    def copy_changes(self, mapped: Iterable[str]) -> int:
        """The last pass: usually of nothing, or a few files. The container must be frozen. Returns bytes sent.

        `mapped` are the files that may have been written through mappings (changes.written_through_mappings).
        """
        written = self._mapped | below(self._tree.destination, mapped)
        found = self._found(snapshot(self._looked_at, attributes=False), written)
        return self._apply(found, FROZEN_TIMEOUT_S, FROZEN_ANSWER_S)

    def _found(self, now: Snapshot, written: Iterable[str]) -> Changes:
        """What the next pass is to do, so that the target is what the source is now."""
        found = changes(self._before, now, written, sent=self._sent, wrong=self._wrong)
        if self._tree.layer is not None:
            found = overlay.translated(found, self._before, self._root)
        left = self._there - now.files.keys()
        if self._tree.layer is not None:  # lower layers may have it
            left = {path for path in left if not self._root.exists(path)}
        return replace(found, removed=tuple(sorted(left.union(found.removed))))

    def _look_at(self, paths: Sequence[str]) -> None:
        """Compare what a pass of these files has made with what was looked at before it."""
        self._there.update(paths)
        self._check(paths, [file for piece in in_pieces(paths) for file in self._listed(piece)])

    def _check(self, sent: Iterable[str], copies: Iterable[FileState]) -> None:
        self._sent = tuple(sent)
        self._wrong = differing(self._before, self._sent, copies)

    def _listed(self, paths: tuple[str, ...] | None) -> Iterator[FileState]:
        for piece in self._agent.request_all(
            protocol.ListTree(tree=self._tree.destination, paths=paths)
        ):
            yield from piece.files

    def close(self) -> None:
        """End what still runs, and let go of the tree."""
        if self._armed is not None:
            self._armed.kill()
        for root in {self._root, self._looked_at}:
            root.close()

    def _apply(self, found: Changes, timeout_s: float, answer_s: float) -> int:
        self._remove(found.removed, answer_s)
        sent = 0
        if found.changed:
            assert self._armed is not None
            armed, self._armed = self._armed, None
            armed.send_list(found.changed)
            sent = armed.finish(timeout_s)
        if found.directories:
            times = [DirectoryTime(*directory) for directory in found.directories]
            for piece in in_pieces(times):
                self._agent.request(
                    protocol.SetTimes(tree=self._tree.destination, directories=piece),
                    timeout_s=answer_s,
                )
        return sent

    def _remove(self, paths: Sequence[str], answer_s: float) -> None:
        for piece in in_pieces(paths):
            self._agent.request(
                protocol.Remove(tree=self._tree.destination, paths=piece), timeout_s=answer_s
            )


def tried(copy: Callable[[], int]) -> int:
    """Make a pass while the container runs; and again if files could not be copied, which may be its doing."""
    for _ in range(TRIES - 1):
        try:
            return copy()
        except CommandFailed as error:
            if error.status != PARTIAL:
                raise
    return copy()
