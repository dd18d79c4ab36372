"""Tests of transport/keepalive.py: a silent peer is given up on, and any other is not."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from transport import keepalive
from transport.keepalive import HeardSocket, Keepalive

INTERVAL_S = 0.2


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepalive, "INTERVAL_S", INTERVAL_S)
    monkeypatch.setattr(keepalive, "LOOK_S", INTERVAL_S / 10)


@pytest.fixture
def ends() -> Iterator[tuple[HeardSocket, socket.socket]]:
    one, other = socket.socketpair()
    with HeardSocket(one) as ours, other:
        yield ours, other


def test_a_silent_peer_is_given_up_on(ends: tuple[HeardSocket, socket.socket]) -> None:
    ours, _ = ends
    asked: list[float] = []
    watch = Keepalive(ours, lambda: asked.append(time.monotonic()))
    begun = time.monotonic()
    assert ours.recv(1) == b"", "whoever waits for it is told"
    assert time.monotonic() - begun + INTERVAL_S / 10 >= 3 * INTERVAL_S
    assert watch.silent_s is not None
    assert 1 <= len(asked) <= 3


def test_a_question_that_never_gets_through_is_given_up_on(
    ends: tuple[HeardSocket, socket.socket],
) -> None:
    ours, _ = ends
    never = threading.Event()
    watch = Keepalive(ours, never.wait)
    assert ours.recv(1) == b""
    assert watch.silent_s is not None
    never.set()


@pytest.mark.parametrize("answers", [True, False], ids=["answers", "sends something else"])
def test_a_peer_that_says_something_is_kept(
    ends: tuple[HeardSocket, socket.socket], answers: bool
) -> None:
    ours, other = ends
    watch = Keepalive(ours, (lambda: other.send(b"+")) if answers else (lambda: None))
    until = time.monotonic() + 8 * INTERVAL_S
    ours.settimeout(INTERVAL_S / 4)
    while time.monotonic() < until:
        if not answers:
            other.send(b"data")
        with contextlib.suppress(TimeoutError):
            assert ours.recv(16) != b""
    assert watch.silent_s is None
    watch.close()


def test_a_broken_connection_is_no_failure_of_the_keepalive(
    ends: tuple[HeardSocket, socket.socket],
) -> None:
    ours, _ = ends

    def broken() -> None:
        raise EOFError

    Keepalive(ours, broken)
    assert ours.recv(1) == b""


def test_a_closed_keepalive_ends_no_connection(ends: tuple[HeardSocket, socket.socket]) -> None:
    ours, other = ends
    watch = Keepalive(ours, lambda: None)
    watch.close()
    time.sleep(5 * INTERVAL_S)
    other.send(b"late")
    assert ours.recv(4) == b"late"
    assert watch.silent_s is None
