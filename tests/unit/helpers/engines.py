"""Engines that a test puts on this host, or takes from it."""

from __future__ import annotations

import socket
from pathlib import Path

from checkpoint.engines.docker import api


def podman_that(tmp_path: Path, *lines: str) -> None:
    """Put a podman on PATH that runs these lines of shell, whatever it is asked."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "podman"
    program.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    program.chmod(0o755)


def stopped_docker() -> None:
    """Leave the socket of a dockerd that has ended."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(api.SOCKET)
