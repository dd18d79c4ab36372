"""Tests of migrate/files/tree_door.py, with rsync at both ends and the plug between them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoint.errors import CommandFailed, ReceiverFailed
from checkpoint.files.beneath import TreeRoot
from checkpoint.files.rsync import Running
from migrate.agent.plug_command import IMAGE, ServeRsync
from migrate.files.rsync_tunnel import RsyncTunnel
from migrate.files.tree_door import REFUSED, TreeDoor
from migrate.wire.message import ProtocolError, encode
from tests.rig import until
from transport.errors import IncompleteFrame

DATA = "/data"
LIMIT_S = 30.0
#: What rsync on the source asks for.
WORDS = ("rsync", "--server", "-logDtpre.iLsfxCIvu", ".", "/tree/")


class Remote:
    """A command of the other host, which is this host."""

    def __init__(self, command: str) -> None:
        pipe = subprocess.PIPE
        argv = ["sh", "-c", command]
        self._process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe)

    def read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        return os.read(self._process.stdout.fileno(), size)

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except (OSError, ValueError) as error:  # as a real one when `close` comes meanwhile
            raise IncompleteFrame("closed") from error

    def end_input(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.close()

    def wait(self) -> int:
        return self._process.wait(LIMIT_S)

    def read_errors(self, size: int) -> bytes:
        assert self._process.stderr is not None
        return os.read(self._process.stderr.fileno(), size)

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # another thread may have closed the input
            self._process.communicate(timeout=LIMIT_S)
        self._process.wait(LIMIT_S)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


class Broken:
    """A connection that opens no session."""

    def run(self, command: str) -> Remote:
        raise IncompleteFrame("the link is gone")


class Straight:
    def run(self, command: str) -> Remote:
        return Remote(command)


class Unlimited:
    def take(self, count: int) -> None: ...


@pytest.fixture
def door(tmp_path: Path) -> Iterator[TreeDoor]:
    door = TreeDoor(tmp_path / "run/door")
    yield door
    door.close()


@pytest.fixture
def source(tmp_path: Path) -> Iterator[TreeRoot]:
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    (tmp_path / "source/file").write_text("content")
    with TreeRoot(tmp_path / "source") as root:
        yield root


def passed(source: TreeRoot, tmp_path: Path, key: str | None, link: Any = None) -> Running:
    """Start a whole pass to the tree that the door knows by a key."""
    limit: Any = Unlimited()
    connection: Any = link or Straight()
    tunnel = RsyncTunnel(connection, tmp_path / "run/door", limit)
    return tunnel.rsync(source.fd, key).whole()


@pytest.mark.parametrize("key", [DATA, IMAGE])
def test_a_tree_is_filled(
    door: TreeDoor, source: TreeRoot, tmp_path: Path, key: str | None
) -> None:
    shown = door.show([(key, tmp_path / "target")])
    assert shown == ((DATA,) if key == DATA else ())
    assert passed(source, tmp_path, key).finish(LIMIT_S) > 0
    assert (tmp_path / "target/file").read_text() == "content"
    assert passed(source, tmp_path, key).finish(LIMIT_S) > 0


def test_a_key_keeps_its_first_path(door: TreeDoor, source: TreeRoot, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    door.show([(DATA, tmp_path / "target")])
    assert door.show([(DATA, tmp_path / "other"), ("/b", tmp_path / "other")]) == (DATA, "/b")
    passed(source, tmp_path, DATA).finish(LIMIT_S)
    assert list((tmp_path / "other").iterdir()) == []


def test_a_tree_that_was_not_shown_is_not_filled(
    door: TreeDoor, source: TreeRoot, tmp_path: Path
) -> None:
    door.show([(DATA, tmp_path / "target")])
    with pytest.raises(ReceiverFailed, match="there is no tree '/etc'") as caught:
        passed(source, tmp_path, "/etc").finish(LIMIT_S)
    assert caught.value.status != 0
    assert list((tmp_path / "target").iterdir()) == []


def test_a_tree_whose_directory_is_gone_is_not_filled(
    door: TreeDoor, source: TreeRoot, tmp_path: Path
) -> None:
    door.show([(DATA, tmp_path / "none")])
    with pytest.raises(ReceiverFailed, match="No such file or directory"):
        passed(source, tmp_path, DATA).finish(LIMIT_S)


def test_after_the_last_pass_nothing_can_be_filled(
    door: TreeDoor, source: TreeRoot, tmp_path: Path
) -> None:
    door.show([(DATA, tmp_path / "target")])
    passed(source, tmp_path, DATA).finish(LIMIT_S)
    door.complete()
    with pytest.raises(ProtocolError, match="there is no tree"):
        door.root(DATA)
    with pytest.raises(ReceiverFailed, match="there is no tree"):
        passed(source, tmp_path, DATA).finish(LIMIT_S)


def test_no_rsync_outlives_the_door(door: TreeDoor, source: TreeRoot, tmp_path: Path) -> None:
    """An rsync that waits for its list is killed."""
    door.show([(DATA, tmp_path / "target")])
    limit: Any = Unlimited()
    link: Any = Straight()
    waiting = RsyncTunnel(link, tmp_path / "run/door", limit).rsync(source.fd, DATA).listed()
    waiting.wait_ready(LIMIT_S)
    door.close()
    with pytest.raises((ReceiverFailed, CommandFailed)):
        waiting.finish(LIMIT_S, ["file"])
    assert list((tmp_path / "target").iterdir()) == []


def test_a_pass_without_an_agent_fails(source: TreeRoot, tmp_path: Path) -> None:
    with pytest.raises((ReceiverFailed, CommandFailed), match="No such file or directory"):
        passed(source, tmp_path, DATA).finish(LIMIT_S)


def test_a_pass_over_a_broken_connection_fails(source: TreeRoot, tmp_path: Path) -> None:
    with pytest.raises((ReceiverFailed, CommandFailed), match="the link is gone"):
        passed(source, tmp_path, DATA, Broken()).finish(LIMIT_S)


def refused(path: Path, message: bytes, count: int = 2) -> str:
    """Return the words by which a plug with this message and so many descriptors is refused."""
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as plug:
        until(path.exists, "the door to be there")
        plug.connect(str(path))
        socket.send_fds(plug, [message], [theirs.fileno()] * count)
        status, _, told = plug.recv(1 << 16).decode().partition("\n")
        theirs.close()
        ours.settimeout(LIMIT_S)
        while ours.recv(10):  # until the door has let go of the channel
            pass
    assert int(status) == REFUSED
    return told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rsync", "--server", "--sender", ".", "/tree/"), "rsync asks for"),
        (("sh", "-c", ".", "/tree/"), "rsync asks for"),
        (WORDS[:1], "values to unpack"),
    ],
)
def test_an_rsync_that_asks_for_something_else_is_refused(
    door: TreeDoor, source: TreeRoot, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    door.show([(DATA, tmp_path / "target")])
    message = encode(ServeRsync(tree=DATA, words=words))
    assert said in refused(tmp_path / "run/door", message)


@pytest.mark.parametrize("message", [b"x", b"{}", b'{"type": "ServeRsync", "tree": 7}'])
def test_bytes_that_are_no_message_are_refused(
    door: TreeDoor, source: TreeRoot, tmp_path: Path, message: bytes
) -> None:
    door.show([(DATA, tmp_path / "target")])
    assert refused(tmp_path / "run/door", message)


def test_a_message_without_both_descriptors_is_refused(
    door: TreeDoor, source: TreeRoot, tmp_path: Path
) -> None:
    door.show([(DATA, tmp_path / "target")])
    message = encode(ServeRsync(tree=DATA, words=WORDS))
    assert "values to unpack" in refused(tmp_path / "run/door", message, count=1)
