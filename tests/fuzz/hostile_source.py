"""A hostile source against the real agent.

It sends every message, in any order and with any field, or what is no message at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from checkpoint.criu.page_server import PE_PRESENT
from checkpoint.host.ready import ready
from migrate.agent import control
from migrate.agent.server import Server
from migrate.journal import book
from migrate.limits import Limits
from migrate.memory import batches
from migrate.memory.receiver import socket_path
from migrate.wire import protocol
from migrate.wire.message import Answer, Command, Message, Request, concrete
from tests.fakes import task
from tests.fuzz.watch import Opened, bounded
from tests.unit.story.engine import NAME, World
from tests.unit.story.processes import until
from tests.unit.story.stage import Stage, descriptors, files
from tests.wire import JSON, payload_of, values
from transport.errors import StreamError
from transport.framing import PREFIX, Descriptors, FrameStream
from transport.lasting_descriptors import LastingDescriptors

#: The agent waits for nothing for long, because most of what it waits for never comes.
SHORT = Limits(arm_s=2, batch_s=0.05, restore_s=2, end_s=2, resume_s=2, fill_s=2)
ANSWER_S = 10.0
ROOM_BYTES = 16 << 20
MIGRATION = "0123456789ab"
IMAGE = 1 << 8 | 1
COMMANDS = sorted(concrete(Command), key=lambda kind: kind.__name__)
HUGE = st.sampled_from(
    [-1, 1 << 31, 1 << 63, 1 << 64, -(1 << 63), "x" * (1 << 19), "../" * 64, [0] * 4096, 1e300]
)
#: Values of a field: any JSON, and what is too large.
WILD = JSON | HUGE
CONTENT = b"".join(map(task.pattern, range(task.PAGES)))


class Agent:
    """The real agent, in threads on the target of a stage, and this end of its channel."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.socket, theirs = socket.socketpair()
        self._frames = FrameStream(Descriptors(self.socket.fileno(), self.socket.fileno()))
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, args=(theirs,), name="target agent")
        self._thread.start()

    def _serve(self, channel: socket.socket) -> None:
        try:
            with channel:
                self._stage.target.enter()
                Server(LastingDescriptors(channel.fileno(), channel.fileno()), SHORT).serve()
        except BaseException as error:  # noqa: BLE001  (looked at when the sequence ends)
            self.failure = error

    def say(self, data: bytes) -> bool:
        """Send bytes, and return whether somebody takes them."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def answered(self) -> Answer | None:
        """Return the next answer that is no log; None when the agent has hung up.

        Raises the error by which a message is none.
        """
        while True:
            deadline = time.monotonic() + ANSWER_S
            while not ready(self.socket.fileno(), timeout_s=0.1):
                assert time.monotonic() < deadline, "the agent neither answers nor hangs up"
                if "the coordinator is gone" in self.told(control.STATUS):
                    return None  # it holds a container, and listens to nobody any more
            try:
                header, payload = self._frames.receive()
            except (StreamError, ConnectionError):
                return None
            answer = protocol.decode(header, payload, Answer)
            if not isinstance(answer, protocol.Log):
                return answer

    def told(self, word: str) -> str:
        """Return what the agent of a held container answers to an operator."""
        with contextlib.suppress(OSError):
            return self._stage.target.do(
                lambda: control.ask(control.control_path(MIGRATION), word)
            ).text
        return ""

    def hang_up(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def lives(self) -> bool:
        """Return whether the agent has not ended yet."""
        return self._thread.is_alive()


def frame(kind: str, fields: dict[str, Any], payload: bytes = b"") -> bytes:
    """Return a message as it is on the wire."""
    header = json.dumps({"type": kind, **fields}).encode()
    return PREFIX.pack(len(header), len(payload)) + header + payload


class HostileSource(RuleBasedStateMachine):
    """One connection to an agent."""

    stage: Stage
    opened: Opened
    #: How often each answer came in all sequences, which tells how far they got.
    heard: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        self.world: World = self._stack.enter_context(self.stage.empty_world())
        # All sequences have one migration id, which an agent takes only once.
        self.stage.target.do(lambda: shutil.rmtree(book.DIRECTORY, ignore_errors=True))
        self._threads, self._descriptors = set(threading.enumerate()), descriptors()
        self._stack.enter_context(bounded())
        self._stack.enter_context(self.opened.watching([self.world.directory]))
        self.agent = Agent(self.stage)
        self._plugs: list[socket.socket] = []
        self._over = False
        self._next = 0
        self._files = files(self.stage.target)

    # --- What is sent ---

    def _send(self, kind: type[Message], fields: dict[str, Any], payload: bytes) -> None:
        # When nobody listens any more, that must decide nothing that hypothesis draws.
        if self._over:
            return
        if kind is protocol.CheckPaths and isinstance(fields.get("own"), list):
            self.opened.also.update(
                os.path.normpath(path) for path in fields["own"] if isinstance(path, str)
            )
        self._over = not self.agent.say(frame(kind.__name__, fields, payload)) or self._over
        if issubclass(kind, Request) and not self._over:
            self._hear()

    def _hear(self) -> None:
        answer = self.agent.answered()
        while answer is not None and not answer.is_last:
            answer = self.agent.answered()
        self.heard[type(answer).__name__] += 1
        self._over = answer is None

    @initialize(steps=st.integers(0, 11))
    def begin(self, steps: int) -> None:
        """Send the first messages of a move as they should be."""
        for _ in range(steps):
            self.go_on()

    @rule()
    def go_on(self) -> None:
        """Send the next message of a move as it should be."""
        steps = list(proper(self.world))
        if self._next < len(steps):
            kind, fields, payload = steps[self._next]
            self._next += 1
            if kind is protocol.Restore and (end := self._plug()) is not None:
                with end, contextlib.suppress(OSError):
                    end.sendall(frame("Pages", pages_of(0), CONTENT))
            self._send(kind, fields, payload)

    @rule(data=st.data(), kind=st.sampled_from(COMMANDS))
    def any_command(self, data: st.DataObject, kind: type[Command]) -> None:
        """Send any message, whether it is its turn or not."""
        fields = data.draw(values(kind))
        self._send(kind, fields, payload_of(kind, fields))

    @rule(data=st.data(), kind=st.sampled_from(COMMANDS), payload=st.binary(max_size=64))
    def damaged_command(self, data: st.DataObject, kind: type[Command], payload: bytes) -> None:
        """Send a message with a wrong value, or with a field too many."""
        fields = data.draw(values(kind))
        if fields and data.draw(st.booleans()):
            name = data.draw(st.sampled_from(sorted(fields)))
            fields[name] = data.draw(WILD)
        else:
            fields[data.draw(st.text(max_size=4))] = data.draw(WILD)
        self._send(kind, fields, payload)

    @rule(
        data=st.binary(max_size=64),
        header=st.integers(0, (1 << 32) - 1),
        payload=st.integers(0, (1 << 32) - 1),
    )
    def no_frame(self, data: bytes, header: int, payload: int) -> None:
        """Announce a frame of any size, and send no more than its beginning."""
        if not self._over:
            self.agent.say(PREFIX.pack(header, payload) + data)
            self._over = True

    @rule(data=st.data(), proper=st.booleans())
    def pages(self, data: st.DataObject, proper: bool) -> None:
        """Send a batch on a page channel of its own, if there are page channels."""
        fields, payload = (
            (pages_of(0), CONTENT) if proper else (data.draw(values(protocol.Pages)), b"\0" * 64)
        )
        if (end := self._plug()) is not None:
            with end, contextlib.suppress(OSError):
                end.sendall(frame("Pages", fields, payload))

    def _plug(self) -> socket.socket | None:
        plug = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                plug.connect(self.stage.target.path(str(socket_path(MIGRATION))))
                socket.send_fds(plug, [b"pages"], [theirs.fileno(), theirs.fileno()])
            except OSError:
                plug.close()
                ours.close()
                return None
        self._plugs.append(plug)
        return ours

    # --- What must be so afterwards ---

    def teardown(self) -> None:
        """Assert that the agent has ended by a clean refusal, and that nothing is left of it."""
        # The stack is unwound whatever is found: what is collected later would be taken for the
        # next agent's doing.
        with self._stack:
            self._check_end()

    def _check_end(self) -> None:
        self.agent.hang_up()
        until(lambda: not self.agent.lives() or self._dropped(), "the agent to end")
        until(lambda: not self.agent.lives(), "the agent to end")
        self.agent.socket.close()
        for plug in self._plugs:
            plug.close()
        self.world.end_processes()
        for child in self.world.children:
            child.close()
        self.world.children.clear()
        assert self.agent.failure is None, repr(self.agent.failure)
        until(lambda: set(threading.enumerate()) <= self._threads, "its threads to end")
        until(lambda: len(descriptors()) <= len(self._descriptors), "its descriptors to be closed")
        assert not (left := files(self.stage.target) - self._files), left

    def _dropped(self) -> bool:
        """Drop a held container, as an operator would, and return False."""
        self.agent.told(control.ABORT)
        return False


def proper(world: World) -> Iterator[tuple[type[Command], dict[str, Any], bytes]]:
    """Yield the messages of a move in their order: class, fields and payload of each."""
    images = {
        "story.img": json.dumps({"image": 1, "source": os.getpid(), "held": True}).encode(),
        "inventory.img": b"not looked at",
    }
    pieces = [{"name": name, "bytes": len(data)} for name, data in images.items()]
    yield (
        protocol.Hello,
        {
            "version": protocol.PROTOCOL_VERSION,
            "migration_id": MIGRATION,
            "source": "a hostile host",
            "engine": "runc",
            "traces": False,
            "container_name": NAME,
        },
        b"",
    )
    yield protocol.CheckPaths, {"required": [], "own": [], "probe": None}, b""
    yield protocol.Examine, {"description": {}}, b""
    prepare = {"shared": False, "network": None, "room_bytes": ROOM_BYTES, "page_channels": 1}
    yield protocol.Prepare, prepare, b"packed"
    yield protocol.MakeTmpfs, {"mounts": []}, b""
    yield protocol.Arm, {"macs": [], "nftables": True, "one_cgroup": True}, b""
    yield protocol.Freezing, {}, b""
    yield (
        protocol.CriuImages,
        {"pieces": [list(piece.values()) for piece in pieces]},
        b"".join(images.values()),
    )
    size = sum(map(len, images.values()))
    yield (
        protocol.Restore,
        {"image_files": 2, "image_bytes": size, "batches": 1, "proof_seed": None, "left_out": []},
        b"",
    )
    yield protocol.Go, {"frames": []}, b""
    yield protocol.Finish, {}, b""


def pages_of(number: int) -> dict[str, Any]:
    """Return the fields of a batch that has all memory of tests/fakes/task.py."""
    return {
        "number": number,
        "extents": [[IMAGE, task.REGION, task.PAGES, PE_PRESENT, False]],
        "encoding": "raw",
        "digest": batches.digest_of(memoryview(CONTENT)),
        "into_images": True,
        "forget": [],
    }
