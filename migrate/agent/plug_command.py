"""Extra channels to the agent: the command that attaches one, and what the channel is for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from checkpoint.bounded import ContainerPath, Count
from checkpoint.host.paths import RUN
from checkpoint.schema import Length
from migrate.agent import programs
from migrate.wire.message import Message

#: The first byte on a channel, sent by the agent when the channel has reached it.
PLUGGED = b"+"
#: The message that a channel brings batches of pages.
PAGES = "pages"
#: The key of the tree with the container image's files; the other trees go by their destinations.
IMAGE = None


class ServeRsync(Message):
    """The message that the other end of a channel is an rsync that wants to fill a tree.

    `tree` is a destination in the container, or IMAGE. `words` is the command line with which rsync
    wants its other end started.
    """

    tree: ContainerPath | None
    words: Annotated[tuple[Annotated[str, Length(256)], ...], Length(64)]


class TakeUp(Message):
    """The message that a channel takes the place of the coordinator's, whose connection was lost.

    `position` is how many bytes of that have come at the coordinator (transport/kept.py).
    """

    position: Count


def channel_path(migration_id: str) -> Path:
    """Return the path of the unix socket at which an agent takes the coordinator's next channel."""
    return RUN / f"{migration_id}.channel"


def plug_command(socket_path: Path, message: str) -> str:
    """Return the command, for the target's login shell, that attaches its channel (agent/plug.py).

    `socket_path` is where the agent listens; `message` tells the agent what the channel is for.
    """
    return programs.command("plug", str(socket_path), message)
