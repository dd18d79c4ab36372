"""The control socket of an agent that holds a container: how `migratectl recover` ends it by hand."""

from __future__ import annotations

import contextlib
import enum
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from checkpoint.host.ready import ready
from checkpoint.images.directory import RUN

SUFFIX = ".control"
GO, ABORT, STATUS = "go", "abort", "status"
GO_FENCED = "go --source-is-dead"
MAX_ANSWER = 1 << 14
#: A character takes up to twelve bytes of JSON (\\uXXXX twice).
MAX_TEXT = 1000


class Outcome(enum.Enum):
    """What became of a request at the control socket."""

    OK = "ok"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The agent's answer; `text` is for people."""

    outcome: Outcome
    text: str

    def encode(self) -> bytes:
        """Return it as one datagram: JSON of at most MAX_ANSWER bytes."""
        return json.dumps({"outcome": self.outcome.value, "text": self.text[:MAX_TEXT]}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Reply:
        """Return the answer in a datagram. Raises ValueError."""
        found = json.loads(data)
        if not isinstance(found, dict) or not isinstance(text := found.get("text"), str):
            raise ValueError("not an answer of an agent")  # noqa: TRY004  (json's own are ValueErrors)
        return cls(outcome=Outcome(found.get("outcome")), text=text)


class Held(Protocol):
    """What can be done with a held container. Any of it may fail; `holds_container` then tells what is."""

    @property
    def holds_container(self) -> bool:
        """Whether it is held still."""

    def go(self) -> object:
        """Resume it."""

    def abort(self) -> None:
        """Drop it."""

    def describe(self) -> str:
        """One line about it."""


def control_path(migration_id: str) -> Path:
    """Where the agent of a migration listens."""
    return RUN / f"{migration_id}{SUFFIX}"


class ControlSocket:
    """A root-only unix socket that takes one word and gives one Reply. Use as a context."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def __enter__(self) -> ControlSocket:
        self._path.unlink(missing_ok=True)
        self._listener.bind(str(self._path))
        self._path.chmod(0o600)
        self._listener.listen(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def fileno(self) -> int:
        return self._listener.fileno()

    def answer(self, held: Held, *, link_alive: bool) -> bool:
        """Take one word. True when the container is no longer held."""
        peer, _ = self._listener.accept()
        with peer:
            if not ready(peer.fileno(), timeout_s=5):
                return False
            # Whoever asked may have left.
            with contextlib.suppress(OSError):
                word = peer.recv(64).decode(errors="replace")
                peer.send(_obey(held, word, link_alive).encode())
            return not held.holds_container


def _obey(held: Held, word: str, link_alive: bool) -> Reply:
    try:
        if word == STATUS:
            link = "the coordinator is still connected" if link_alive else "the coordinator is gone"
            return Reply(outcome=Outcome.OK, text=f"{held.describe()}; {link}")
        if link_alive and word != GO_FENCED:
            return Reply(
                outcome=Outcome.REFUSED,
                text="the coordinator is still connected and decides (or say --source-is-dead)",
            )
        if word in (GO, GO_FENCED):
            held.go()
            return Reply(outcome=Outcome.OK, text="the container runs on this host")
        if word == ABORT:
            held.abort()
            return Reply(outcome=Outcome.OK, text="the container was dropped on this host")
    except Exception as error:  # noqa: BLE001  (told to the operator; the agent must live to be asked again)
        return Reply(outcome=Outcome.FAILED, text=str(error) or type(error).__name__)
    return Reply(outcome=Outcome.REFUSED, text=f"{word!r} is not a request")


def ask(path: Path, word: str, timeout_s: float = 120.0) -> Reply:
    """Send one word to the agent that listens at `path`. Raises OSError when none does, or does not answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(timeout_s)
        peer.connect(os.fspath(path))
        peer.send(word.encode())
        return reply_in(peer.recv(MAX_ANSWER))


def reply_in(data: bytes) -> Reply:
    """Return the answer in what an agent sent. Raises ConnectionError for what is none, like nothing at all."""
    try:
        return Reply.decode(data)
    except (ValueError, RecursionError) as error:
        raise ConnectionError("the agent ended before it answered") from error
