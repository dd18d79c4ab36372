"""A connection to the target that stays in memory, in place of that of transport/ssh.py.

The target runs in threads of this process. `run` of a Link knows the two commands that the product
runs on a target, the agent and the plug of a page channel, and gives any other command to a shell.
Each frame passes a Wire, which may change, drop or delay the frame.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Protocol

from migrate.agent import zipapp
from migrate.agent.plug_command import plug_command
from tests.unit.story.processes import Host
from transport.destination import Destination
from transport.errors import IncompleteFrame
from transport.framing import PREFIX

#: A function that runs the target's agent on a descriptor until its channel ends. The function does
#: not close the descriptor.
Serve = Callable[[int], None]


class Frame:
    """One message on the agent's channel or a page channel, as it is on the wire."""

    def __init__(self, header: bytes, payload: bytes = b"") -> None:
        self.header, self.payload = header, payload

    @property
    def kind(self) -> str:
        return str(json.loads(self.header)["type"])

    def to_bytes(self) -> bytes:
        return PREFIX.pack(len(self.header), len(self.payload)) + self.header + self.payload


class Wire(Protocol):
    """What happens to frames between the hosts.

    Each method is called in the thread that sends or reads the frame, and returns the frames that
    reach the other end in its place.
    """

    def request(self, frame: Frame, link: Link) -> list[Frame]:
        """Return what reaches the agent in place of a frame of the coordinator."""

    def answer(self, asked: str, frame: Frame, link: Link) -> list[Frame]:
        """Return what reaches the coordinator in place of a frame of the agent.

        `asked` is the type of the request that the agent got last.
        """

    def pages(self, frame: Frame, link: Link) -> list[Frame]:
        """Return what reaches the agent in place of a frame on a page channel."""


class Straight:
    """A wire that passes every frame as it is."""

    def request(self, frame: Frame, link: Link) -> list[Frame]:
        return [frame]

    def answer(self, asked: str, frame: Frame, link: Link) -> list[Frame]:
        return [frame]

    def pages(self, frame: Frame, link: Link) -> list[Frame]:
        return [frame]


class Link:
    """The connection between the two hosts, with all streams on it."""

    def __init__(self, target: Host, serve: Serve, wire: Wire, destination: Destination) -> None:
        self.destination = destination
        self._target = target
        self._serve, self._wire = serve, wire
        self._processes: list[Remote] = []
        self.is_cut = False

    def run(self, command: str) -> Remote:
        if self.is_cut:
            raise IncompleteFrame("no further session on the connection")
        process = self._started(command)
        self._processes.append(process)
        return process

    @property
    def agents(self) -> list[Agent]:
        return [process for process in self._processes if isinstance(process, Agent)]

    def _started(self, command: str) -> Remote:
        if command == zipapp.command():
            return Agent(self._serve, self._wire, self)
        *_, path, message = shlex.split(command)
        if command == plug_command(Path(path), message):
            return Plug(self._target.path(path), message, self._wire, self)
        return Shell(self._target, command)

    def cut(self) -> None:
        """End every stream in its middle, at both ends, as if the network were gone."""
        self.is_cut = True
        for process in self._processes:
            process.cut()

    def close(self) -> None:
        """Close the connection in order.

        All that ran on the target ends, except an agent that holds a container.
        """
        for process in self._processes:
            process.close()


