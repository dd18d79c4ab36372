"""The commit: the source's container is killed, then the target's resumes. The point of no return.

From the kill on, no failure of anything optional keeps the target from its GO. Nothing of the
container is removed from the source before the target has said that it runs the container.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from checkpoint.errors import NetworkError
from checkpoint.network import link
from migrate.decisions import causes
from migrate.decisions.state import State
from migrate.errors import AgentFailed, AgentGone, LeftBehind, MigrateError, ResumeFailed, Undecided
from migrate.migration import Context
from migrate.phases.evidence import keep_logs
from migrate.report import Fill
from migrate.wire import protocol
from migrate.wire.values import LateFrame
from transport.framing import MAX_PAYLOAD

#: The most that one Go message carries (LateFrame of migrate/wire/values.py, MAX_HEADER of
#: transport/framing.py).
MOST_INTERFACES, MOST_FRAMES = 64, 16384


def let_go(move: Context) -> None:
    """Detach the source's engine from the container (podman: end its conmon).

    Raises what the engine raises; the migration can still be rolled back then. No later step can be
    followed by a roll-back.
    """
    move.runtime.let_go(move.container)


def commit(move: Context) -> None:
    """Kill the source's init, see it dead, and then give the target its GO; never in another order.

    Raises Undecided or ResumeFailed. If it raises anything else, the source may have been killed,
    too: `stranded` ends the migration then.
    """
    with move.phase("commit"):
        _kill(move)
        answer = _go(move)
    move.advance(State.RESUMED)
    with _optional(move, "the resume could not be entered into the report"):
        move.awake.close()
        _settle(move, answer)


def stranded(move: Context, error: BaseException) -> MigrateError:
    """End a migration after a kill, or a possible one, without word that the target has resumed.

    All that the source has of the container stays on the source: its files, its network, and its
    engine's record of it. The engine shows the container as stopped and does not start it again by
    itself. Returns the error to report to the user, which is `error` itself if that is Undecided or
    ResumeFailed.
    """
    assert move.dump is not None
    with _optional(move, "the source's processors are kept awake until this program ends"):
        move.awake.close()
    with _optional(move, "CRIU on the source was not ended"):
        move.dump.bury()
    keep_logs(move)
    with _optional(move, "not cleaned up on the source"):
        move.tidy.close()
    with _optional(
        move, "the source's engine may show the container as running, or start it again"
    ):
        move.runtime.keep(move.container)
    if isinstance(error, Undecided | ResumeFailed):
        return error
    told_go = move.state is not State.KILLING
    return causes.marked(_undecided(move, causes.failure(error), told_go=told_go), error)


def _kill(move: Context) -> None:
    """Send the source's init SIGKILL and wait until it is dead.

    Raises Undecided if the signal could not be sent, or if the init is not dead within `death_s`.
    """
    move.advance(State.KILLING)
    killed_ns = time.monotonic_ns()
    try:
        move.init.kill()
    except OSError as error:
        raise _not_dead(move, f"could not be sent SIGKILL ({error})") from error
    # The links go down at once: if this program died now, CRIU would close the dead container's
    # sockets, and their FINs must not reach peers that the target is about to serve. A thread takes
    # them down, because that takes the kernel milliseconds.
    with _optional(move, "the container's links on the source were not taken down"):
        _begin_links_down(move)
    if not move.init.wait_dead(limit_s := move.options.limits.death_s):
        raise _not_dead(move, f"was sent SIGKILL {limit_s:g} s ago and is not dead yet")
    move.advance(State.KILLED)
    with _optional(move, "the report lacks the instant of the kill"):
        move.stage("source killed", "source", killed_ns)


def _go(move: Context) -> protocol.Resumed | None:
    """Give the target its GO, and return its answer.

    Returns None if the target obeyed, but its answer could not be read.
    Raises Undecided if the target does not say whether it obeyed, ResumeFailed if it could not
    resume the container.
    """
    go = _say_go(move)
    try:
        return move.agent.answer(go, timeout_s=move.options.limits.go_s)
    except AgentFailed as error:
        raise causes.resume_failed(error, move.target.hostname) from error
    except Exception as error:  # noqa: BLE001  (what matters is whether it obeyed)
        _ask_again(move, error)
        return None


def _ask_again(move: Context, unread: Exception) -> None:
    """Find out by another request whether the target obeyed GO. Raises as `_go` does if it did not.

    The agent answers requests in order and obeys none after a failure. If it answers this one, it
    has obeyed GO.
    """
    try:
        move.agent.request(protocol.Ping(), timeout_s=move.options.limits.ask_s)
    except AgentFailed as error:
        raise causes.resume_failed(error, move.target.hostname) from error
    except Exception as error:
        what = (
            "the target did not say whether it obeyed, "
            f"after the source had been stopped ({unread})"
        )
        raise causes.marked(_undecided(move, what), unread) from error
    move.note(f"the target runs the container, but its answer to that could not be read: {unread}")


def _say_go(move: Context) -> protocol.Go:
    """Send GO, with the frames that came for the container in the freeze if they can be sent.

    Raises Undecided if the link is lost.
    """
    frames: list[tuple[int, bytes]] = []
    with _optional(move, "frames that came in the freeze were lost; their senders try again"):
        frames = _frames(move)
    try:
        try:
            return _ask_to_go(move, frames)
        except AgentGone:
            raise
        except Exception as error:  # noqa: BLE001  (nothing was sent)
            move.note(
                f"frames that came in the freeze were not sent: {error or type(error).__name__}"
            )
            return _ask_to_go(move, [])
    except AgentGone as error:
        what = f"the link was lost after the source had been stopped ({error})"
        raise causes.marked(_undecided(move, what, told_go=False), error) from error


def _ask_to_go(move: Context, frames: list[tuple[int, bytes]]) -> protocol.Go:
    go = protocol.Go(frames=tuple(LateFrame(index, len(frame)) for index, frame in frames))
    move.agent.ask(go, [frame for _, frame in frames])
    return go


def _frames(move: Context) -> list[tuple[int, bytes]]:
    """Return the frames that came for the container in the freeze, as (interface's index, frame).

    Frames that do not fit into one message are dropped; their senders send them again.
    """
    found: list[tuple[int, bytes]] = []
    room = MAX_PAYLOAD
    for index, frames in enumerate(move.frames[:MOST_INTERFACES]):
        for frame in frames.take():
            if len(frame) <= room and len(found) < MOST_FRAMES:
                room -= len(frame)
                found.append((index, frame))
    return found


def _settle(move: Context, answer: protocol.Resumed | None) -> None:
    """Enter the freeze into the report: its stages, and the downtime.

    The downtime runs from the release of the dump to the resume. Without the target's answer only
    the source's stages are entered.
    """
    assert move.dump is not None
    for stamp in move.dump.stamps:
        move.stage(stamp.name, "source", stamp.at_ns)
    if answer is None:
        return
    for name, at_ns in (("go", answer.go_ns), ("resumed", answer.resumed_ns), *answer.stamps):
        move.stage(name, "target", at_ns)
    at_us = {(stage.host, stage.name): stage.at_us for stage in reversed(move.report.freeze)}
    move.report.downtime_us = at_us["target", "resumed"] - at_us["source", "request DUMP"]


def clean_up(move: Context) -> None:
    """Finish on the target, and remove from both hosts all that is not needed any more.

    On the source that is what the container has left, and what only the migration needed. One
    failure keeps nothing else from being removed; LeftBehind is raised at the end.
    """
    failed: list[Exception] = []
    with move.phase("clean up"):
        with _collected(failed):
            if move.output is not None:
                move.report.add_bytes("output", move.output.copy())  # what the engine logged late
        # The target's part comes first: clean-up on the source takes processor time, which the
        # resumed container may want if both hosts share processors.
        with _collected(failed):
            _finish(move)
        _leave_source(move, failed)
    if failed:
        reasons = "; ".join(causes.failure(error) for error in failed)
        raise causes.marked(LeftBehind(move.target.hostname, reasons), failed[0]) from failed[0]
    move.advance(State.DONE)


def _finish(move: Context) -> None:
    """Have the target fill in all memory and clean up, and enter its figures into the report."""
    finished = move.agent.request(protocol.Finish())
    for name, at_ns in finished.stamps:
        move.stage(name, "target", at_ns)
    move.report.fill = Fill.of(finished.filled_bytes, *finished.waits)


def _leave_source(move: Context, failed: list[Exception]) -> None:
    """Remove the dead container and its network from the source; append errors to `failed`."""
    with _collected(failed):
        assert move.dump is not None
        move.dump.bury()
    with _collected(failed):
        move.tidy.close()
    with _collected(failed):
        move.runtime.leave(move.container, shared=move.shared_rootfs)
    with _collected(failed):
        if move.network_parts is not None:
            move.network_parts.remove()


def _begin_links_down(move: Context) -> None:
    """Take the dead container's links down in a thread; note a failure when `move.tidy` closes."""
    executor = ThreadPoolExecutor(1)
    done = executor.submit(_links_down, move)
    executor.shutdown(wait=False)

    def join() -> None:
        with _optional(move, "the container's links on the source were not taken down"):
            done.result()

    move.tidy.callback(join)


def _links_down(move: Context) -> None:
    for interface in move.network.interfaces if move.network else ():
        with contextlib.suppress(NetworkError):  # the link went with the namespace
            link.set_link(interface.host_name, up=False)


def _not_dead(move: Context, why: str) -> Undecided:
    what = f"process {move.init.pid} on the source {why}"
    return _undecided(move, what, told_go=False, more=" --source-is-dead, when it is")


def _undecided(move: Context, what: str, *, told_go: bool = True, more: str = "") -> Undecided:
    command = f"migratectl recover {move.migration_id} --on {move.connection.destination}"
    advice = f"ask it by '{command}', and have it go by --go{more}"
    return Undecided(move.migration_id, move.target.hostname, what, advice, told_go=told_go)


@contextlib.contextmanager
def _optional(move: Context, what: str) -> Iterator[None]:
    """Run the block; if it fails, note `what` and the error, and go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (the target is about to get its GO, or has)
        move.note(f"{what}: {error or type(error).__name__}")


@contextlib.contextmanager
def _collected(failed: list[Exception]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001  (reported by LeftBehind)
        failed.append(error)
