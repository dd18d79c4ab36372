"""Tests of migrate/files/rsync_tunnel.py: each channel ends, whatever the other host does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoint.errors import ReceiverFailed
from checkpoint.files.beneath import TreeRoot
from migrate.agent.plug_command import PLUGGED
from migrate.files.rsync_tunnel import RsyncTunnel
from transport.errors import StreamError
from transport.throttle import RateLimit


class Remote:
    """A channel whose other end answers `plugged`, and never reads its input."""

    def __init__(self, plugged: Callable[[], bytes]) -> None:
        self._answers: list[Callable[[], bytes]] = [plugged, bytes]
        self._closed = threading.Event()

    def read(self, size: int) -> bytes:
        return self._answers.pop(0)()

    def write(self, data: bytes) -> None:
        assert self._closed.wait(30), "nobody closes the channel"
        raise StreamError("closed")

    def end_input(self) -> None:
        pass

    def wait(self) -> int:
        return 1

    def read_errors(self, size: int) -> bytes:
        assert not self._closed.is_set()
        return b"no such tree"

    def close(self) -> None:
        self._closed.set()

    @property
    def closed(self) -> bool:
        return self._closed.is_set()


def broken() -> bytes:
    raise StreamError("the link broke")


def wrong() -> bytes:
    raise RuntimeError("a defect")


@pytest.mark.parametrize(
    ("plugged", "told"),
    [
        (lambda: PLUGGED, "no such tree"),
        (lambda: b"", "no such tree"),
        (broken, "the link broke"),
        (wrong, "a defect"),
    ],
)
def test_each_channel_is_closed_and_its_failure_told(
    tmp_path: Path, plugged: Callable[[], bytes], told: str
) -> None:
    remote = Remote(plugged)

    class Connected:
        def run(self, command: str) -> Remote:
            return remote

    connection: Any = Connected()
    bridge = RsyncTunnel(connection, Path("/run/trees"), RateLimit(None))
    with TreeRoot(tmp_path) as root, pytest.raises(ReceiverFailed, match=told):
        bridge.rsync(root.fd, None).whole().finish(60)
    assert remote.closed
