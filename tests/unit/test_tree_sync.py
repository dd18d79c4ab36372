"""migrate/files/trees.py and migrate/files/tmpfs.py with both ends on this host, by real programs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines.base import Tree
from checkpoint.errors import NotMovable, ReceiverFailed
from checkpoint.files.changes import TICK_NS
from checkpoint.files.rsync import PARTIAL, Ending, Rsync
from checkpoint.files.tmpfs import Tmpfs
from checkpoint.host import proc, ram_directory
from migrate.agent.received import Received
from migrate.files.tmpfs import TmpfsSync
from migrate.files.tree_door import TreeDoor
from migrate.files.trees import TRIES, TreeSync
from migrate.wire import message, protocol
from tests.unit.joined import Joined, change_root, root_state

VOLUME = "/data"


class Target:
    """The agent's end of the trees and tmpfs mounts, in this process."""

    def __init__(self, run: Path, tidy: contextlib.ExitStack) -> None:
        self.trees = TreeDoor(run / "trees")
        tidy.callback(self.trees.close)
        asked = protocol.Prepare(shared=False, network=None, room_bytes=1 << 20, page_channels=1)
        self.received = Received("0123456789ab", asked, self.trees, tidy, print, batch_s=1.0)

    def request_all(self, asked: Any, parts: Any = ()) -> list[Any]:
        """Hand over a command and its answers as they come over the wire."""
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
        #: How many passes from now on end with PARTIAL.
        self.partial = 0

    def rsync(self, tree: int, key: str | None) -> Rsync:
        """Serve as the RsyncTunnel."""
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


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    monkeypatch.setattr(ram_directory, "RUN", tmp_path / "run")
    (tmp_path / "run").mkdir()
    with contextlib.ExitStack() as tidy:
        yield Hosts(tmp_path, tidy)


def settle(source: Path) -> None:
    """Until time stamps tell of changes from now on. (rsync leaves times that differ by less than a second.)"""
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


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_root_of_a_tree_follows(hosts: Hosts, change: Change, frozen: bool) -> None:
    (hosts.source / "file").write_text("old")
    (hosts.source / "large").write_bytes(os.urandom(1 << 20))
    settle(hosts.source)
    sync = hosts.sync()
    sync.copy_whole()
    assert root_state(hosts.place) == root_state(hosts.source)
    change(hosts.source)
    sync.arm()
    sent = sync.copy_changes(()) if frozen else sync.catch_up()
    assert root_state(hosts.place) == root_state(hosts.source)
    assert sorted(os.listdir(hosts.place)) == sorted(os.listdir(hosts.source))
    assert sent < 1 << 20, "what did not change was sent again"


@pytest.fixture
def layer(hosts: Hosts, tmp_path: Path) -> Path:
    """The upper directory of an overlay that is the source."""
    layers = tmp_path / "layers"
    layers.mkdir()
    hosts.mount("-t", "tmpfs", "test", at=layers)
    for name in ("lower", "upper", "work"):
        (layers / name).mkdir()
    for root in (layers / "lower", hosts.place):
        (root / "file").write_text("of the image")
        root.chmod(0o755)
    where = f"lowerdir={layers / 'lower'},upperdir={layers / 'upper'},workdir={layers / 'work'}"
    hosts.mount("-t", "overlay", "-o", where, "test", at=hosts.source)
    return layers / "upper"


@pytest.mark.parametrize("overlay", [False, True])
@pytest.mark.parametrize("passes", [1, TRIES - 1, TRIES])
def test_a_first_pass_that_is_partial_is_tried_again(
    hosts: Hosts, layer: Path, overlay: bool, passes: int
) -> None:
    (hosts.source / "new").write_text("of the container")
    (hosts.source / "file").unlink()
    sync = hosts.sync(layer if overlay else None)
    hosts.partial = passes
    if passes == TRIES:
        with pytest.raises(ReceiverFailed):
            sync.copy_whole()
    else:
        sync.copy_whole()
        assert (hosts.place / "new").read_text() == "of the container"
        assert os.listdir(hosts.place) == ["new"]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_root_of_an_overlay_follows(hosts: Hosts, layer: Path, change: Change) -> None:
    hosts.source.chmod(0o700)
    settle(hosts.source)
    sync = hosts.sync(layer)
    sync.copy_whole()
    assert root_state(hosts.place) == root_state(hosts.source)
    change(hosts.source)
    sync.arm()
    sync.copy_changes(())
    assert root_state(hosts.place) == root_state(hosts.source)
    assert os.listdir(hosts.place) == os.listdir(hosts.source)


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
