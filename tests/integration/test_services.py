"""Services as people run them, which move under load."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig import EngineContainer, Workload
from tests.rig.clients import program_command
from tests.rig.engine import load
from tests.rig.hosts import Hosts
from tests.rig.services import IMAGE, SERVE, write_services
from tests.rig.workload import ADDRESS

FILE_MIB, CLIENTS = 200, 100
#: A question that has nginx open the file, and not send it.
HEAD = "HEAD /file HTTP/1.0\r\n\r"


@pytest.fixture
def image(hosts: Hosts, engine: str, tmp_path: Path) -> Iterator[str]:
    """An image that alpha alone has: it goes to beta with the first container."""
    write_services(tmp_path / "services.tar")
    load(hosts.alpha, engine, tmp_path / "services.tar")
    yield IMAGE
    for node in hosts.both:
        node.run([engine, "rmi", "--force", IMAGE], check=False)
        node.run(["sh", "-c", "rm -rf /var/lib/migrate"])


@contextlib.contextmanager
def http_load(hosts: Hosts) -> Iterator[dict[str, Any]]:
    """Have a hundred clients ask all the time; what they saw is filled in at the end."""
    seen: dict[str, Any] = {}
    argv = [*program_command("http_load.py"), ADDRESS, "/file", str(CLIENTS)]
    process = hosts.switch.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    try:
        yield seen
        output, _ = process.communicate("\n", timeout=60)
        seen.update(json.loads(output))
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "engine", [pytest.param("podman", marks=pytest.mark.thorough), "docker"], indirect=True
)
def test_nginx_fails_no_request_of_a_hundred_clients(hosts: Hosts, engine: str, image: str) -> None:
    argv = ["sh", "-c", SERVE.format(mib=FILE_MIB)]
    container = EngineContainer.start(hosts.alpha, engine, "nginx", image, argv, address=ADDRESS)
    try:
        nginx = Workload(container=container, port=80, question=HEAD, answer="200 OK").ready()
        with http_load(hosts) as seen:
            for _ in range(2):
                nginx, _ = hosts.move(nginx)
        assert seen["failed"] == 0, seen
        assert seen["requests"] > 10 * CLIENTS
        assert seen["downloads"] >= 1
        digest = nginx.container.do("exec", "nginx", "sha256sum", "/srv/file").split()[0]
        assert seen["digests"] == [digest]
    finally:
        for node in hosts.both:
            container.on(node).remove()