class Remote:
    """A process on the target, with a socket as its stdin and stdout.

    A read without a time limit of its own fails after `silence_s`, if that is given.
    """

    silence_s: ClassVar[float | None] = None

    def __init__(self) -> None:
        self.socket, self._theirs = socket.socketpair()
        self.socket.settimeout(self.silence_s)
        self._cut = False

    def read(self, size: int) -> bytes:
        data = bytearray(size)
        return bytes(data[: self.read_into(memoryview(data))])

    def read_into(self, view: memoryview) -> int:
        try:
            return self.socket.recv_into(view)
        except TimeoutError as error:
            raise IncompleteFrame("the other host said nothing in time") from error
        except OSError:
            return 0

    def patience(self, seconds: float | None) -> None:
        self.socket.settimeout(self.silence_s if seconds is None else seconds)

    def write(self, data: bytes | memoryview) -> None:
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise IncompleteFrame(f"the connection broke: {error}") from error

    def read_errors(self, size: int) -> bytes:
        return b""

    def end_input(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def ended(self) -> bool:
        return False

    def wait(self) -> int:
        return -1

    def cut(self) -> None:
        self._cut = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class Agent(Remote):
    """The process of the agent, which has its code already and drops what is sent of that."""

    def __init__(self, serve: Serve, wire: Wire, link: Link) -> None:
        super().__init__()
        self._wire, self._link = wire, link
        self._code_left: int | None = None
        self._sent = bytearray()
        self._to_read = bytearray()
        self._asked = ""
        self._from_agent = bytearray()
        self._silent = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(serve,), name="target agent")
        self._thread.start()

    def _run(self, serve: Serve) -> None:
        with self._theirs:
            serve(self._theirs.fileno())

    def write(self, data: bytes | memoryview) -> None:
        """Take bytes of the coordinator, and pass every whole frame on.

        The code of the agent comes first, behind its size (migrate/agent/zipapp.py).
        """
        self._sent += data
        if self._code_left is None and len(self._sent) >= 4:
            self._code_left = int.from_bytes(self._sent[:4], "big")
            del self._sent[:4]
        if self._code_left:
            taken = min(self._code_left, len(self._sent))
            del self._sent[:taken]
            self._code_left -= taken
        while frame := taken_from(self._sent):
            self._asked = frame.kind
            for passed in self._wire.request(frame, self._link):
                super().write(passed.to_bytes())
        if self._cut:
            raise IncompleteFrame("the connection broke")

    def read_into(self, view: memoryview) -> int:
        while not self._to_read:
            frame = self._next()
            if frame is None:
                return 0
            for passed in self._wire.answer(self._asked, frame, self._link):
                self._to_read += passed.to_bytes()
            if self._cut:
                return 0
        size = min(len(view), len(self._to_read))
        view[:size] = self._to_read[:size]
        del self._to_read[:size]
        return size

    def _next(self) -> Frame | None:
        while (frame := taken_from(self._from_agent)) is None:
            piece = bytearray(1 << 16)
            if not (size := super().read_into(memoryview(piece))):
                return None
            self._from_agent += piece[:size]
        return frame

    def read_errors(self, size: int) -> bytes:
        # An agent in this process writes to the standard error of the test.
        self._silent.wait()
        return b""

    def cut(self) -> None:
        super().cut()
        self._silent.set()

    def close(self) -> None:
        super().close()
        self._silent.set()

    def lives(self) -> bool:
        """Return whether the agent has not ended."""
        return self._thread.is_alive()


def taken_from(data: bytearray) -> Frame | None:
    """Remove the first frame from some bytes and return it, or None if it is not whole."""
    if len(data) < PREFIX.size:
        return None
    header, payload = PREFIX.unpack_from(data)
    end = PREFIX.size + header + payload
    if len(data) < end:
        return None
    frame = Frame(
        bytes(data[PREFIX.size : PREFIX.size + header]), bytes(data[PREFIX.size + header : end])
    )
    del data[:end]
    return frame


class Plug(Remote):
    """The process of migrate/agent/plug.py, which hands its streams to the agent."""

    def __init__(self, path: str, message: str, wire: Wire, link: Link) -> None:
        super().__init__()
        self._wire, self._link = wire, link
        self._sent = bytearray()
        self._agent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with self._theirs:
            try:
                self._agent.connect(path)
                socket.send_fds(self._agent, [message.encode()], [self._theirs.fileno()] * 2)
            except OSError:
                self.cut()

    def write(self, data: bytes | memoryview) -> None:
        self._sent += data
        while frame := taken_from(self._sent):
            for passed in self._wire.pages(frame, self._link):
                super().write(passed.to_bytes())

    def close(self) -> None:
        super().close()
        self._agent.close()


class Shell(Remote):
    """A process of any other command."""

    def __init__(self, target: Host, command: str) -> None:
        super().__init__()
        with self._theirs as ours:
            end = ours.fileno()
            argv = ["sh", "-c", command]
            self._process: subprocess.Popen[bytes] = target.do(
                lambda: subprocess.Popen(argv, stdin=end, stdout=end, stderr=subprocess.PIPE)
            )

    def read_errors(self, size: int) -> bytes:
        assert self._process.stderr is not None
        return os.read(self._process.stderr.fileno(), size)

    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self) -> int:
        return self._process.wait()

    def close(self) -> None:
        super().close()
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()
