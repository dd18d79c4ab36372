"""Channels of their own to the agent: the command that plugs one in (agent/plug.py), and what it says it is for."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path
from typing import Annotated

from checkpoint.bounded import ContainerPath
from checkpoint.schema import Length
from migrate.message import Message

#: The channel's first byte, from the agent.
PLUGGED = b"+"
#: Says that a channel brings batches of pages.
PAGES = "pages"
#: Stands for the tree of the files of the container's image; the others are named by their destination.
IMAGE = None


class ServeRsync(Message):
    """Says that the channel's other end is an rsync that wants to fill a tree.

    `tree` is a destination in the container, or IMAGE; `words` are what rsync wants its other end started with.
    """

    tree: ContainerPath | None
    words: Annotated[tuple[Annotated[str, Length(256)], ...], Length(64)]


def plug_command(socket_path: Path, message: str) -> str:
    """For the target's login shell."""
    return shlex.join(["exec", "python3", "-Ic", _source(), str(socket_path), message])


@functools.cache
def _source() -> str:
    return (Path(__file__).parent / "agent" / "plug.py").read_text()
