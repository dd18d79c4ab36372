"""Agents that answer the wrapper, and what the wrapper is told."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from checkpoint.host.listener import Listener

Program = Callable[..., subprocess.CompletedProcess[bytes]]

#: The exit status of programs/runc.
STATUS = 7

PROGRAMS = Path(__file__).parents[1] / "programs"

LIMIT_S = 20.0

#: The options that containerd's shim gives.
GLOBAL = [
    "--root",
    "/run/docker/runtime-migrate/moby",
    "--log",
    "/run/log.json",
    "--log-format",
    "json",
]


class Agent:
    """An agent that has one order for every process that connects, and keeps what it is told."""

    def __init__(self, path: Path, order: bytes) -> None:
        self.path, self._order = path, order
        self.told: list[bytes] = []
        self.over = threading.Event()
        self._listener = Listener(path, self._serve, "agent")

    def _serve(self, peer: socket.socket) -> None:
        with peer:
            self.told.append(peer.recv(1000))
            if self._order:
                peer.send(self._order)
                while more := peer.recv(1000):
                    self.told.append(more)
        self.over.set()

    def close(self) -> None:
        self._listener.close()


def write_config(bundle: Path, namespaces: list[dict[str, str]]) -> None:
    config = {"linux": {"cgroupsPath": "", "namespaces": namespaces}}
    (bundle / "config.json").write_text(json.dumps(config))
