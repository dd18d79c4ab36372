"""Tests of checkpoint/criu/interposer.py: peers that do not speak CRIU's RPC are hung up on.

Nothing stays open. The conversations of peers that do are in tests/contract.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.criu import rpc
from checkpoint.criu.interposer import MAX_FDS, MAX_MESSAGE, Conversation, Interposer, receive
from checkpoint.errors import ConversationLost

LIMIT_S = 20.0


class Role:
    """A role that lets everything pass."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def fds_for_criu(self, kind: str) -> dict[int, int]:
        return {}

    def begun(self, conversation: Conversation, kind: str) -> None:
        self.kinds.append(kind)

    def request(self, kind: str, message: rpc.Message) -> bool:
        return True

    def notify(self, script: str, pid: int) -> bool:
        return True

    def went_on(self) -> None: ...

    def ended(self, conversation: Conversation, kind: str) -> None:
        self.kinds.append("end")


def open_descriptors() -> set[tuple[str, str]]:
    """Return (number, what it is open on) of each descriptor of this process."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
    return found


@pytest.fixture
def role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Role]:
    """Yield the role of an interposer at `tmp_path`, of which no thread may fail."""
    failures: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    taken, before = Role(), open_descriptors()
    with Interposer(tmp_path / "rpc.sock", taken):
        yield taken
    deadline = time.monotonic() + LIMIT_S
    while left := open_descriptors() - before:
        assert time.monotonic() < deadline, left
        time.sleep(0.002)
    assert not failures, failures


def shim(path: Path) -> socket.socket:
    """Return a connection to the interposer, as the shim makes it."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer.settimeout(LIMIT_S)
    peer.connect(str(path / "rpc.sock"))
    return peer


def request(kind: str = "VERSION") -> bytes:
    return bytes(rpc.request(kind).SerializeToString())


@pytest.mark.parametrize(
    "first",
    [
        b"x",
        b"\x08",
        b"\x08\x7f",
        b"\x08\xff\xff\xff\xff\x0f",
        b"\xff" * 100,
        b"\x12" + b"\xff" * 9 + b"\x01",
    ],
)
def test_a_first_message_that_is_no_request_ends_the_conversation(
    role: Role, tmp_path: Path, first: bytes
) -> None:
    runtime, handed = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with shim(tmp_path) as peer, runtime, handed:
        socket.send_fds(peer, [b"swrk"], [handed.fileno()])
        runtime.send(first)
        assert peer.recv(64) == b""
    assert role.kinds == []


def test_a_descriptor_that_is_no_socket_ends_the_conversation(role: Role, tmp_path: Path) -> None:
    for path in ("/dev/null", "/proc/self"):
        fd = os.open(path, os.O_RDONLY)
        with shim(tmp_path) as peer:
            socket.send_fds(peer, [b"swrk"], [fd])
            assert peer.recv(64) == b""
        os.close(fd)


def test_no_descriptor_or_too_many_end_the_conversation(role: Role, tmp_path: Path) -> None:
    with shim(tmp_path) as peer:
        peer.send(b"swrk")
        assert peer.recv(64) == b""
    with shim(tmp_path) as peer:
        socket.send_fds(peer, [b"swrk"], [0, 1, 2, 0, 1, 2])
        assert peer.recv(64) == b""


@pytest.mark.parametrize("descriptor", [None, -1])
def test_a_role_without_its_descriptor_ends_the_conversation(
    role: Role, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, descriptor: int | None
) -> None:
    """The role of one dump has no descriptor left for a second dump."""

    def fds_for_criu(kind: str) -> dict[int, int]:
        if descriptor is None:
            raise OSError(errno.EMFILE, "Too many open files")
        return {200: descriptor}

    monkeypatch.setattr(role, "fds_for_criu", fds_for_criu)
    runtime, handed = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with shim(tmp_path) as peer, runtime, handed:
        socket.send_fds(peer, [b"swrk"], [handed.fileno()])
        runtime.send(request())
        assert peer.recv(64) == b""
    assert role.kinds == []


@pytest.mark.parametrize("when", ["first", "later"])
def test_a_message_without_some_of_its_descriptors_is_not_passed_on(
    role: Role, tmp_path: Path, when: str
) -> None:
    runtime, handed = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    runtime.settimeout(LIMIT_S)
    with shim(tmp_path) as peer, runtime, handed, contextlib.ExitStack() as stack:
        socket.send_fds(peer, [b"swrk"], [handed.fileno()])
        handed.close()
        if when == "later":
            runtime.send(request())
            _, (criu_fd,), _, _ = socket.recv_fds(peer, 64, 1)
            criu = stack.enter_context(socket.socket(fileno=criu_fd))
            criu.settimeout(LIMIT_S)
            assert criu.recv(MAX_MESSAGE) == request()
        socket.send_fds(runtime, [request()], [0] * (4 * MAX_FDS))
        assert runtime.recv(64) == b""
        if when == "later":
            assert criu.recv(MAX_MESSAGE) == b""
    assert role.kinds == (["VERSION", "end"] if when == "later" else [])


def test_a_message_that_was_cut_off_is_refused() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        socket.send_fds(far, [request() + bytes(64)], [0, 1])
        before = open_descriptors()
        with pytest.raises(ConversationLost):
            receive(near, len(request()), MAX_FDS)
        assert open_descriptors() == before
        far.send(request())
        assert receive(near, len(request()), MAX_FDS) == (request(), [])


def test_an_answer_that_is_no_message_ends_the_conversation(role: Role, tmp_path: Path) -> None:
    runtime, handed = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    runtime.settimeout(LIMIT_S)
    with shim(tmp_path) as peer, runtime, handed:
        socket.send_fds(peer, [b"swrk"], [handed.fileno()])
        handed.close()
        runtime.send(request())
        _, (criu_fd,), _, _ = socket.recv_fds(peer, 64, 1)
        with socket.socket(fileno=criu_fd) as criu:
            assert criu.recv(MAX_MESSAGE) == request()
            socket.send_fds(criu, [b"\x08\x7f\x10\x01"], [0, 1])
            assert runtime.recv(64) == b""


def test_a_conversation_that_is_closed_is_over_although_somebody_has_copies() -> None:
    runtime, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    criu, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    copies = [os.dup(ours.fileno()), os.dup(theirs.fileno())]
    conversation = Conversation(
        runtime=ours,
        criu=theirs,
        runtime_pid=1,
        criu_pid=os.getpid(),
        criu_pidfd=os.pidfd_open(os.getpid()),
    )
    criu.close()  # CRIU has ended
    conversation.close()
    runtime.settimeout(LIMIT_S)
    assert runtime.recv(1) == b""
    runtime.close()
    for fd in copies:
        os.close(fd)


def test_a_conversation_that_is_over_signals_nobody() -> None:
    """Its descriptor of CRIU may be one of another process by then."""
    runtime, criu = (socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2))
    conversation = Conversation(
        runtime=runtime[0],
        criu=criu[0],
        runtime_pid=1,
        criu_pid=os.getpid(),
        criu_pidfd=os.pidfd_open(os.getpid()),
    )
    conversation.close()
    with subprocess.Popen(["sleep", str(LIMIT_S)]) as other:
        taken = [os.pidfd_open(other.pid) for _ in range(conversation.criu_pidfd)]
        assert conversation.criu_pidfd in taken
        conversation.kill_criu()
        conversation.wake()
        assert not conversation.criu_lives()
        for fd in taken:
            os.close(fd)
        assert other.poll() is None
        other.kill()
    for peer in (runtime[1], criu[1]):
        peer.close()
