"""What a hostile target may answer: wire/answers.py, agent/client.py, and where its answers are used."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint.engines.base import ROOTFS, Container, Engine, Tree
from checkpoint.engines.podman import store
from checkpoint.errors import DataInvalid
from checkpoint.files.changes import FileState
from checkpoint.files.tmpfs import Tmpfs
from migrate import logs
from migrate.agent import client
from migrate.agent.client import MOST_LOGGED, AgentClient
from migrate.errors import AgentFailed
from migrate.files.tmpfs import TmpfsSync
from migrate.phases import preflight
from migrate.wire import protocol
from migrate.wire.answers import check_asked, check_known
from migrate.wire.protocol import Answer, Command, ProtocolError, Request, decode, encode
from migrate.wire.values import OwnAddress, Station
from transport.connection import Connection
from transport.framing import Descriptors, FrameStream

DIGEST = "sha256:" + "a" * 64


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_only_what_was_asked_in_its_order(answered: list[str], asked: list[str]) -> None:
    at = 0
    for each in asked:
        at += at < len(answered) and answered[at] == each
    if at == len(answered):
        check_asked("Question", answered, asked)
    else:
        with pytest.raises(ProtocolError, match="answered Question by"):
            check_asked("Question", answered, asked)


def test_only_what_is_known() -> None:
    check_known("Question", ["a", "a"], {"a", "b"})
    with pytest.raises(ProtocolError, match="'c'"):
        check_known("Question", ["a", "c"], {"a", "b"})


class Process:
    """An agent's process, whose answers a test writes."""

    def __init__(self, end: socket.socket) -> None:
        self._stream = Descriptors(end.fileno(), end.fileno())
        self._end = end

    def read_into(self, view: memoryview) -> int:
        return self._stream.read_into(view)

    def write(self, data: bytes | memoryview) -> None:
        if bytes(data[4:6]) != b"PK":  # the agent itself
            self._stream.write(data)

    def read_errors(self, size: int) -> bytes:
        return b""

    def patience(self, seconds: float | None) -> None:
        self._end.settimeout(seconds)

    def close(self) -> None:
        self._end.shutdown(socket.SHUT_RDWR)

    def ended(self) -> bool:
        return True

    def wait(self) -> int:
        return 0


