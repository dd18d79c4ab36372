"""Tests of migrate/agent/outlast.py: the agent's wait for a coordinator, over real sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from checkpoint.host import lock
from checkpoint.host.listener import Listener
from checkpoint.host.ready import ready
from checkpoint.host.worker import Worker
from migrate.agent import control, outlast, plug_command
from migrate.agent.control import ABORT, ABORT_PROVED, GO, STATUS, YIELD, Outcome, Reply, ask
from migrate.agent.incoming import Incoming
from migrate.agent.outlast import Outlasting, yielded
from migrate.agent.plug_command import PLUGGED, ServeRsync, TakeUp
from migrate.agent.state import REVERSIBLE, State
from migrate.wire.message import encode
from tests.rig import until
from transport.errors import IncompleteFrame
from transport.kept import COUNT
from transport.lasting_descriptors import LastingDescriptors

#: A limit, in seconds, that only a failure reaches, and times that are waited for.
LIMIT_S, SHORT_S = 20.0, 0.02
ID = "70ad"
LOST = "the connection is lost; the source is waited for for "


class Migration:
    """A fake of Incoming and of its TreeDoor. `events` tells what was done to both."""

    def __init__(self, control_path: Path) -> None:
        self.control_path, self.trees = control_path, self
        self.state = State.PREPARED
        self.events: list[str] = []
        self.failure: Exception | None = None

    def end_running(self) -> None:
        self.events.append("end rsync")

    def abort(self) -> None:
        self.events.append("abort")
        if self.failure is not None:
            raise self.failure
        self.state = State.ABORTED


class Caller:
    """A plug with the message and its channel, of which it is the other end too."""

    def __init__(self, path: Path, message: bytes, count: int = 2) -> None:
        self._end, theirs = socket.socketpair()
        self.plug = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in (self._end, self.plug):
            each.settimeout(LIMIT_S)
        self.plug.connect(str(path))
        with theirs:
            socket.send_fds(self.plug, [message], [theirs.fileno()] * count)
        self.say, self.hang_up = self._end.sendall, self._end.close

    def hear(self, size: int) -> bytes:
        return self._end.recv(size, socket.MSG_WAITALL)

    def hear_greeting(self) -> int:
        """Hear that the agent goes on here, and return how many bytes it has."""
        assert self.hear(len(PLUGGED)) == PLUGGED
        return int(COUNT.unpack(self.hear(COUNT.size))[0])

    def check_refused(self) -> None:
        """Check that the agent has let go of the channel, without a word, and of the plug."""
        assert self.hear(1) == b""
        assert self.plug.recv(1) == b""

    def close(self) -> None:
        self._end.close()
        self.plug.close()


class Scene:
    """An agent that outlasts its connection to a coordinator, `end`."""

    def __init__(self, directory: Path, seconds: float, silence_s: float) -> None:
        self.end, theirs = socket.socketpair()
        self._fd = theirs.detach()
        self.channel = LastingDescriptors(self._fd, self._fd, silence_s)
        self.migration = Migration(directory / f"{ID}.control")
        self.said: list[str] = []
        incoming = cast(Incoming, self.migration)
        self.outlasting = Outlasting(self.channel, incoming, ID, seconds, self.said.append)
        self.path = directory / f"{ID}.channel"
        self.callers: list[Caller] = []

    def call(self, message: bytes, count: int = 2) -> Caller:
        self.callers.append(Caller(self.path, message, count))
        return self.callers[-1]

    def take_up(self, position: int = 0) -> Caller:
        return self.call(encode(TakeUp(position=position)))

    def read(self, size: int) -> Worker[bytes]:
        """Have the agent read from its channel, to the end of the stream at most."""

        def read() -> bytes:
            found = b""
            while len(found) < size:
                data = bytearray(size - len(found))
                if not (got := self.channel.read_into(memoryview(data))):
                    break
                found += data[:got]
            return found

        return Worker("agent", read)

    def ask(self, word: str) -> Reply:
        """Ask the agent by its control socket, once it listens there."""

        def reply() -> Reply | None:
            try:
                return ask(self.migration.control_path, word, timeout_s=LIMIT_S)
            except (FileNotFoundError, ConnectionRefusedError):
                return None

        return until(reply, "the agent to listen")

    def close(self) -> None:
        self.outlasting.settle()
        self.channel.close()
        self.end.close()
        for caller in self.callers:
            caller.close()


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Scene]]:
    """Yield the maker of a scene whose sockets are in a directory of the test."""
    monkeypatch.setattr(plug_command, "RUN", tmp_path / "run")
    monkeypatch.setattr(control, "RUN", tmp_path / "run")
    plugs: list[socket.socket] = []

    def listener(path: Path, serve: Callable[[socket.socket], None], name: str) -> Listener:
        def serve_noted(plug: socket.socket) -> None:
            plugs.append(plug)
            serve(plug)

        return Listener(path, serve_noted, name)

    # An agent keeps the plug of its channel as long as it lives.
    monkeypatch.setattr(outlast, "Listener", listener)
    scenes: list[Scene] = []

    def scene(seconds: float = LIMIT_S, silence_s: float = LIMIT_S) -> Scene:
        scenes.append(Scene(tmp_path / "run", seconds, silence_s))
        return scenes[-1]

    yield scene
    for each in scenes:
        each.close()
    for plug in plugs:
        plug.close()


@pytest.fixture
def scene(make: Callable[..., Scene]) -> Scene:
    return make()


def in_time(worker: Worker[bytes]) -> bytes:
    assert worker.wait(LIMIT_S), "it waits for ever"
    return worker.result()


def test_the_sockets_are_for_root_alone(scene: Scene) -> None:
    assert scene.path.parent.stat().st_mode & 0o777 == 0o700
    assert scene.path.stat().st_mode & 0o777 == 0o600
    assert not scene.migration.control_path.exists(), "nobody is asked before the loss"


@pytest.mark.parametrize("notices", [True, False])
def test_the_channel_that_a_plug_brings_takes_the_place_of_the_lost_one(
    scene: Scene, notices: bool
) -> None:
    """Whether or not the agent notices first that the old one is lost."""
    scene.channel.write(b"abcd")
    scene.end.sendall(b"01")
    assert in_time(scene.read(2)) == b"01"
    reader = scene.read(3)
    if notices:
        scene.end.close()
        scene.ask(STATUS)
    caller = scene.take_up(3)
    assert caller.hear_greeting() == 2
    assert caller.hear(1) == b"d"
    caller.say(b"234")
    assert in_time(reader) == b"234"
    scene.channel.write(b"ef")
    assert caller.hear(2) == b"ef"
    assert scene.migration.events == ["end rsync"]
    assert not ready(caller.plug.fileno(), timeout_s=0), "the plug lives as long as its channel"
    assert not scene.migration.control_path.exists()
    assert set(scene.said) == {f"{LOST}20 s"} or not notices


def test_each_loss_is_waited_after(scene: Scene) -> None:
    lose = scene.end.close
    for number in range(3):
        reader = scene.read(1)
        lose()
        scene.ask(STATUS)
        caller = scene.take_up()
        assert caller.hear_greeting() == number
        caller.say(b"x")
        assert in_time(reader) == b"x"
        lose = caller.hang_up
    assert set(scene.said) == {f"{LOST}20 s"}
    assert scene.migration.events == ["end rsync"] * 3


TAKE_UP = encode(TakeUp(position=0))


@pytest.mark.parametrize(
    ("message", "count"),
    [
        (b"x", 2),
        (b"{}", 2),
        (b"pages", 2),
        (encode(ServeRsync(tree=None, words=("rsync",))), 2),
        (TAKE_UP.replace(b"0", b"-1"), 2),
        (TAKE_UP.replace(b"0", b'"0"'), 2),
        (TAKE_UP, 1),
        (b"x", 1),
        (b"x", 0),
        (TAKE_UP, 0),
    ],
)
def test_what_is_no_message_to_take_up_changes_nothing(
    scene: Scene, message: bytes, count: int
) -> None:
    scene.call(message, count).check_refused()
    scene.end.sendall(b"01")
    assert in_time(scene.read(2)) == b"01"
    scene.channel.write(b"ab")
    assert scene.end.recv(2) == b"ab"
    assert (scene.migration.events, scene.said) == ([], [])
    assert scene.take_up().hear_greeting() == 2


def test_a_caller_that_says_nothing_keeps_nobody_waiting(scene: Scene) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(str(scene.path))
        assert scene.take_up().hear_greeting() == 0


def test_a_coordinator_that_has_bytes_that_were_never_sent_is_refused(scene: Scene) -> None:
    scene.channel.write(b"abcd")
    scene.take_up(5).check_refused()
    assert in_time(scene.read(1)) == b"", "the stream has ended"


def test_after_a_while_without_anybody_the_stream_ends(make: Callable[..., Scene]) -> None:
    scene = make(SHORT_S)
    scene.end.close()
    assert in_time(scene.read(1)) == b""
    assert scene.said == [f"{LOST}0.02 s"]
    assert scene.migration.events == []
    assert not scene.migration.control_path.exists()


def test_a_silence_is_a_loss(make: Callable[..., Scene]) -> None:
    scene = make(SHORT_S, SHORT_S)
    with pytest.raises(IncompleteFrame, match="nothing came from the peer"):
        in_time(scene.read(1))
    assert scene.said == [f"{LOST}0.02 s"]


def test_who_asks_meanwhile_is_answered_and_changes_nothing(scene: Scene) -> None:
    """There is nothing yet that GO could mean."""
    reader = scene.read(1)
    scene.end.close()
    node = os.uname().nodename
    assert scene.ask(STATUS) == Reply(
        outcome=Outcome.OK,
        text=f"a move to {node} waits for its source, whose connection was lost;"
        " the coordinator is gone",
    )
    assert scene.ask(GO) == Reply(
        outcome=Outcome.FAILED,
        text=f"nothing was restored on {node}; the container is still held",
    )
    assert scene.ask("gone").outcome is Outcome.REFUSED
    assert scene.migration.state is State.PREPARED
    caller = scene.take_up()
    caller.hear_greeting()
    caller.say(b"x")
    assert in_time(reader) == b"x"
    assert scene.migration.events == ["end rsync"]


@pytest.mark.parametrize("word", [ABORT, ABORT_PROVED, YIELD])
@pytest.mark.parametrize("state", [State.EXAMINED, State.AWAITING_IMAGE, State.PREPARED])
def test_who_ends_the_migration_ends_the_wait(scene: Scene, word: str, state: State) -> None:
    assert state in REVERSIBLE
    scene.migration.state = state
    reader = scene.read(1)
    scene.end.close()
    assert scene.ask(word).outcome is Outcome.OK
    assert in_time(reader) == b""
    assert scene.migration.events == ["abort"]
    assert not scene.migration.control_path.exists()


def test_an_abort_that_fails_is_told_and_can_be_tried_again(scene: Scene) -> None:
    scene.migration.failure = OSError(5, "no luck")
    reader = scene.read(1)
    scene.end.close()
    reply = scene.ask(ABORT)
    assert reply.outcome is Outcome.FAILED
    assert "no luck; the container is still held" in reply.text
    scene.migration.failure = None
    assert scene.ask(ABORT).outcome is Outcome.OK
    assert in_time(reader) == b""
    assert scene.migration.events == ["abort"] * 2


@pytest.mark.parametrize("state", [each for each in State if each not in REVERSIBLE])
def test_a_migration_that_cannot_be_dropped_any_more_waits_for_nobody(
    scene: Scene, state: State
) -> None:
    scene.migration.state = state
    scene.end.close()
    assert in_time(scene.read(1)) == b""


def test_once_settled_nobody_is_waited_for(scene: Scene) -> None:
    scene.outlasting.settle()
    assert not scene.path.exists()
    scene.end.sendall(b"0")
    assert in_time(scene.read(1)) == b"0"
    scene.end.close()
    assert in_time(scene.read(1)) == b""
    assert scene.said == []


def holder(source: str = "alpha", migration_id: str = ID) -> str:
    return lock.holder_text(f"migration {migration_id}", source, "beta")


def test_a_migration_yields_to_the_next_one_from_its_source(scene: Scene) -> None:
    reader = scene.read(1)
    scene.end.close()
    scene.ask(STATUS)
    assert not yielded(holder("gamma"), "alpha")
    assert not yielded(holder("alpha-2"), "alpha")
    assert not yielded("somebody", "alpha")
    assert scene.migration.events == []
    assert yielded(holder(), "alpha")
    assert in_time(reader) == b""
    assert scene.migration.events == ["abort"]


def test_a_migration_yields_as_soon_as_it_has_noticed(scene: Scene) -> None:
    """Its connection is lost, but the end of that has not come yet."""
    reader = scene.read(1)
    yields = Worker("yield", lambda: yielded(holder(), "alpha"))
    assert not yields.wait(SHORT_S)
    scene.end.close()
    assert yields.wait(LIMIT_S)
    assert yields.result()
    assert in_time(reader) == b""
    assert scene.migration.events == ["abort"]


def test_a_migration_that_waits_for_nobody_yields_to_none(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is connected, or there is no such migration."""
    monkeypatch.setattr(outlast, "NOTICES_S", SHORT_S)
    assert not yielded(holder(), "alpha")
    assert not yielded(holder(migration_id="77"), "alpha")
    assert scene.migration.events == []
