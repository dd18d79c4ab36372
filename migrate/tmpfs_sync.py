"""Keep the tmpfs mounts that wait on the target equal to the container's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from checkpoint.rootfs import tmpfs
from checkpoint.rootfs.changes import Snapshot, changes, snapshot, written_through_mappings
from checkpoint.rootfs.tmpfs import Tmpfs
from migrate import protocol
from migrate.agent.client import AgentClient
from migrate.answers import check_asked
from migrate.values import in_pieces


class TmpfsSync:
    """Has them made, copies them whole at first, and what changed since, once the container stands still.

    Raises AgentFailed or AgentGone.
    """

    def __init__(self, agent: AgentClient, pid: int, mounts: list[Tmpfs]) -> None:
        self._agent = agent
        #: Mount points of those that are there.
        self.paths = agent.request(protocol.MakeTmpfs(mounts=tuple(mounts))).paths
        check_asked("MakeTmpfs", self.paths, [mount.path for mount in mounts])
        self._roots = [Path(f"/proc/{pid}/root{path}") for path in self.paths]
        self._before: list[Snapshot] = []

    def copy_whole(self) -> int:
        """The first copy. Returns bytes sent."""
        sent = 0
        for index, root in enumerate(self._roots):
            before = snapshot(root)
            self._before.append(before)
            sent += self._send(index, [], [".", *before.files], complete=False)
        return sent

    def copy_changes(self, pids: list[int]) -> int:
        """With the container frozen. Returns bytes sent. Raises CommandFailed."""
        written, sent = written_through_mappings(pids), 0
        for index, (path, before) in enumerate(zip(self.paths, self._before, strict=True)):
            inside = f"{path.lstrip('/')}/"
            always = [name.removeprefix(inside) for name in written if name.startswith(inside)]
            found = changes(before, snapshot(before.root, attributes=False), always)
            changed = [*found.changed, *(path for path, _ in found.directories)]
            if found.removed or changed:
                sent += self._send(index, found.removed, [".", *sorted(changed)], complete=True)
        return sent

    def _send(self, index: int, removed: Iterable[str], names: list[str], *, complete: bool) -> int:
        sent = 0
        for paths in in_pieces(removed):
            self._agent.stream(protocol.RemoveInTmpfs(index=index, paths=paths))
        for piece in tmpfs.pack(self._roots[index], names, complete=complete):
            self._agent.stream(protocol.TmpfsArchive(index=index, last=False), [piece])
            sent += len(piece)
        self._agent.stream(protocol.TmpfsArchive(index=index, last=True))
        return sent
