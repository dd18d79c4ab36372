"""Tests of migrate/agent/server.py: the loop around the requests, over a real socketpair."""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from checkpoint.errors import CriuFailed
from migrate import logs
from migrate.agent import server
from migrate.agent.control import GO, STATUS, Outcome, Reply, ask
from migrate.agent.server import Server
from migrate.agent.state import State
from migrate.limits import Limits
from migrate.network.late_frames import Frame
from migrate.wire import protocol
from migrate.wire.protocol import Answer, Command, Message, decode, encode
from tests.unit.helpers.hello import hello
from tests.unit.helpers.some_facts import facts
from transport.errors import EndOfStream
from transport.framing import PREFIX, Descriptors, FrameStream
from transport.lasting_descriptors import LastingDescriptors


class Incoming:
    """A fake of the target's half of a migration, whose `handle` does what a test says."""

    control_path = directory = Path()
    does: Callable[[Incoming], Answer] = staticmethod(lambda _: protocol.Done())
    last: Incoming

    def __init__(self, hello: protocol.Hello, log: Callable[[str], None], limits: Limits) -> None:
        self.log = log
        self.state = State.PREPARED
        self.handled: list[str] = []
        self.closed = False
        Incoming.last = self

    @property
    def holds_container(self) -> bool:
        return self.state is State.HELD

    def welcome(self) -> Answer:
        return protocol.Welcome(version=protocol.PROTOCOL_VERSION, facts=facts())

    def check(self) -> int:
        return 7

    def handle(self, request: Command) -> Iterable[Answer]:
        self.handled.append(type(request).__name__)
        return [Incoming.does(self)]

    def describe(self) -> str:
        return "held"

    def go(self, frames: Iterable[Frame] = ()) -> None:
        self.state = State.RESUMED
        self.handled.append("go by hand")

    def abort(self) -> None:
        self.state = State.ABORTED

    def close(self) -> None:
        self.closed = True


class Coordinator:
    """The coordinator's end of the channel to an agent, which is a thread."""

    def __init__(self, silence_s: float = Limits.silence_s) -> None:
        self._limits = Limits(silence_s=silence_s)
        self._socket, theirs = socket.socketpair()
        fd = theirs.detach()
        self._frames = FrameStream(Descriptors(self._socket.fileno(), self._socket.fileno()))
        self._agent = threading.Thread(target=self._serve, args=(fd,))
        self._agent.start()

    def _serve(self, fd: int) -> None:
        try:
            with logs.recorded() as recorder:
                Server(LastingDescriptors(fd, fd), self._limits, recorder).serve()
        finally:
            os.close(fd)

    def send(self, message: Message) -> None:
        self._frames.send(encode(message))

    def answer(self) -> Answer:
        return decode(*self._frames.receive(), Answer)

    def ask(self, message: Message) -> Answer:
        self.send(message)
        return self.answer()

    def say(self, data: bytes) -> None:
        self._socket.sendall(data)

    def hang_up(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()

    def join(self) -> None:
        self._agent.join(10)
        assert not self._agent.is_alive()


HELLO = hello()
#: A request that is answered, and one that is streamed.
ASKED, STREAMED = protocol.Remove(tree="/", paths=()), protocol.Output()


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Coordinator]:
    monkeypatch.setattr(server, "Incoming", Incoming)
    monkeypatch.setattr(Incoming, "control_path", tmp_path / "control")
    coordinator = Coordinator()
    yield coordinator
    coordinator.hang_up()
    coordinator.join()
    coordinator.close()


def does(monkeypatch: pytest.MonkeyPatch, what: Callable[[Incoming], Answer]) -> None:
    monkeypatch.setattr(Incoming, "does", staticmethod(what))


def failing(error: Exception) -> Callable[[Incoming], Answer]:
    def fail(_: Incoming) -> Answer:
        raise error

    return fail


def test_requests_are_answered_in_order_until_the_last(coordinator: Coordinator) -> None:
    assert isinstance(coordinator.ask(HELLO), protocol.Welcome)
    assert isinstance(coordinator.ask(protocol.Ping()), protocol.Clock)
    coordinator.send(STREAMED)
    assert isinstance(coordinator.ask(ASKED), protocol.Done)
    Incoming.last.state = State.RESUMED
    assert isinstance(coordinator.ask(protocol.Finish()), protocol.Done)
    coordinator.join()
    assert Incoming.last.handled == ["Output", "Remove", "Finish"]
    assert Incoming.last.closed


