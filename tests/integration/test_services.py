"""Services as people run them, that move under load."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients import WORKLOADS, ask
from tests.integration.conftest import Hosts
from tests.rig import until
from tests.rig.engine import EngineContainer, load
from tests.services import IMAGE, SERVE, write_services

ADDRESS = "10.77.0.70"
FILE_MIB, CLIENTS = 200, 100


@pytest.fixture
def image(hosts: Hosts, engine: str, tmp_path: Path) -> Iterator[str]:
    """An image on alpha alone: it goes with the first container."""
    write_services(tmp_path / "services.tar")
    load(hosts.alpha, engine, tmp_path / "services.tar")
    yield IMAGE
    for node in (hosts.alpha, hosts.beta):
        node.run([engine, "rmi", "--force", IMAGE], check=False)
        node.run(["sh", "-c", "rm -rf /var/lib/migrate"])


@contextlib.contextmanager
def http_load(hosts: Hosts) -> Iterator[dict[str, Any]]:
    """Filled in when it is over."""
    seen: dict[str, Any] = {}
    argv = [sys.executable, "-B", str(WORKLOADS / "http_load.py"), ADDRESS, "/file", str(CLIENTS)]
    process = hosts.rig.switch.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    try:
        yield seen
        output, _ = process.communicate("\n", timeout=60)
        seen.update(json.loads(output))
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("engine", ["podman"], indirect=True)
def test_nginx_fails_no_request_of_a_hundred_clients(hosts: Hosts, engine: str, image: str) -> None:
    command = ["sh", "-c", SERVE.format(mib=FILE_MIB)]
    nginx = EngineContainer.start(hosts.alpha, engine, "nginx", image, command, address=ADDRESS)
    try:
        until(
            lambda: "200 OK" in ask(hosts.rig.switch, ADDRESS, 80, "HEAD /file HTTP/1.0\r\n\r"),
            "nginx to answer",
        )
        with http_load(hosts) as seen:
            for _ in range(2):
                nginx, _ = hosts.move(nginx, nginx.node)
        assert seen["failed"] == 0, seen
        assert seen["requests"] > 10 * CLIENTS
        assert seen["downloads"] >= 1
        assert seen["digests"] == [nginx.do("exec", "nginx", "sha256sum", "/srv/file").split()[0]]
    finally:
        for node in (hosts.alpha, hosts.beta):
            nginx.on(node).remove()
