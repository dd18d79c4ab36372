"""Keep the tmpfs mounts that wait on the target equal to the container's."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Sequence

from checkpoint.host import processes
from checkpoint.rootfs.beneath import TreeRoot
from checkpoint.rootfs.changes import MODE, Snapshot, below, changes, differing, snapshot
from checkpoint.rootfs.openings import Openings
from checkpoint.rootfs.tmpfs import Packing, Tmpfs, tmpfs_mounts
from checkpoint.runtimes.base import Container
from migrate import protocol
from migrate.agent.client import AgentClient
from migrate.answers import check_asked
from migrate.values import in_pieces


def own_mounts(container: Container) -> list[Tmpfs]:
    """The container's tmpfs mounts that come along, those bound from the host not among them."""
    mounts = tmpfs_mounts(container.pid, processes.tree_of(container.pid))
    return [mount for mount in mounts if mount.path not in container.bind_mounts]


class TmpfsSync:
    """Has them made, copies them whole at first, and what changed since, once the container stands still.

    Raises AgentFailed, AgentGone or CommandFailed, and OSError for a mount that is not there any more.
    """

    def __init__(self, agent: AgentClient, pid: int, mounts: Sequence[Tmpfs]) -> None:
        self._agent = agent
        made = agent.request(protocol.MakeTmpfs(mounts=tuple(mounts))).paths
        check_asked("MakeTmpfs", made, [mount.path for mount in mounts])
        there = [mount for mount in mounts if mount.path in made]
        #: Mount points of those that are on the target, too.
        self.paths = made
        #: By index: what was looked at, what the target has otherwise, and what it has besides.
        self._before: list[Snapshot] = []
        self._wrong: list[dict[str, int]] = []
        self._there: list[set[str]] = []
        #: What may be written through mappings, which leaves no trace in time stamps.
        self._openings: list[Openings] = []
        self._pid = pid
        self._armed: dict[int, Packing] = {}
        with contextlib.ExitStack() as stack:
            self._roots = [
                stack.enter_context(TreeRoot.mounted(pid, mount.path, mount.device))
                for mount in there
            ]
            self._namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, self._namespace)
            self._stack = stack.pop_all()

    def copy_whole(self) -> int:
        """The first copy. Returns bytes sent."""
        sent = 0
        for index, root in enumerate(self._roots):
            self._openings.append(openings := Openings(root))
            self._stack.callback(openings.close)
            before = snapshot(root)
            self._before.append(before)
            sent += self._send(index, [], [".", *before.files], complete=False)
            openings.copied(processes.tree_of(self._pid))
            pieces = self._agent.request_all(protocol.ListTmpfs(index=index))
            copies = [file for piece in pieces for file in piece.files]
            # tar leaves sockets out: CRIU makes those again that are bound.
            carried = [
                path
                for path, signature in before.files.items()
                if not stat.S_ISSOCK(signature[MODE])
            ]
            self._wrong.append(differing(before, carried, copies))
            self._there.append({file.path for file in copies} - before.files.keys())
        return sent

    def arm(self) -> None:
        """Start what packs and unpacks the next copy, and wait until it does nothing but wait."""
        self._armed = {
            index: Packing(root, self._namespace) for index, root in enumerate(self._roots)
        }
        self._agent.request(protocol.ArmTmpfs())
        for packing in self._armed.values():
            packing.wait_ready()

    def copy_changes(self, mapped: Iterable[str]) -> int:
        """With the container frozen. Returns bytes sent. `mapped` is as in TreeSync."""
        sent = 0
        for index, (path, before) in enumerate(zip(self.paths, self._before, strict=True)):
            always = {*below(path, mapped), *self._openings[index].since(before)}
            now = snapshot(before.root, attributes=False)
            found = changes(before, now, always, sent=before.files, wrong=self._wrong[index])
            changed = [*found.changed, *(path for path, _ in found.directories)]
            removed = sorted(self._there[index] - now.files.keys() | set(found.removed))
            if removed or changed:
                sent += self._send(index, removed, [".", *sorted(changed)], complete=True)
        return sent

    def close(self) -> None:
        """End what still waits, and let go of the mounts."""
        for packing in self._armed.values():
            packing.kill()
        self._stack.close()

    def _send(self, index: int, removed: Iterable[str], names: list[str], *, complete: bool) -> int:
        sent = 0
        for paths in in_pieces(removed):
            self._agent.stream(protocol.RemoveInTmpfs(index=index, paths=paths))
        packing = self._armed.pop(index, None) or Packing(self._roots[index], self._namespace)
        for piece in packing.archive(names, complete=complete):
            self._agent.stream(protocol.TmpfsArchive(index=index, last=False), [piece])
            sent += len(piece)
        self._agent.stream(protocol.TmpfsArchive(index=index, last=True))
        return sent
