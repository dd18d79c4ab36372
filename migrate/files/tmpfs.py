"""Copies of a container's tmpfs mounts, kept equal to the source's, that wait on the target."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Sequence

from checkpoint.engines.base import Container
from checkpoint.errors import NotMovable
from checkpoint.files.beneath import TreeRoot
from checkpoint.files.changes import MODE, Snapshot, below, changes, differing, snapshot
from checkpoint.files.openings import Openings
from checkpoint.files.tmpfs import Packing, Tmpfs, exchanged, tmpfs_mounts
from checkpoint.host import proc, processes
from migrate.agent.client import AgentClient
from migrate.wire import protocol
from migrate.wire.answers import check_asked
from migrate.wire.values import in_pieces

#: So much of an archive is sent until an answer is waited for: as long as the connection may be
#: lost, this host keeps what the target may not have.
MOST_UNCONFIRMED_BYTES = 64 << 20


def own_mounts(container: Container) -> list[Tmpfs]:
    """Return the container's tmpfs mounts that are migrated; mounts bound from the host are not."""
    mounts = tmpfs_mounts(container.pid, processes.tree_of(container.pid))
    return [mount for mount in mounts if mount.path not in container.bind_mounts]


class TmpfsSync:
    """The copies of a container's tmpfs mounts on the target.

    They are made whole at first; what changed since is copied once the container stands still.

    Raises AgentFailed, AgentGone or CommandFailed; ProtocolError if the target made mounts that
    were not asked for; and OSError for a mount that no longer exists.
    """

    def __init__(self, agent: AgentClient, pid: int, mounts: Sequence[Tmpfs]) -> None:
        self._agent = agent
        made = agent.request(protocol.MakeTmpfs(mounts=tuple(mounts))).paths
        check_asked("MakeTmpfs", made, [mount.path for mount in mounts])
        there = self._mounts = [mount for mount in mounts if mount.path in made]
        #: The mount points of the mounts that the target has made; a mount's index counts them from
        #: 0.
        self.paths = made
        #: By index: the snapshot before the copy; which copies differ from it (changes.differing);
        #: and what the target has that the snapshot does not.
        self._before: list[Snapshot] = []
        self._wrong: list[dict[str, int]] = []
        self._there: list[set[str]] = []
        #: By index: the watch for files that may be written through mappings, which leaves no trace
        #: in their times.
        self._openings: list[Openings] = []
        self._pid = pid
        self._armed: dict[int, Packing] = {}
        with contextlib.ExitStack() as stack:
            self._roots = [
                stack.enter_context(TreeRoot.mounted(pid, mount.path, mount.device))
                for mount in there
            ]
            self._namespace = os.open(proc.path(pid, "ns", "mnt"), os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, self._namespace)
            self._stack = stack.pop_all()

    def copy_whole(self) -> int:
        """Make the first copy, while the container runs. Returns the bytes sent."""
        sent = 0
        for index, root in enumerate(self._roots):
            self._openings.append(openings := Openings(root))
            self._stack.callback(openings.close)
            before = snapshot(root)
            self._before.append(before)
            sent += self._send(index, [], before.files, complete=False)
            openings.copied(processes.tree_of(self._pid))
            pieces = self._agent.request_all(protocol.ListTmpfs(index=index))
            copies = [file for piece in pieces for file in piece.files]
            # tar leaves sockets out; CRIU makes those again that are bound.
            carried = [
                path
                for path, signature in before.files.items()
                if not stat.S_ISSOCK(signature[MODE])
            ]
            self._wrong.append(differing(before, carried, copies))
            self._there.append({file.path for file in copies} - before.files.keys())
        return sent

    @property
    def file_count(self) -> int:
        """The number of files in all mounts, before the first copy."""
        return sum(len(before.files) for before in self._before)

    def arm(self) -> None:
        """Start tar on both hosts for the next copy of each mount, and wait until each is ready."""
        self._armed = {
            index: Packing(root, self._namespace) for index, root in enumerate(self._roots)
        }
        self._agent.request(protocol.ArmTmpfs())
        for packing in self._armed.values():
            packing.wait_ready()

    def copy_changes(self, mapped: Iterable[str]) -> int:
        """Copy what changed since `copy_whole`, with the container frozen. Returns the bytes sent.

        `mapped` is as in TreeSync.copy_changes. Raises NotMovable if the container has mounted
        something else at one of the paths since the mounts were made on the target.
        """
        for path in exchanged(self._pid, self._mounts):
            raise NotMovable(f"the tmpfs at {path} was mounted anew while the container migrated")
        sent = 0
        for index, (path, before) in enumerate(zip(self.paths, self._before, strict=True)):
            always = {*below(path, mapped), *self._openings[index].since(before)}
            now = snapshot(before.root, attributes=False)
            found = changes(before, now, always, sent=before.files, wrong=self._wrong[index])
            changed = [*found.changed, *(path for path, _ in found.directories)]
            removed = sorted(self._there[index] - now.files.keys() | set(found.removed))
            if removed or changed:
                sent += self._send(index, removed, sorted({"", *changed}), complete=True)
        return sent

    def close(self) -> None:
        """End every tar that still waits, and close the descriptors of the mounts."""
        for packing in self._armed.values():
            packing.kill()
        self._stack.close()

    def _send(
        self, index: int, removed: Iterable[str], names: Iterable[str], *, complete: bool
    ) -> int:
        sent = 0
        for paths in in_pieces(removed):
            self._agent.stream(protocol.RemoveInTmpfs(index=index, paths=paths))
        packing = self._armed.pop(index, None) or Packing(self._roots[index], self._namespace)
        unconfirmed = 0
        for piece in packing.archive(names, complete=complete):
            self._agent.stream(protocol.TmpfsArchive(index=index, last=False), [piece])
            sent += len(piece)
            unconfirmed += len(piece)
            if (
                unconfirmed > MOST_UNCONFIRMED_BYTES and not complete
            ):  # in the freeze nothing is kept
                self._agent.request(protocol.Ping())
                unconfirmed = 0
        self._agent.stream(protocol.TmpfsArchive(index=index, last=True))
        return sent
