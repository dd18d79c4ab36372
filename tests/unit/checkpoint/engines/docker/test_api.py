"""Tests of checkpoint/engines/docker/api.py: a peer on docker's socket answers anything."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkpoint.engines.docker import api
from checkpoint.errors import EngineRefused
from tests.unit.checkpoint.engines.docker.dockerd import Dockerd

JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
Docker = Callable[[bytes], None]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Docker]:
    """Yield the function that has the next request answered by some bytes."""
    monkeypatch.setattr(api, "SOCKET", str(tmp_path / "docker.sock"))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(api.SOCKET)
    listener.listen()
    threads: list[threading.Thread] = []

    def answer(data: bytes) -> None:
        with listener.accept()[0] as peer:
            peer.recv(1 << 16)
            try:
                peer.sendall(data)
            except OSError:
                return  # the client has heard enough

    def answering(data: bytes) -> None:
        threads.append(threading.Thread(target=answer, args=(data,)))
        threads[-1].start()

    with listener:
        yield answering
        for thread in threads:
            thread.join(20)


def whole(body: bytes, head: bytes = JSON) -> bytes:
    """Return an HTTP response with a body and its length."""
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def test_the_json_of_an_answer_is_returned(docker: Docker) -> None:
    docker(whole(b'{"Id": "x"}'))
    assert api.call("GET", "/x") == {"Id": "x"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"HTTP/9.9 x\r\n\r\n",
        b"HTTP/1.1 200 " + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        JSON + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        JSON + b"Content-Length: 100\r\n\r\n{}",
        whole(b"{"),
        whole(b"[" * 100_000),
        whole(b"\xff\xfe"),
        whole(b"9" * 10_000),
        whole(b"[]", JSON.replace(b"200", b"500")),
        whole(b"\xff", b"HTTP/1.1 500 Oops\r\nContent-Type: text/plain\r\n"),
    ],
)
def test_an_answer_that_is_no_json_is_refused(docker: Docker, data: bytes) -> None:
    docker(data)
    with pytest.raises(EngineRefused, match="docker"):
        api.call("GET", "/x")


def test_an_answer_without_end_is_refused(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MOST_BYTES", 1 << 16)
    for head in (JSON, JSON.replace(b"200", b"500")):
        docker(head + b"\r\n" + b" " * (1 << 20))
        with pytest.raises(EngineRefused, match="more than"):
            api.call("GET", "/x")


def test_a_download_that_docker_refuses_is_an_error(docker: Docker) -> None:
    docker(whole(b"no", b"HTTP/1.1 500 Oops\r\n"))
    with pytest.raises(EngineRefused, match="docker: no"), api.download("/x"):
        pass
    docker(b"garbage\r\n")
    with pytest.raises(EngineRefused), api.download("/x"):
        pass


@pytest.mark.usefixtures("no_engines")
def test_a_docker_that_hangs_up_is_an_error() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(api.SOCKET)
        listener.listen()

        def hang_up() -> None:
            peer, _ = listener.accept()
            peer.close()  # the request is unread: ECONNRESET

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(EngineRefused, match="docker"):
            api.call("GET", "/x")
        thread.join(20)


def test_a_docker_that_starts_meanwhile_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "SOCKET", str(tmp_path / "docker.sock"))
    started: list[Dockerd] = []

    def start() -> None:
        started.append(Dockerd(tmp_path))

    threading.Timer(0.3, start).start()
    api.await_answer()
    (docker,) = started
    assert docker.requests("GET") == ["/version"]
    docker.close()


@pytest.fixture
def dockerd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dockerd]:
    """A docker that answers as docker does."""
    monkeypatch.setattr(api, "SOCKET", str(tmp_path / "docker.sock"))
    started = Dockerd(tmp_path)
    yield started
    started.close()


@pytest.mark.parametrize("wait", [api.await_answer, api.await_containerd])
def test_a_containerd_that_starts_meanwhile_is_waited_for(
    dockerd: Dockerd, wait: Callable[[], None]
) -> None:
    dockerd.without_containerd = 2
    wait()
    assert dockerd.requests("GET") == ["/version"] * 3


@pytest.mark.parametrize("wait", [api.await_answer, api.await_containerd])
def test_a_docker_that_tells_of_no_components_is_not_waited_for(
    dockerd: Dockerd, wait: Callable[[], None]
) -> None:
    dockerd.refuses["GET /version"] = "unknown"
    wait()
    assert dockerd.requests("GET") == ["/version"]


@pytest.mark.parametrize("hangs", [False, True])
def test_a_docker_that_does_not_answer_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    monkeypatch.setattr(api, "SOCKET", str(tmp_path / "docker.sock"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        if hangs:
            listener.bind(api.SOCKET)
            listener.listen()
        monkeypatch.setattr(api, "RESTART_S", 0.5)
        began_s = time.monotonic()
        api.await_answer()
        assert 0.5 <= time.monotonic() - began_s < 10
