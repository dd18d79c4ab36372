"""Tests of tests/workloads/listener.py: it answers over TCP and over a unix socket."""

import contextlib
import socket
from pathlib import Path

from tests.unit.tests.workloads.running import LIMIT_S, Asker, serving


def test_listener_counts_pings_over_tcp_and_unix(tmp_path: Path) -> None:
    path = tmp_path / "listener.sock"
    with serving("listener.py", "--unix", str(path)) as asker:
        assert asker.ask("PING a") == "PONG a 1"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(LIMIT_S)
            sock.connect(str(path))
            with contextlib.closing(Asker(sock)) as other:
                assert other.ask("PING b c") == "PONG b c 2"
        assert asker.ask("PING d") == "PONG d 3"
        assert asker.ask("HELLO").startswith("ERROR")
