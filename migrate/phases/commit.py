"""The point of no return: the source dies, then the target goes."""

from __future__ import annotations

import contextlib
import threading
import time

from checkpoint.errors import CheckpointError, NetworkError
from checkpoint.network import link, netns
from migrate import protocol
from migrate.agent.client import AgentFailed, AgentGone
from migrate.context import Context
from migrate.errors import LeftBehind, ResumeFailed, Undecided
from migrate.report import Fill
from migrate.state import State
from migrate.values import LateFrame


def commit(move: Context) -> None:
    """Kill, then GO; never the other way round, and GO only when the death was seen."""
    move.advance(State.KILLING)
    killed_ns = time.monotonic_ns()
    with move.phase("commit"):
        move.runtime.let_go(move.container)
        move.init.kill()
        # At once: should we die here, CRIU closes the dead container's sockets, and their FINs
        # must not reach peers that the target is about to serve. Aside: it takes the kernel milliseconds.
        links = threading.Thread(target=_links_down, args=(move,))
        links.start()
        move.tidy.callback(links.join)
        if not move.init.wait_dead(limit_s := move.options.limits.death_s):
            raise Undecided(
                move.migration_id,
                move.target.hostname,
                f"process {move.init.pid} here was sent SIGKILL {limit_s:g} s ago and is not dead yet",
                f"when it is, run there, as root: migratectl recover {move.migration_id} --go --source-is-dead",
            )
        move.advance(State.KILLED)
        move.stage("source killed", "source", killed_ns)
        try:
            held = [(index, frame) for index, frames in enumerate(move.frames) for frame in frames.take()]
            go = protocol.Go(frames=tuple(LateFrame(index, len(frame)) for index, frame in held))
            answer = move.agent.request(go, [frame for _, frame in held])
        except AgentGone as error:
            raise Undecided(
                move.migration_id,
                move.target.hostname,
                f"the link was lost after the source had been stopped ({error})",
                f"there, as root, run 'migratectl recover {move.migration_id} --go'",
            ) from error
        except AgentFailed as error:
            raise ResumeFailed(move.target.hostname, str(error)) from error
        move.awake.close()
        _settle(move, answer)
    move.advance(State.RESUMED)


def _settle(move: Context, answer: protocol.Resumed) -> None:
    """Enter the freeze into the report: its stages, and the downtime from releasing the dump to the resume."""
    assert move.dump is not None
    for stamp in move.dump.stamps:
        move.stage(stamp.name, "source", stamp.at_ns)
    for name, at_ns in (("go", answer.go_ns), ("resumed", answer.resumed_ns), *answer.stamps):
        move.stage(name, "target", at_ns)
    at_us = {stage.name: stage.at_us for stage in move.report.freeze}
    move.report.downtime_us = at_us["resumed"] - at_us["request DUMP"]


def clean_up(move: Context) -> None:
    """Remove what the container leaves on the source, and what only the move needed on both hosts."""
    with move.phase("clean up"):
        try:
            try:
                if move.output is not None:
                    move.report.add_bytes("output", move.output.copy())  # what the engine logged late
                # First: what is taken down here takes a processor's time, which the container may want.
                finished = move.agent.request(protocol.Finish())
            finally:
                leave_source(move)
        except (AgentFailed, AgentGone, CheckpointError, OSError) as error:
            raise LeftBehind(move.target.hostname, str(error)) from error
    for name, at_ns in finished.stamps:
        move.stage(name, "target", at_ns)
    move.report.fill = Fill.of(finished.filled_bytes, *finished.waits)
    move.advance(State.DONE)


def leave_source_if_possible(move: Context) -> None:
    """Like `leave_source`, on the way out with an error that matters more than what may go wrong here."""
    try:
        leave_source(move)
    except (CheckpointError, OSError) as error:
        move.note(f"not cleaned up here: {error}")


def leave_source(move: Context) -> None:
    """Bury the dead container and take down its network."""
    assert move.dump is not None
    move.dump.bury()
    move.tidy.close()
    move.runtime.leave(move.container, shared=move.shared_rootfs)
    if move.network is not None and not move.container.engine_network:
        netns.remove(move.network)


def _links_down(move: Context) -> None:
    for interface in move.network.interfaces if move.network else ():
        with contextlib.suppress(NetworkError):  # it went with the namespace
            link.set_link(interface.host_name, up=False)