def test_no_request_is_taken_before_hello(coordinator: Coordinator) -> None:
    answer = coordinator.ask(ASKED)
    assert isinstance(answer, protocol.Failed)
    assert answer.text == "Remove may not come in the state 'connected'"


def test_what_may_not_come_now_is_refused_and_changes_nothing(coordinator: Coordinator) -> None:
    coordinator.ask(HELLO)
    for command in (
        HELLO,
        protocol.Go(frames=()),
        protocol.Finish(),
        protocol.LoadContainerImage(),
    ):
        answer = coordinator.ask(command)
        assert isinstance(answer, protocol.Failed)
        assert (answer.kind, answer.text) == (
            "ProtocolError",
            f"{type(command).__name__} may not come in the state 'prepared'",
        )
    assert Incoming.last.handled == []
    assert isinstance(coordinator.ask(ASKED), protocol.Done)


def test_streamed_data_out_of_order_is_told_by_the_next_answer(coordinator: Coordinator) -> None:
    coordinator.ask(HELLO)
    coordinator.send(protocol.Freezing())
    answer = coordinator.ask(ASKED)
    assert isinstance(answer, protocol.Failed)
    assert "Freezing may not come" in answer.text
    assert Incoming.last.handled == []


def test_go_is_done_whatever_went_wrong_before(coordinator: Coordinator) -> None:
    """The source is dead when GO comes."""
    coordinator.ask(HELLO)
    Incoming.last.state = State.HELD
    coordinator.send(STREAMED)
    assert isinstance(coordinator.ask(protocol.Ping()), protocol.Failed)
    assert isinstance(coordinator.ask(protocol.Go(frames=())), protocol.Done)
    assert Incoming.last.handled == ["Go"]
    Incoming.last.state = State.RESUMED


def test_after_go_nothing_is_undone(coordinator: Coordinator) -> None:
    coordinator.ask(HELLO)
    Incoming.last.state = State.RESUMED
    answer = coordinator.ask(protocol.Abort())
    assert isinstance(answer, protocol.Failed)
    assert "Abort may not come" in answer.text
    assert Incoming.last.handled == []


def test_another_version_is_refused(coordinator: Coordinator) -> None:
    answer = coordinator.ask(dataclasses.replace(HELLO, version=protocol.PROTOCOL_VERSION + 1))
    assert isinstance(answer, protocol.Failed)
    assert f"not {protocol.PROTOCOL_VERSION + 1}" in answer.text


@pytest.mark.parametrize(
    ("error", "kind", "text", "detail"),
    [
        (CriuFailed("restore", ["no luck"]), "CriuFailed", "no luck", ["no luck"]),
        (OSError(28, "No space"), "NoSpace", "No space", []),
        (KeyError("a defect"), "KeyError", "a defect", []),
        (AssertionError(), "AssertionError", "AssertionError", []),
    ],
)
def test_any_failure_is_told_and_sticks_until_the_abort(
    coordinator: Coordinator,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: str,
    text: str,
    detail: list[str],
) -> None:
    coordinator.ask(HELLO)
    does(monkeypatch, failing(error))
    coordinator.send(STREAMED)
    for _ in range(2):
        answer = coordinator.ask(ASKED)
        assert isinstance(answer, protocol.Failed)
        assert (answer.kind, answer.detail) == (kind, tuple(detail))
        assert text in answer.text
    does(monkeypatch, lambda _: protocol.Done())
    assert isinstance(coordinator.ask(protocol.Abort()), protocol.Done)
    coordinator.join()
    assert Incoming.last.handled == ["Output", "Abort"]
    assert Incoming.last.closed


def test_logs_are_to_be_had_also_after_a_failure(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The logs have the traceback of the failure, which remains one."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images/restore.log").write_text("no luck")
    monkeypatch.setattr(Incoming, "directory", tmp_path)
    coordinator.ask(HELLO)
    does(monkeypatch, failing(KeyError("a defect")))
    assert isinstance(coordinator.ask(ASKED), protocol.Failed)
    found = coordinator.ask(protocol.Logs())
    assert isinstance(found, protocol.LogsFound)
    assert [file.name for file in found.files] == [
        "traceback.txt",
        "agent.log",
        "images-restore.log",
    ]
    text = bytes(found.payload).decode()
    assert len(text) == sum(file.bytes for file in found.files)
    assert "KeyError: 'a defect'" in text
    assert text.endswith("no luck")
    assert isinstance(coordinator.ask(ASKED), protocol.Failed)


