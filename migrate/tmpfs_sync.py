"""Keep the tmpfs mounts that wait on the target equal to the container's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from checkpoint.rootfs import tmpfs
from checkpoint.rootfs.changes import Snapshot, changes, snapshot, written_through_mappings
from checkpoint.rootfs.tmpfs import Tmpfs
from migrate import protocol
from migrate.agent.client import AgentClient


class TmpfsSync:
    """Copies them whole at first, and what changed since, once the container stands still."""

    def __init__(self, agent: AgentClient, pid: int, mounts: list[Tmpfs]) -> None:
        self._agent, self._mounts = agent, mounts
        self._roots = [Path(f"/proc/{pid}/root{mount.path}") for mount in mounts]
        self._before: list[Snapshot] = []

    def make(self) -> int:
        """Make and fill them there. Returns bytes sent. Raises AgentFailed or AgentGone."""
        wanted = [[mount.path, mount.options] for mount in self._mounts]
        self._agent.request(protocol.MakeTmpfs(mounts=wanted), protocol.Done)
        sent = 0
        for index, root in enumerate(self._roots):
            before = snapshot(root)
            self._before.append(before)
            sent += self._send(index, [], [".", *before.files], complete=False)
        return sent

    def copy_changes(self, pids: list[int]) -> int:
        """With the container frozen. Returns bytes sent. Raises CommandFailed."""
        written, sent = written_through_mappings(pids), 0
        for index, (mount, before) in enumerate(zip(self._mounts, self._before, strict=True)):
            inside = f"{mount.path.lstrip('/')}/"
            always = [path.removeprefix(inside) for path in written if path.startswith(inside)]
            found = changes(before, snapshot(before.root, attributes=False), always)
            changed = [*found.changed, *(path for path, _ in found.directories)]
            if found.removed or changed:
                sent += self._send(index, found.removed, [".", *sorted(changed)], complete=True)
        return sent

    def _send(self, index: int, removed: Iterable[str], names: list[str], *, complete: bool) -> int:
        sent = 0
        self._agent.stream(protocol.RemoveInTmpfs(index=index, paths=list(removed)))
        for piece in tmpfs.pack(self._roots[index], names, complete=complete):
            self._agent.stream(protocol.TmpfsArchive(index=index, last=False), [piece])
            sent += len(piece)
        self._agent.stream(protocol.TmpfsArchive(index=index, last=True))
        return sent
