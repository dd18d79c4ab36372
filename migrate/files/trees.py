"""Copies of a container's file trees on the target, kept up to date by passes of rsync."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from checkpoint.engines.base import ROOTFS, Tree
from checkpoint.errors import CommandFailed
from checkpoint.files import overlay
from checkpoint.files.beneath import TreeRoot
from checkpoint.files.changes import (
    Changes,
    FileState,
    Snapshot,
    below,
    changes,
    differing,
    snapshot,
)
from checkpoint.files.rsync import PARTIAL, Running
from migrate.agent.client import AgentClient
from migrate.files.rsync_tunnel import RsyncTunnel
from migrate.wire import protocol
from migrate.wire.values import DirectoryTime, in_pieces

WHOLE_TIMEOUT_S = 3600.0
FROZEN_TIMEOUT_S = 300.0
ARM_TIMEOUT_S = 30.0
#: The most that the target takes, with the container frozen, to remove one piece of a list or to
#: set times.
FROZEN_ANSWER_S = 30.0
#: How often a pass is tried while the container runs, which may exchange directories under it.
TRIES = 3


class TreeSync:
    """The copy of one tree of files on the target, made and kept up to date by passes of rsync.

    The first pass is of the whole tree, later ones are of what changed since the pass before, and
    the last of them is made while the container is frozen. All methods raise CommandFailed,
    AgentFailed or AgentGone.
    """

    def __init__(
        self,
        tree: Tree,
        bridge: RsyncTunnel,
        agent: AgentClient,
        mapped: Callable[[], Iterable[str]],
    ) -> None:
        """Take the first snapshot of `tree`.

        `mapped` returns the files that processes have mapped now
        (changes.written_through_mappings).
        """
        self._tree, self._agent, self._mapped_now = tree, agent, mapped
        self._root = TreeRoot(tree.root)
        self._looked_at = TreeRoot(tree.layer) if tree.layer is not None else self._root
        self._rsync = bridge.rsync(self._root.fd, tree.destination)
        # This snapshot is taken before the first copy, so that a file that changes during the copy
        # counts as changed since.
        self._before = snapshot(self._looked_at)
        #: Files that were mapped when `_before` was taken. They may be written later without a
        #: trace in their times: only the first store to a page changes those.
        self._mapped = below(tree.destination, mapped())
        self._armed: Running | None = None
        #: Files that may be on the target without being in `_before`: they were made after that
        #: snapshot and before the copy.
        self._there: set[str] = set()
        #: The files that the last pass sent, and those of them that are not on the target as
        #: `_before` has them (changes.differing).
        self._sent: tuple[str, ...] = ()
        self._wrong: dict[str, int] = {}

    @property
    def destination(self) -> str:
        """Where the container has the tree."""
        return self._tree.destination

    @property
    def kind(self) -> str:
        """The name under which the report counts the tree's bytes: "rootfs" or "volumes"."""
        return "rootfs" if self._tree.destination == ROOTFS else "volumes"

    @property
    def file_count(self) -> int:
        """The number of files in the tree, at the last look."""
        return len(self._before.files)

    @property
    def changes(self) -> bool:
        """Whether the last pass had something to send."""
        return bool(self._sent)

    def copy_whole(self) -> int:
        """Make the first pass, while the container runs. Returns the bytes sent."""
        if self._tree.layer is not None:
            return tried(self._agent, self._copy_layer)
        sent = tried(self._agent, lambda: self._rsync.whole().finish(WHOLE_TIMEOUT_S))
        there = list(self._listed(None))
        # The pass deletes what the source does not have, so it has sent everything that is on the
        # target now.
        self._there = {file.path for file in there} - self._before.files.keys()
        self._check(self._before.files, there)
        return sent

    def _copy_layer(self) -> int:
        found = overlay.content(self._before, self._root)
        self._there.update(found.changed)
        self.arm()
        sent = self._apply(found, WHOLE_TIMEOUT_S, WHOLE_TIMEOUT_S)
        self._look_at(found.changed)
        return sent

    def copy_again(self) -> int:
        """Make a first pass once more: the target has lost its copy. Returns the bytes sent.

        The container has ended. CommandFailed is raised if its engine has unmounted the tree, which
        is open here, and not an empty directory sent in its place.
        """
        self._disarm()
        self._before = snapshot(self._looked_at)
        self._there, self._sent, self._wrong = set(), (), {}
        return self.copy_whole()

    def catch_up(self) -> int:
        """Copy what changed since the previous pass, while the container runs.

        Returns the bytes sent.
        """
        return tried(self._agent, self._catch_up)

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
        """Start the next pass; rsync on both hosts waits for the list of files."""
        if self._armed is None:
            self._armed = self._rsync.listed()

    def wait_armed(self) -> None:
        """Wait until both ends of the armed pass wait for their list.

        The start of rsync takes processor time, which the freeze is to be spared.
        """
        if self._armed is not None:
            self._armed.wait_ready(ARM_TIMEOUT_S)

    def copy_changes(self, mapped: Iterable[str]) -> int:
        """Make the last pass, with the container frozen. Returns the bytes sent.

        Usually there is nothing to copy, or a few files. `mapped` are the files that may have been
        written through mappings (changes.written_through_mappings). If the root itself has another
        mode, owner or attributes than after the previous pass, a pass of its own is started for it,
        because a list cannot name it (Rsync.listed).
        """
        written = self._mapped | below(self._tree.destination, mapped)
        found = self._found(snapshot(self._looked_at, attributes=False), written)
        return self._apply(found, FROZEN_TIMEOUT_S, FROZEN_ANSWER_S)

    def _found(self, now: Snapshot, written: Iterable[str]) -> Changes:
        """Return what the next pass must do to make the target's tree like the source's, `now`.

        `written` are files that may have changed without a trace in their times.
        """
        found = changes(self._before, now, written, sent=self._sent, wrong=self._wrong)
        if self._tree.layer is not None:
            found = overlay.translated(found, self._before, self._root)
        left = self._there - now.files.keys()
        if self._tree.layer is not None:  # a lower layer may show it
            left = {path for path in left if not self._root.exists(path)}
        return replace(found, removed=tuple(sorted(left.union(found.removed))))

    def _look_at(self, paths: Sequence[str]) -> None:
        """Compare a pass's copies of `paths` with `_before`, which was taken before the pass."""
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
        """End a pass that still waits, and close the descriptors of the tree."""
        self._disarm()
        for root in {self._root, self._looked_at}:
            root.close()

    def _disarm(self) -> None:
        if self._armed is not None:
            self._armed.kill()
            self._armed = None

    def _apply(self, found: Changes, timeout_s: float, answer_s: float) -> int:
        self._remove(found.removed, answer_s)
        sent = 0
        if listed := [path for path in found.changed if path]:
            assert self._armed is not None
            armed, self._armed = self._armed, None
            sent += armed.finish(timeout_s, listed)
        if "" in found.changed:
            sent += self._rsync.root().finish(timeout_s)
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


def tried(agent: AgentClient, copy: Callable[[], int]) -> int:
    """Make a pass while the container runs, and again if rsync could not copy some files (PARTIAL).

    The container may cause that by exchanging directories. A pass is also made again if the
    connection was lost in it, and is there again. Returns the bytes sent by the last try. Raises
    CommandFailed after TRIES tries, and at once for any other status; and AgentGone.
    """
    tries = 1
    while True:
        renewed = agent.renewed
        try:
            return copy()
        except CommandFailed as error:
            if error.status == PARTIAL:
                tries += 1
            if tries > TRIES or (error.status != PARTIAL and not agent.is_renewed(renewed)):
                raise