class Target:
    """A target that answers as it likes: `says` are its answers, in turn to each question."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._theirs, self._ours = theirs, ours
        self._frames = FrameStream(Descriptors(theirs.fileno(), theirs.fileno()))
        self.notes: list[str] = []
        process = Process(ours)

        class Connected:
            def run(self, command: str) -> Process:
                return process

        self.agent = AgentClient(cast(Connection, Connected()), self.notes.append)
        self.asked: list[Command] = []
        self._thread: threading.Thread | None = None

    def will_say(self, *answers: Answer | bytes) -> None:
        def answer() -> None:
            self.asked.append(decode(*self._frames.receive(), Command))
            for each in answers:
                self._frames.send(each if isinstance(each, bytes) else encode(each))

        self._thread = threading.Thread(target=answer)
        self._thread.start()

    def close(self) -> None:
        self._ours.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join(10)
        self._theirs.close()
        self._ours.close()


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target()
    yield target
    target.close()


def test_an_answer_to_another_question(target: Target) -> None:
    target.will_say(protocol.TmpfsMade(paths=()))
    with pytest.raises(ProtocolError, match="answered Ping by TmpfsMade"):
        target.agent.request(protocol.Ping())


@pytest.mark.parametrize(
    "said", [b"{}", b'{"type":"Clock"}', b'{"type":"Clock","monotonic_ns":-1}', b'{"type":"Ping"}']
)
def test_an_answer_that_is_none(target: Target, said: bytes) -> None:
    target.will_say(said)
    with pytest.raises(ProtocolError):
        target.agent.request(protocol.Ping())


def test_lines_without_end_are_not_listened_to(target: Target) -> None:
    target.will_say(*[protocol.Log(text=f"line {n}") for n in range(MOST_LOGGED + 1)])
    with pytest.raises(ProtocolError, match="and no answer"):
        target.agent.request(protocol.Ping())
    assert len(target.notes) == MOST_LOGGED


TRACE = protocol.Trace(at_ms=86_400_123, thread="pager", logger="checkpoint.memory", text="filled")


def test_records_of_the_targets_log_are_entered_with_its_name_and_its_time(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    target.agent.traces_of = "beta"
    target.will_say(TRACE, protocol.Clock(monotonic_ns=1))
    with caplog.at_level(logging.DEBUG, logger="migrate"):
        target.agent.request(protocol.Ping())
    line = logs.formatter().format(caplog.records[0])
    assert re.fullmatch(r"\d\d:00:00\.123 beta pager checkpoint\.memory: filled", line)
    assert target.notes == []


def test_records_that_were_not_asked_for_are_no_answer(target: Target) -> None:
    target.will_say(TRACE, protocol.Clock(monotonic_ns=1))
    with pytest.raises(ProtocolError, match="not asked for"):
        target.agent.request(protocol.Ping())


def test_records_without_end_are_not_listened_to(target: Target) -> None:
    target.agent.traces_of = "beta"
    target.will_say(*[TRACE] * (MOST_LOGGED + 1))
    with pytest.raises(ProtocolError, match="and no answer"):
        target.agent.request(protocol.Ping())


def test_what_it_says_is_harmless_to_a_terminal(target: Target) -> None:
    evil = "\x1b]0;evil\x07"
    target.will_say(
        protocol.Log(text=evil), protocol.Failed(kind="OSError", text=evil, detail=(evil,))
    )
    with pytest.raises(AgentFailed) as caught:
        target.agent.request(protocol.Ping())
    assert target.notes == [str(caught.value)] == list(caught.value.detail) == [r"\x1b]0;evil\x07"]


def test_a_long_answer_comes_in_pieces(target: Target) -> None:
    pieces = [
        protocol.TreeListed(files=(FileState(f"file-{n}", n, n, n),), more=n < 9) for n in range(10)
    ]
    target.will_say(protocol.Log(text="a line"), *pieces)
    assert list(target.agent.request_all(protocol.ListTree(tree="/", paths=None))) == pieces


def test_an_answer_that_was_not_waited_for_is_passed_over_in_all_its_pieces(target: Target) -> None:
    """A signal ended the waiting."""
    target.will_say(protocol.TreeListed(files=(FileState("a", 1, 1, 1),), more=True))
    waiting = target.agent.request_all(protocol.ListTree(tree="/", paths=None))
    next(waiting)
    waiting.close()
    assert target._thread is not None
    target._thread.join()
    target.will_say(
        protocol.TreeListed(files=(FileState("b", 1, 1, 1),), more=True),
        protocol.TreeListed(files=(), more=False),
        DONE,
    )
    assert target.agent.request(protocol.Abort()) == DONE


def has_said_no_message(target: Target, asked: Request[Any]) -> None:
    """The target has answered by a frame that may have been a line of its log as well."""
    target.will_say(b"no JSON")
    with pytest.raises(ProtocolError):
        target.agent.request(asked)
    assert target._thread is not None
    target._thread.join()


def test_an_answer_that_comes_after_a_frame_that_is_none_is_not_the_next_one(
    target: Target,
) -> None:
    has_said_no_message(target, protocol.Ping())
    target.will_say(CLOCK, DONE)
    assert target.agent.request(protocol.Abort()) == DONE
    target.will_say(CLOCK)
    assert target.agent.request(protocol.Ping()) == CLOCK


def test_a_frame_that_is_none_may_have_been_the_answer(target: Target) -> None:
    has_said_no_message(target, protocol.Ping())
    target.will_say(DONE)
    assert target.agent.request(protocol.Abort()) == DONE


def test_an_answer_to_another_question_may_be_followed_by_the_right_one(target: Target) -> None:
    target.will_say(protocol.TmpfsMade(paths=()), CLOCK)
    with pytest.raises(ProtocolError):
        target.agent.request(protocol.Ping())
    assert target._thread is not None
    target._thread.join()
    target.will_say(DONE)
    assert target.agent.request(protocol.Abort()) == DONE


def test_an_answer_that_may_be_to_the_question_before_is_not_believed(target: Target) -> None:
    has_said_no_message(target, protocol.Ping())
    for _ in range(2):
        target.will_say(CLOCK)
        with pytest.raises(ProtocolError, match="may be the answer to an earlier Ping"):
            target.agent.request(protocol.Ping())
        assert target._thread is not None
        target._thread.join()


def test_pieces_without_end_are_not_passed_over_for_ever(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MOST_PIECES", 8)
    has_said_no_message(target, protocol.ListTree(tree="/", paths=None))
    target.will_say(*[protocol.TreeListed(files=(FileState("a", 1, 1, 1),), more=True)] * 9)
    with pytest.raises(ProtocolError, match="without end"):
        target.agent.request(protocol.Abort())


CLOCK = protocol.Clock(monotonic_ns=1)
DONE = protocol.Done()
MOUNTS = [
    Tmpfs(path="/dev", options="rw"),
    Tmpfs(path="/run", options="rw"),
    Tmpfs(path="/tmp", options="rw"),  # noqa: S108
]


def test_a_tmpfs_that_was_not_asked_for(target: Target) -> None:
    target.will_say(protocol.TmpfsMade(paths=("/dev", "/dev/fd/x/root")))
    with pytest.raises(ProtocolError, match="answered MakeTmpfs by '/dev/fd/x/root'"):
        TmpfsSync(target.agent, 1, MOUNTS)


def test_those_that_could_be_made(target: Target) -> None:
    target.will_say(protocol.TmpfsMade(paths=("/dev", "/tmp")))  # noqa: S108
    mounts = [replace(mount, device=os.stat(mount.path).st_dev) for mount in MOUNTS]
    with contextlib.closing(TmpfsSync(target.agent, os.getpid(), mounts)) as sync:
        assert sync.paths == ("/dev", "/tmp")  # noqa: S108


class OfOneLayer:
    """Of a container whose image has one layer."""

    def describe(self, container: Container) -> dict[str, Any]:
        return {}

    def layers(self, container: Container) -> list[str]:
        return [DIGEST]


def container(directory: Path, **changed: Any) -> Container:
    fields: dict[str, Any] = {
        "id": "web",
        "name": "web",
        "pid": 1,
        "bundle": directory,
        "rootfs": directory,
        "config": {},
        "resources": {},
        "descriptors": (),
        "trees": (Tree(destination=ROOTFS, root=directory),),
        "network_namespace": None,
    }
    return Container(**{**fields, **changed})


def test_a_layer_that_the_image_has_not(target: Target, tmp_path: Path) -> None:
    target.will_say(protocol.Examined(objections=(), layers=(DIGEST, "sha256:" + "b" * 64)))
    with pytest.raises(ProtocolError, match="answered Examine by 'sha256:bbb"):
        preflight.check_engine(
            target.agent, cast(Engine, OfOneLayer()), container(tmp_path), "beta"
        )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (protocol.PathsFound(missing=("/etc/shadow",), taken=(), shared=False), "'/etc/shadow'"),
        (protocol.PathsFound(missing=(), taken=("/etc/shadow",), shared=False), "'/etc/shadow'"),
        (
            protocol.PathsFound(missing=(), taken=(), shared=True),
            "shares files that it was not asked for",
        ),
    ],
)
def test_paths_that_were_not_asked_for(
    target: Target, tmp_path: Path, answer: Answer, said: str
) -> None:
    target.will_say(answer)
    with pytest.raises(ProtocolError, match=said):
        preflight.check_paths(target.agent, container(tmp_path, engine_network=True), "beta")


def test_an_address_that_was_not_asked_for(target: Target) -> None:
    asked = (OwnAddress("10.0.0.1", "02:00:00:00:00:01", "br0"),)
    target.will_say(protocol.AddressesFound(taken=(Station("10.0.0.2", "02:00:00:00:00:02"),)))
    with pytest.raises(ProtocolError, match=r"'10\.0\.0\.2'"):
        preflight.check_addresses(target.agent, asked, "beta")


@pytest.mark.parametrize(
    "name", ["sha256:/etc/shadow", "sha256:../victim", "/victim", "sha256:" + "A" * 64, ""]
)
def test_no_file_is_deleted_but_a_layers(tmp_path: Path, name: str) -> None:
    image = tmp_path / "image"
    image.mkdir()
    victim = tmp_path / "victim"
    victim.touch()
    with pytest.raises(DataInvalid):
        store.leave_out(
            image, [name.replace("/victim", str(victim)) if name == "/victim" else name]
        )
    assert victim.exists()


def test_layers_that_are_there_are_left_out(tmp_path: Path) -> None:
    for name in ("a" * 64, "c" * 64):
        (tmp_path / name).touch()
    store.leave_out(tmp_path, [DIGEST, "sha256:" + "b" * 64])
    assert [path.name for path in tmp_path.iterdir()] == ["c" * 64]
