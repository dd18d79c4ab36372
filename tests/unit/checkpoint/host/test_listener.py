"""Tests of checkpoint/host/listener.py: whether a process listens at a socket."""

from __future__ import annotations

import socket
from pathlib import Path

from checkpoint.host.listener import has_listener


def test_a_socket_has_a_listener_as_long_as_it_listens(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    assert not has_listener(path), "it was closed just now"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as slow:
        slow.bind(str(path))
        assert not has_listener(path), "it does not listen yet"
        slow.listen(0)
        assert [has_listener(path) for _ in range(4)] == [True] * 4, (
            "it takes no connection, and nobody waits for that"
        )
