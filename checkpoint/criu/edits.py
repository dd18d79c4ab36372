"""The changes that the tool makes to a runtime's request to CRIU."""

from __future__ import annotations

from dataclasses import dataclass

from checkpoint.criu import rpc

LOG_LEVEL_WARNING = 2


@dataclass(frozen=True, kw_only=True)
class Edits:
    """The changes that the tool makes to a runtime's request to CRIU.

    `nftables`: CRIU locks the network with nft; its default runs iptables-restore and
    ip6tables-restore. This and `one_cgroup` are the same on both hosts.
    `one_cgroup`: the container has only one cgroup in each hierarchy. CRIU is moved into these
    before the restore and leaves cgroups alone: to move tasks waits for RCU once per v1 hierarchy.
    `external_mounts`: (mount point in the container, source of the bind mount) of mounts that CRIU
    neither makes nor fills. For a dump both are the mount point.
    `network_namespace`: for a dump, the path of the container's network namespace if CRIU must not
    dump it, because the engine or the tool makes one on the target. It becomes external even if the
    runtime's request does not say so.
    """

    nftables: bool
    one_cgroup: bool
    external_mounts: tuple[tuple[str, str], ...] = ()
    network_namespace: str | None = None

    def apply(self, options: rpc.Message) -> None:
        options.log_level = LOG_LEVEL_WARNING
        # crun requests no notifications for a dump, and ignores those that come.
        options.notify_scripts = True
        if self.nftables:
            options.network_lock = rpc.network_lock_nftables()
        if self.one_cgroup:
            options.manage_cgroups = False
            options.manage_cgroups_mode = rpc.cgroups_ignore()
        for mount_point, bound in self.external_mounts:
            options.ext_mnt.add(key=mount_point, val=bound)
