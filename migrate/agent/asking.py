"""A word for whatever holds a container on another host, said there by an agent of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from migrate.agent import control
from migrate.agent.client import AgentClient
from migrate.agent.control import Outcome
from migrate.decisions.takeover import Told
from migrate.wire import protocol
from migrate.wire.values import LateFrame
from transport.connection import Connection

#: The limit to the answer. GO and ABORT take as long as the engine there does.
ANSWER_S = control.ANSWER_S + 20
#: {what came of a word (Recovered.outcome): what that means to the source}.
TOLD = {
    Outcome.OK.value: Told.OBEYED,
    Outcome.REFUSED.value: Told.REFUSED,
    Outcome.FAILED.value: Told.REFUSED,
    Outcome.NOBODY.value: Told.ABSENT,
    Outcome.LOST.value: Told.LOST,
}


def answer(
    connection: Connection,
    migration_id: str,
    word: str,
    note: Callable[[str], None],
    frames: Sequence[tuple[int, bytes]] = (),
) -> protocol.Recovered:
    """Do what `say` does, by an agent that is started over `connection` for this one word."""
    with agent(connection, note) as started:
        return say(started, migration_id, word, frames)


@contextlib.contextmanager
def agent(connection: Connection, note: Callable[[str], None]) -> Iterator[AgentClient]:
    """Have an agent on another host for the length of the block.

    `note` takes its lines for people. Raises AgentGone.
    """
    started = AgentClient(connection, note)
    try:
        yield started
    finally:
        started.close()


def say(
    started: AgentClient, migration_id: str, word: str, frames: Sequence[tuple[int, bytes]] = ()
) -> protocol.Recovered:
    """Say a word of control.py to what holds a migration's container on an agent's host.

    Returns all that the host tells. `frames` go with GO (SourceFrames.take). Raises AgentGone,
    AgentFailed, ProtocolError, or TransportError.
    """
    late = tuple(LateFrame(index, len(frame)) for index, frame in frames)
    request = protocol.Recover(migration_id=migration_id, word=word, frames=late)
    return started.request(request, [frame for _, frame in frames], timeout_s=ANSWER_S)