def test_what_the_target_logs_comes_before_the_answer(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def log_and_answer(incoming: Incoming) -> Answer:
        incoming.log("a line")
        return protocol.Done()

    coordinator.ask(HELLO)
    does(monkeypatch, log_and_answer)
    assert coordinator.ask(ASKED) == protocol.Log(text="a line")
    assert isinstance(coordinator.answer(), protocol.Done)


def test_records_of_the_agents_log_come_before_the_answer_if_they_are_asked_for(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def log_and_answer(_: Incoming) -> Answer:
        logging.getLogger("checkpoint.test").debug("a %s", "step\x1b")
        return protocol.Done()

    does(monkeypatch, log_and_answer)
    assert isinstance(coordinator.ask(dataclasses.replace(HELLO, traces=True)), protocol.Welcome)
    told = coordinator.ask(ASKED)
    assert isinstance(told, protocol.Trace)
    assert (told.logger, told.text) == ("checkpoint.test", "a step\\x1b")
    assert isinstance(coordinator.answer(), protocol.Done)


def test_no_records_are_sent_unasked(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def log_and_answer(_: Incoming) -> Answer:
        logging.getLogger("checkpoint.test").debug("a step")
        return protocol.Done()

    does(monkeypatch, log_and_answer)
    coordinator.ask(HELLO)
    assert isinstance(coordinator.ask(ASKED), protocol.Done)


@pytest.mark.parametrize(
    "last_words",
    [b"", b"\0\0\0\1", b"\0\0\0\2\0\0\0\0{}", b"\xff" * 64],
    ids=["none", "half a frame", "no message", "no frame"],
)
def test_a_channel_that_ends_or_breaks_is_cleaned_up_after(
    coordinator: Coordinator, last_words: bytes
) -> None:
    coordinator.ask(HELLO)
    coordinator.say(last_words)
    coordinator.hang_up()
    coordinator.join()
    assert Incoming.last.closed


@pytest.mark.parametrize(
    "leave",
    [Coordinator.hang_up, lambda coordinator: coordinator.say(PREFIX.pack(2, 0) + b"{}")],
    ids=["it ends", "no message"],
)
def test_a_held_container_outlives_the_channel(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, leave: Callable[[Coordinator], None]
) -> None:
    def hold(incoming: Incoming) -> Answer:
        incoming.state = State.HELD
        return protocol.Done()

    coordinator.ask(HELLO)
    does(monkeypatch, hold)
    coordinator.ask(ASKED)
    leave(coordinator)
    with pytest.raises(EndOfStream):
        coordinator.answer()
    assert not Incoming.last.closed
    first = ask_when_there(Incoming.control_path, GO)
    assert first.outcome is Outcome.OK or "the coordinator is still" in first.text
    while Incoming.last.holds_container:  # it had not noticed that the channel ended
        ask_when_there(Incoming.control_path, GO)
    coordinator.join()
    assert Incoming.last.handled == ["Remove", "go by hand"]
    assert Incoming.last.closed


@pytest.mark.parametrize("asked", [False, True], ids=["in silence", "although it is asked"])
def test_a_silent_coordinator_is_gone_and_the_holder_can_be_asked_all_the_time(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    """Nobody may take a container for lost that is held; and questions are no sign of life."""

    def hold(incoming: Incoming) -> Answer:
        incoming.state = State.HELD
        return protocol.Done()

    silent = Coordinator(silence_s=0.5)
    silent.ask(HELLO)
    does(monkeypatch, hold)
    silent.ask(ASKED)
    until_s, texts = time.monotonic() + 3, [""]
    while "the coordinator is gone" not in texts[-1] and time.monotonic() < until_s:
        time.sleep(0.05 if asked else 1.0)
        texts.append(ask_when_there(Incoming.control_path, STATUS).text)
    assert "the coordinator is gone" in texts[-1]
    assert ask_when_there(Incoming.control_path, GO).outcome is Outcome.OK
    silent.join()
    silent.close()


def ask_when_there(path: Path, word: str) -> Reply:
    """Ask the agent by its control socket, as often as that takes.

    The agent makes the socket anew when it notices that its channel ended.
    """
    while True:
        try:
            return ask(path, word, timeout_s=10)
        except (FileNotFoundError, ConnectionError):
            if not Incoming.last.holds_container:
                return Reply(outcome=Outcome.OK, text="")
