"""A client for docker's Engine API (docs.docker.com, /reference/api/engine) on its unix socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode

from checkpoint.errors import EngineRefused, reason
from checkpoint.host.run import find_program

SOCKET = "/var/run/docker.sock"
#: The API of Engine 25 (2024), the first in which each network of a container has its own MAC.
VERSION = "v1.44"
TIMEOUT_S, UPLOAD_TIMEOUT_S = 120.0, 3600.0
ASK_AGAIN_S = 0.1
#: How long a docker that does not answer is waited for, and its containerd. After a crash, systemd
#: starts docker after 2 s, and docker its containerd after 10 s.
RESTART_S = 20.0
NOT_FOUND, FIRST_FAILURE = 404, 400
#: A bound of an answer that is read as a whole.
MOST_BYTES = 64 << 20


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(SOCKET)


def is_here() -> bool:
    """Return whether this host has a docker, running or not."""
    return os.path.exists(SOCKET) or find_program("dockerd") is not None


def call(method: str, path: str, body: Any = None, **query: str) -> Any:
    """Make one request with `body` as JSON, and return the JSON of the answer.

    None if the answer has no JSON, or if the object of a GET or DELETE does not exist (404). Raises
    EngineRefused when docker refuses, with docker's words, does not answer, or answers something
    that is neither HTTP nor JSON.
    """
    data = None if body is None else json.dumps(body)
    headers = {
        "Host": "docker",
        **({"Content-Type": "application/json"} if data is not None else {}),
    }
    with contextlib.closing(_Connection("docker", timeout=TIMEOUT_S)) as connection, _understood():
        connection.request(method, _target(path, query), data, headers)
        response = connection.getresponse()
        text = _whole(response)
    if response.status == NOT_FOUND and method in ("GET", "DELETE"):
        return None
    with _understood():
        found = (
            json.loads(text)
            if text and response.headers.get_content_type() == "application/json"
            else None
        )
    if response.status >= FIRST_FAILURE:
        words = found.get("message") if isinstance(found, Mapping) else None
        raise EngineRefused(f"docker: {words or text.decode(errors='replace')}")
    return found


def series(path: str, **query: str) -> list[Any]:
    """Make a GET request whose answer is a series of JSON values, one a line, and return them.

    Raises EngineRefused.
    """
    with download(path, **query) as answer, _understood():
        return [json.loads(line) for line in answer.read(MOST_BYTES).splitlines()]


@contextlib.contextmanager
def download(path: str, **query: str) -> Iterator[IO[bytes]]:
    """Make a GET request, and yield its answer as a file that is read as the bytes come.

    Raises EngineRefused. Errors of reading the answer are for the caller.
    """
    with contextlib.closing(_Connection("docker", timeout=TIMEOUT_S)) as connection:
        with _understood():
            connection.request("GET", _target(path, query), headers={"Host": "docker"})
            response = connection.getresponse()
            if response.status >= FIRST_FAILURE:
                raise EngineRefused(f"docker: {_whole(response).decode(errors='replace')}")
        yield response


def upload(path: str, archive: Path) -> str:
    """Send a tar archive in a POST request, and return the answer's text. Raises EngineRefused."""
    headers = {
        "Host": "docker",
        "Content-Type": "application/x-tar",
        "Content-Length": str(archive.stat().st_size),
    }
    connected = contextlib.closing(_Connection("docker", timeout=UPLOAD_TIMEOUT_S))
    with connected as connection, archive.open("rb") as body, _understood():
        connection.request("POST", _target(path, {}), body, headers)
        response = connection.getresponse()
        text = _whole(response).decode(errors="replace")
    if response.status >= FIRST_FAILURE or '"error"' in text:
        raise EngineRefused(f"docker: {text}")
    return text


def await_answer() -> None:
    """Wait until docker can start containers, for example after a crash; RESTART_S at most."""
    until_s = time.monotonic() + RESTART_S
    while (left_s := until_s - time.monotonic()) > 0:
        with contextlib.suppress(EngineRefused):
            if _has_containerd(left_s):
                return
        time.sleep(ASK_AGAIN_S)


def await_containerd() -> None:
    """Wait until docker reaches its containerd, which is started again ten seconds after a crash.

    Without it docker does not notice that a container has ended, and leaves the container's network
    behind. The wait is RESTART_S at most. Raises EngineRefused if docker does not answer.
    """
    until_s = time.monotonic() + RESTART_S
    while not _has_containerd(TIMEOUT_S) and time.monotonic() < until_s:
        time.sleep(ASK_AGAIN_S)


def _has_containerd(timeout_s: float) -> bool:
    """Return whether docker reaches its containerd. Raises EngineRefused.

    docker's version leaves out a component that does not tell its own.
    """
    connected = contextlib.closing(_Connection("docker", timeout=timeout_s))
    with connected as connection, _understood():
        connection.request("GET", _target("/version", {}), headers={"Host": "docker"})
        answer = json.loads(_whole(connection.getresponse()))
        parts = answer.get("Components") if isinstance(answer, Mapping) else None
        names = [part.get("Name") for part in parts or () if isinstance(part, Mapping)]
    return not names or "containerd" in names


def _target(path: str, query: Mapping[str, str]) -> str:
    return f"/{VERSION}{quote(path)}{'?' + urlencode(query) if query else ''}"


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    """Raise EngineRefused for no answer, and for one that is neither HTTP nor JSON."""
    try:
        yield
    except OSError as error:
        raise EngineRefused(
            f"docker does not answer on {SOCKET}: {error.strerror or error}"
        ) from error
    except (http.client.HTTPException, ValueError, RecursionError) as error:
        raise EngineRefused(f"docker's answer cannot be read: {reason(error)}") from error


def _whole(response: http.client.HTTPResponse) -> bytes:
    text = response.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise EngineRefused(f"docker's answer has more than {MOST_BYTES} bytes")
    if response.length:
        raise EngineRefused(f"docker's answer ended {response.length} bytes before its end")
    return text
