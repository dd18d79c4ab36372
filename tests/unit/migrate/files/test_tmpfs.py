"""Tests of migrate/files/tmpfs.py: tmpfs mounts follow their source, by real programs.

The target brings no other mounts into play.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checkpoint.errors import NotMovable
from checkpoint.files.tmpfs import Tmpfs
from checkpoint.host import proc
from migrate.files.tmpfs import TmpfsSync
from migrate.wire import protocol
from migrate.wire.protocol import ProtocolError
from tests.unit.helpers.joined import root_state
from tests.unit.migrate.answering import Target
from tests.unit.migrate.files.hosts import CHANGES, Hosts, settle


def options_of(place: Path) -> str:
    [found] = [mount.options for mount in proc.mounts(os.getpid()) if mount.point == str(place)]
    return found


@pytest.mark.parametrize("how", [["-o", "remount,size=2m"], ["-t", "tmpfs", "-o", "size=1m"]])
def test_a_tmpfs_that_is_mounted_anew_ends_the_migration(hosts: Hosts, how: list[str]) -> None:
    hosts.mount("-t", "tmpfs", "-o", "size=1m", "test", at=hosts.source)
    device = hosts.source.stat().st_dev
    mount = Tmpfs(path=str(hosts.source), options=options_of(hosts.source), device=device)
    target: Any = hosts.target
    with contextlib.closing(TmpfsSync(target, os.getpid(), [mount])) as sync:
        sync.copy_whole()
        if "remount" not in how[1]:
            subprocess.run(["umount", "--lazy", hosts.source], check=True)
        subprocess.run(["mount", *how, "test", hosts.source], check=True)
        with pytest.raises(NotMovable, match="was mounted anew"):
            sync.copy_changes(())


@pytest.mark.parametrize("kind", ["its mode", "its owner", "its time", "a file in it"])
def test_the_root_of_a_tmpfs_follows(hosts: Hosts, kind: str) -> None:
    hosts.mount("-t", "tmpfs", "-o", "size=1m", "test", at=hosts.source)
    (hosts.source / "file").write_text("old")
    device = hosts.source.stat().st_dev
    mount = Tmpfs(path=str(hosts.source), options=options_of(hosts.source), device=device)
    settle(hosts.source)
    target: Any = hosts.target
    with contextlib.closing(TmpfsSync(target, os.getpid(), [mount])) as sync:
        (_, place) = hosts.target.received.tmpfs.external_mounts()[0]
        sync.copy_whole()
        CHANGES[kind](hosts.source)
        sync.arm()
        sync.copy_changes(())
        ours, theirs = root_state(hosts.source), root_state(Path(place))
        assert theirs[:3] == ours[:3]
        # tar gives times in seconds.
        assert Path(place).stat().st_mtime // 1 == hosts.source.stat().st_mtime // 1
        assert os.listdir(place) == os.listdir(hosts.source)


MOUNTS = [
    Tmpfs(path="/dev", options="rw"),
    Tmpfs(path="/run", options="rw"),
    Tmpfs(path="/tmp", options="rw"),  # noqa: S108
]


def test_a_tmpfs_that_was_not_asked_for_is_refused(target: Target) -> None:
    target.will_say(protocol.TmpfsMade(paths=("/dev", "/dev/fd/x/root")))
    with pytest.raises(ProtocolError, match="answered MakeTmpfs by '/dev/fd/x/root'"):
        TmpfsSync(target.agent, 1, MOUNTS)


def test_mounts_that_the_target_could_not_make_are_left_out(target: Target) -> None:
    target.will_say(protocol.TmpfsMade(paths=("/dev", "/tmp")))  # noqa: S108
    mounts = [replace(mount, device=os.stat(mount.path).st_dev) for mount in MOUNTS]
    with contextlib.closing(TmpfsSync(target.agent, os.getpid(), mounts)) as sync:
        assert sync.paths == ("/dev", "/tmp")  # noqa: S108
