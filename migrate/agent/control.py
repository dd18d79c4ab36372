"""The control socket of an agent that holds a container, and the way to ask it.

`migratectl recover` ends a hold by it; `migratectl status` asks about one.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import platform
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from checkpoint.errors import reason
from checkpoint.host.paths import RUN
from checkpoint.host.ready import ready
from migrate.network import late_frames
from migrate.network.late_frames import Frame

SUFFIX = ".control"
#: The words. GO and ABORT_PROVED come from the source, which has seen that its container is dead or
#: that it lives, or from an operator who knows that. ABORT is an operator's who does not.
#: YIELD is that of another migration of the container, which has come from the same source.
GO, ABORT_PROVED, ABORT, STATUS = "go", "abort --source-lives", "abort", "status"
YIELD = "yield"
MAX_ANSWER = 1 << 14
#: So many peers may wait for a holder that is busy.
BACKLOG = 16
#: The limit to an agent's answer; GO and ABORT take as long as the engine does.
ANSWER_S = 120.0
#: The most characters of a reply's text. A character takes up to 12 bytes of JSON (\\uXXXX twice).
MAX_TEXT = 1000


class Outcome(enum.Enum):
    """What came of a word to whatever holds a container.

    NOBODY: nobody does, nor has run it, as far as is known. LOST: what held it is gone, and it has
    never run.
    """

    OK = "ok"
    REFUSED = "refused"
    FAILED = "failed"
    NOBODY = "nobody"
    LOST = "lost"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The agent's answer at the control socket; `text` is for people."""

    outcome: Outcome
    text: str

    def encode(self) -> bytes:
        """Return the reply as one datagram: JSON of at most MAX_ANSWER bytes."""
        return json.dumps({"outcome": self.outcome.value, "text": self.text[:MAX_TEXT]}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Reply:
        """Return the reply in a datagram.

        Raises ValueError for anything else, or RecursionError for JSON that is nested too deeply.
        """
        found = json.loads(data)
        if not isinstance(found, dict) or not isinstance(text := found.get("text"), str):
            raise ValueError("not an answer of an agent")  # noqa: TRY004  (as json's errors are)
        return cls(outcome=Outcome(found.get("outcome")), text=text[:MAX_TEXT])


class Held(Protocol):
    """A held container, as the control socket needs it.

    `go` and `abort` may raise any error. Then `holds_container` says whether the hold has ended.
    """

    @property
    def holds_container(self) -> bool:
        """Return whether the container is still held."""

    def go(self, frames: Iterable[Frame] = ()) -> object:
        """Resume the container, and give it the frames that came for it on the source."""

    def abort(self) -> None:
        """Drop the container."""

    def describe(self) -> str:
        """Return one line about the container, for people."""


def control_path(migration_id: str) -> Path:
    """Return the path of the control socket of a migration's agent."""
    return RUN / f"{migration_id}{SUFFIX}"


class ControlSocket:
    """A unix socket for root alone that takes one word and gives one Reply.

    Use it as a context. The socket listens from entry to exit.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def __enter__(self) -> ControlSocket:
        self._path.unlink(missing_ok=True)
        self._listener.bind(str(self._path))
        self._path.chmod(0o600)
        self._listener.listen(BACKLOG)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def fileno(self) -> int:
        return self._listener.fileno()

    def answer(self, held: Held, *, link_alive: bool, yields: bool = False) -> bool:
        """Take one word from a peer and obey it. Return whether the hold has ended.

        If `link_alive`, the coordinator is still connected: then ABORT is refused. `yields`:
        another migration of the container may take the place of this one. A peer that sends nothing
        within 5 s is left without an answer.
        """
        peer, _ = self._listener.accept()
        with peer:
            if not ready(peer.fileno(), timeout_s=5):
                return False
            # The peer may have closed its end.
            with contextlib.suppress(OSError):
                said, fds, _, _ = socket.recv_fds(peer, 64, 1)  # short result: one datagram
                frames = _frames_in(fds[0]) if fds else []
                word = said.decode(errors="replace")
                if word == YIELD and yields:
                    word = ABORT
                peer.send(_obey(held, word, link_alive, frames).encode())
            return not held.holds_container


def _frames_in(fd: int) -> list[Frame]:
    """Return the frames in a file, and close it. Raises OSError."""
    with open(fd, "rb") as file:
        file.seek(0)  # both processes share the position in the file
        return list(late_frames.unpack(file.read()))


def _obey(held: Held, word: str, link_alive: bool, frames: Sequence[Frame]) -> Reply:
    try:
        if word == STATUS:
            link = "the coordinator is still connected" if link_alive else "the coordinator is gone"
            return Reply(outcome=Outcome.OK, text=f"{held.describe()}; {link}")
        if link_alive and word == ABORT:
            return Reply(
                outcome=Outcome.REFUSED,
                text="the container is held, and the coordinator is still connected and decides;"
                " end the coordinator first",
            )
        if word == GO:
            held.go(frames)
            return Reply(outcome=Outcome.OK, text=f"the container runs on {platform.node()}")
        if word in (ABORT, ABORT_PROVED):
            held.abort()
            return Reply(outcome=Outcome.OK, text=f"the container was dropped on {platform.node()}")
    except Exception as error:  # noqa: BLE001  (reported; the agent must live to be asked again)
        state = "is still held" if held.holds_container else "is held no more"
        return Reply(outcome=Outcome.FAILED, text=f"{reason(error)}; the container {state}")
    return Reply(outcome=Outcome.REFUSED, text=f"{word!r} is not a request")


def ask(path: Path, word: str, timeout_s: float = ANSWER_S, frames: Iterable[Frame] = ()) -> Reply:
    """Send one word to the agent that listens at `path`, and return its reply.

    `frames` go with GO. Raises OSError if no agent listens there, and its subclass TimeoutError if
    the agent does not answer within `timeout_s`.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(timeout_s)
        try:
            peer.connect(os.fspath(path))
        except BlockingIOError as error:  # those who wait are too many
            raise TimeoutError("it answers nobody") from error
        with open(os.memfd_create("frames"), "wb") as file:
            file.write(late_frames.pack(frames))
            file.flush()
            socket.send_fds(peer, [word.encode()], [file.fileno()])
        return reply_in(peer.recv(MAX_ANSWER))


def reply_in(data: bytes) -> Reply:
    """Return the reply in what an agent sent.

    Raises ConnectionError if `data` holds no reply, for example because it is empty.
    """
    try:
        return Reply.decode(data)
    except (ValueError, RecursionError) as error:
        raise ConnectionError("the agent ended before it answered") from error
