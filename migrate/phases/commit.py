"""The point of no return: the source dies, then the target goes."""

from __future__ import annotations

import contextlib
import time

from checkpoint.errors import NetworkError
from checkpoint.network import link, netns
from migrate import protocol
from migrate.agent.client import AgentFailed, AgentGone
from migrate.context import Context
from migrate.errors import Undecided
from migrate.state import State

DEATH_TIMEOUT_S = 10.0


class SourceWouldNotDie(Exception):
    """SIGKILL had no effect in time; nothing was committed."""


def commit(move: Context) -> None:
    """Kill, then GO; never the other way round, and GO only when the death was seen."""
    killed_ns = time.monotonic_ns()
    with move.phase("commit"):
        move.init.kill()
        # At once: should we die here, CRIU closes the dead container's sockets, and their FINs
        # must not reach peers that the target is about to serve.
        _links_down(move)
        if not move.init.wait_dead(DEATH_TIMEOUT_S):
            raise SourceWouldNotDie(f"process {move.init.pid} survived SIGKILL for {DEATH_TIMEOUT_S:g} s")
        move.advance(State.KILLED)
        move.stage("source killed", "source", killed_ns)
        try:
            answer = move.agent.request(protocol.Go(), protocol.Done)
        except (AgentGone, AgentFailed) as error:
            raise Undecided(move.migration_id, move.target.hostname, str(error)) from error
        for name, at_ns in answer.stamps:
            move.stage(name, "target", at_ns)
    move.advance(State.RESUMED)


def clean_up(move: Context) -> None:
    """Remove what the container leaves on the source, and what only the move needed on both hosts."""
    with move.phase("clean up"):
        leave_source(move)
        for name, at_ns in move.agent.request(protocol.Finish(), protocol.Done).stamps:
            move.stage(name, "target", at_ns)
    move.advance(State.DONE)


def leave_source(move: Context) -> None:
    """Bury the dead container and take down its network."""
    assert move.dump is not None
    move.dump.bury()
    move.tidy.close()
    move.runtime.delete(move.container.id)
    if move.network is not None:
        netns.remove(move.network)
    (move.container.bundle / ".migrated-away").touch()


def _links_down(move: Context) -> None:
    for interface in move.network.interfaces if move.network else ():
        with contextlib.suppress(NetworkError):  # it went with the namespace
            link.set_link(interface.host_name, up=False)
